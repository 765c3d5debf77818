"""Several servers at one address: sessions and pictures go where they have been seen (paper §5.2)."""
