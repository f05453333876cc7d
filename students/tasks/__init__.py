"""What a kind of labels is in training: a file for each, chosen in `choose`."""
