"""Look at, compare, check, mend and remove complete versions."""
