"""Scoring what models wrote: answers, metrics, and what is reported of them."""
