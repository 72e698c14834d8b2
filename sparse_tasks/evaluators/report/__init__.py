"""One page on the cost of sparse attention in some runs: summary first, settings last."""
