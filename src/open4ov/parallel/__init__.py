"""What is laid over a model from outside to train it at scale (paper §5.1). `model/` knows nothing of it."""
