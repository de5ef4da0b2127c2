"""Built-in recipes, one .toml file each."""
