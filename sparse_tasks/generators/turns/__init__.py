"""Sessions: several questions, one after the other, on one context."""
