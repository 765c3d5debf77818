"""What a model can do before and after each stage (paper §6)."""
