"""Samples of a version and of labelled images, as joint batches."""
