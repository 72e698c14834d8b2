"""Small, pure modules that every other package uses."""
