"""Preference pairs (paper §4.1.2), made up, given by people or judged, and the training on them (eq. 13)."""
