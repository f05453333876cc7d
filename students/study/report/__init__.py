"""What a person sees of a study: its page, plots and tables, and its verdicts on the claims of the paper."""
