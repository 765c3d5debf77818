"""The hybrid reward (paper §4.2.2): correctness (eq. 1), diversity (eq. 7-8) and length (eq. 10).

How they combine (the paper leaves it open): the correctness channel gives an advantage (`advantage.pass_at_k` in the
first part of the run, `advantage.diversity` of the diversity-weighted reward after it); the length channel is added as
`length_weight` times the group-centred length reward. Correctness therefore stays exactly 0 or 1 for Pass@k.

Another reward is used by naming a function `(response: str, sample: Sample) -> float` in `rl.reward`; another encoder
by naming a function `(texts: list[str]) -> Tensor [n, D]` of unit rows in `rl.embedder`.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from open4ov.rl import answers
from open4ov.sample import Sample

_EMBEDDING = 4096  # buckets of the hashing encoder


def exact(response: str, sample: Sample) -> float:
    """Pass@1 reward (eq. 1): 1 if the response's last \\boxed{} holds the sample's answer or an alias, else 0.

    Raises ValueError for a sample without a reference answer.
    """
    if sample.answer is None:
        raise ValueError(f"sample {sample.id} has no reference answer to reward with")
    return float(answers.correct(response, sample.answer, sample.aliases))


def length(lengths: Tensor | Sequence[int], length_max: int, length_soft: int) -> Tensor:
    """Soft overlong reward (eq. 10): 0 up to L_max - L_soft tokens, falling linearly to -1 at L_max, -1 beyond.

    lengths: any shape, response lengths in tokens. Gives the same shape in float64.
    Raises ValueError unless 0 < L_soft <= L_max.
    """
    if not 0 < length_soft <= length_max:
        raise ValueError(f"length reward needs 0 < L_soft <= L_max, got L_soft={length_soft}, L_max={length_max}")
    tokens = torch.as_tensor(lengths, dtype=torch.float64)
    return ((length_max - length_soft - tokens) / length_soft).clamp(-1, 0) + 0.0


def diversity(rewards: Tensor, embeddings: Tensor, threshold: float = 0.4, floor: float = 0.1) -> Tensor:
    """Diversity-weighted rewards of one group (eq. 8): r_i * Norm(Div_i).

    rewards [N]; embeddings [N, D] with unit rows. Norm is DARLING's: the score of eq. 7 is already in [0, 1], and is
    floored at `floor`, so that a right answer of a uniform group still earns something.
    """
    return rewards.to(torch.float64) * diversity_scores(embeddings, threshold).clamp(min=floor)


def diversity_scores(embeddings: Tensor, threshold: float = 0.4) -> Tensor:
    """Div of each of N responses (eq. 7): the mean distance to the N - 1 others; zeros for a single response.

    The distance is 1 if the cosine distance of two responses is over `threshold`, else 0 (the paper decides similarity
    by a threshold; DARLING by a trained classifier). Where similarity is transitive this is DARLING's
    (n - |own cluster|) / (n - 1). The group's wrong responses count as neighbours too.
    """
    count = len(embeddings)
    if count < 2:
        return torch.zeros(count, dtype=torch.float64)
    rows = embeddings.to(torch.float64)
    apart = (1 - rows @ rows.T > threshold).to(torch.float64)
    apart.fill_diagonal_(0)
    return apart.sum(-1) / (count - 1)


def ngram_embedding(texts: list[str]) -> Tensor:
    """The embedded encoder: hashed word and character n-grams, [n, 4096], unit rows (empty texts: one fixed row).

    It stands where the paper has DeBERTa and sees wording, not meaning. Words and word pairs of lower-cased text, and
    for scripts without spaces characters and character pairs; counts are damped by a square root. With the default
    threshold 0.4, one changed word in a sentence of six is "similar", another order of working "different".
    """
    rows = torch.zeros(len(texts), _EMBEDDING, dtype=torch.float64)
    for row, text in zip(rows, texts, strict=True):
        words = re.findall(r"[一-鿿]|[^\W_]+|[^\w\s]", text.lower())
        grams = [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
        for gram in grams or [""]:
            row[int.from_bytes(hashlib.blake2s(gram.encode(), digest_size=4).digest(), "little") % _EMBEDDING] += 1
    rows = rows.sqrt()
    return rows / rows.norm(dim=-1, keepdim=True)
