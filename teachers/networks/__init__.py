"""The student's own networks, which are the next round's teachers."""
