"""Data admission (paper §3.2.2): what may be trained on, and how much of it."""
