"""Recipes: the settings of all stages, how they are read, and the built-in ones, one .toml file each."""
