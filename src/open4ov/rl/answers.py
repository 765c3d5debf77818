"""The verifier of RL (paper §4.1.1): the same one that evaluation scores with, so that the two never disagree."""

from open4ov.answers import agrees, boxed, correct, normalise, number, same, words

__all__ = ["agrees", "boxed", "correct", "normalise", "number", "same", "words"]
