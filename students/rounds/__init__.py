"""Teacher, student, next teacher: rounds of self-training."""
