"""Tests of what is in ``studies``."""
