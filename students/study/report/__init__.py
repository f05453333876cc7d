"""What a person sees of a study: its page, plots and tables."""
