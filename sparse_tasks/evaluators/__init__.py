"""Scoring of model outputs: answers, metrics, and reports."""
