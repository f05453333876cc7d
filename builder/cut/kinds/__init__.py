"""What a kind of labels is at the cut: a file for each, chosen in `kind`."""
