"""Tools that all prose is made with: grammars, names and words."""
