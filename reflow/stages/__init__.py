"""The stages: one module per command, each with a `run`. They never import each other."""
