"""What a person sees of a version: card, page, pictures."""
