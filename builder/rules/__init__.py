"""What is kept, ignored and dropped, and why: by rules, then by people."""
