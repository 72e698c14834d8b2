"""Computations on tensors that several methods share."""
