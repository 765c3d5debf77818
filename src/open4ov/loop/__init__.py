"""Several rounds of one recipe, each planned by what the one before it was weak in (paper §3.2.2, Fig. 1)."""
