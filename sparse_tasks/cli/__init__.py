"""The command line: one file a command, which parses, calls its room, and prints."""
