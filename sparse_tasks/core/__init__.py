"""Small, pure things that every room uses."""
