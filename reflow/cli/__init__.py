"""The command line: commands, their parameters, and the overrides that options stand for."""
