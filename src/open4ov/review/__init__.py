"""Looking at a data set, and what experts say of its samples (paper §2.2.4: what the judges let through is data)."""
