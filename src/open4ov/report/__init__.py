"""What a run achieved, for a person: one HTML page, one table (paper §6)."""
