"""Code tasks: a repository of Python modules that call each other."""
