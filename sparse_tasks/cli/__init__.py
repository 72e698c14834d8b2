"""The command line: one file per command, which parses, calls its package, and prints."""
