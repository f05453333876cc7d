"""Teachers from Transformers."""
