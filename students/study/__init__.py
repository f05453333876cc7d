"""Studies: many trainings under one plan, and what their figures say."""
