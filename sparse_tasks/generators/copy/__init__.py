"""Copying tasks: a stretch of the context is to be given back as it is."""
