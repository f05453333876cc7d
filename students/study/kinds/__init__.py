"""What a kind of labels is in a study: a file for each, chosen in `choose`."""
