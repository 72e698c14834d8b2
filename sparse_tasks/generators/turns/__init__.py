"""Sessions: several consecutive questions on one context."""
