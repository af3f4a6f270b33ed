"""Recipes: YAML to typed options. The unions here are the registry of everything that exists."""
