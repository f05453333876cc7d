"""People correct a version, with any tool."""
