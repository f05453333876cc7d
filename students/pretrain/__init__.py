"""Self-supervised pre-training (SimCLR)."""
