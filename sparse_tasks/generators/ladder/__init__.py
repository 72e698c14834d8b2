"""Ladders: one question in levels over one story, so that a loss shows where it arises."""
