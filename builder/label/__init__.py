"""A teacher labels chunks; what it says is stored raw."""
