"""What `build-pseudo` reads, checked whole."""
