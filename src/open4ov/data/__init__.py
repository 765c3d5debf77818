"""Data construction (paper §2): from images to judged and verified samples."""
