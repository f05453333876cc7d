"""A version in another tool's format: a file for each."""
