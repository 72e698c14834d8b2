"""The methods, one a file: whatever stands here and registers itself is a method."""
