"""Augmentations S1 to S4 of images with their labels."""
