"""Networks by name, for every room above."""
