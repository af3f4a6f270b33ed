"""Overlap and surface metrics with a written policy for empty masks; bootstrap over patients."""
