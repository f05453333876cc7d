"""Pool, predictions and rules become a version."""
