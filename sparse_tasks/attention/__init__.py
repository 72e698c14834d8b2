"""Training-free sparse attention: methods, the indices that they choose, and the kernels that run them.

The only room that needs torch; it is imported by name, never by the rest of the package at its start.
"""
