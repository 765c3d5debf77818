"""When two short texts say the same: by their words, and by their embeddings.

`key` is what remains of a text without case, punctuation, function words, plural and word order. Texts of one key are
the same; beyond that the cosine of embeddings decides, where the caller's threshold allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Embedder = Callable[[list[str]], Floats]

_FUNCTION = frozenset(
    ["a", "an", "the", "of", "on", "in", "at", "to", "for", "and", "or", "is", "are", "was", "were", "be", "it", "its",
     "this", "that", "these", "those", "with", "by", "from", "as"]
)  # fmt: skip
_TOKEN = re.compile(r"[^\W_]+")


def key(text: str) -> str:
    """The content words of a text, singular, in alphabetical order. Chinese and digits stay as they are.

    A text of function words or punctuation only keeps its own spelling, so that two such texts stay apart.
    """
    words = [_singular(word) for word in _TOKEN.findall(text.casefold()) if word not in _FUNCTION]
    return " ".join(sorted(words)) or " ".join(text.casefold().split())


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def cosines(embed: Embedder, texts: Sequence[str]) -> Floats:
    """[N, N] cosines between texts; a text that embeds to zero is like nothing, not even itself."""
    rows = np.array(embed(list(texts)), dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms == 0, 1, norms)
    return rows @ rows.T
