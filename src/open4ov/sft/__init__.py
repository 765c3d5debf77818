"""Collaborative curriculum supervised fine-tuning (paper §3.2.3)."""
