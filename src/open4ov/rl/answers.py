"""The verifier of RL (paper §4.1.1): another name of `open4ov.answers`, which evaluation scores with too, so that the
two never disagree. Nothing of this package imports it; recipes may name it."""

from open4ov.answers import agrees, boxed, correct, normalise, number, same, words

__all__ = ["agrees", "boxed", "correct", "normalise", "number", "same", "words"]
