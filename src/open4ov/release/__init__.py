"""What one would publish of a run: weights, cards, data sets and checksums (`open4ov export`)."""
