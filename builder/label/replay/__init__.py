"""Predictions that other tools stored stand in for a model: a file for each format."""
