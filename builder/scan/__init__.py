"""A source of images becomes a pool."""
