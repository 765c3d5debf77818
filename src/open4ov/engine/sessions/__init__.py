"""Conversations that are computed while they are still being said (paper §5.2)."""
