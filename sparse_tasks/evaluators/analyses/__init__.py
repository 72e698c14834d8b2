"""From scored runs to conclusions: one analysis a file, each a function from ``Runs`` to a table."""
