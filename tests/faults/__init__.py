"""Faults injected into real commands, and what became of each: `make faults` prints the table anew."""
