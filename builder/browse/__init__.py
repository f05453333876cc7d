"""A version in FiftyOne."""
