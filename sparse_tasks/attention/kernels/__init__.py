"""Kernels: each a public function with its checks and its readable torch twin.

``triton/`` and ``gluon/`` contain the fast implementations.
"""
