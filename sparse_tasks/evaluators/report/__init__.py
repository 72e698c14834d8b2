"""One page that says what sparse attention cost in some runs: summary first, settings last."""
