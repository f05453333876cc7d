"""How good a run's predictions are, by the measures of the field."""
