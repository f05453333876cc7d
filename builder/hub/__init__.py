"""A version on the Hugging Face Hub and back."""
