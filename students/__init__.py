"""The student: joint training on human and pseudo-labels, evaluation, rounds, and studies of both."""
