"""The command line: verbs, and the text that they print."""
