"""Tasks over one simulated world."""
