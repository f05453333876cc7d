"""The training loop, its losses, its recipe and its run folder."""
