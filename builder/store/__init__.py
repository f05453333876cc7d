"""How anything reaches the disk whole, and what a version says of itself."""
