"""Encode, prefill and decode as stages, in one process or in several (paper §5.2)."""
