"""The command line: its verbs, the progress display, and the registry as list, card and documentation page."""
