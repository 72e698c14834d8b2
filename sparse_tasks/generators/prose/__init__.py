"""Shared tools for prose: grammars, names and words."""
