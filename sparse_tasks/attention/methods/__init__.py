"""The methods, one per file, each of which registers itself."""
