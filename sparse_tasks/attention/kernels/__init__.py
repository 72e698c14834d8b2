"""Kernels: each a public function with its checks and its readable torch twin.

``triton/`` and ``gluon/`` hold the fast ones.
"""
