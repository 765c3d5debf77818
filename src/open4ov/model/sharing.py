"""Documents about the same picture in one pack: what they have in common at their beginning is laid out once.

Several questions about a picture begin with the same tokens: the turn's opening, the picture, often words of the
question. Causal attention gives these the same hidden states in every document, and none of them is predicted. So one
document is whole, and the others bring the tokens that follow (`prefix.py` attends). Loss and gradients are those of
whole documents up to rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .packing import Encoded, Pack, pack
from .prefix import Prefix


class Beginning(NamedTuple):
    """What documents must have in common to share it: every token up to the last picture before the first target."""

    key: str
    """Equal for equal tokens and pictures"""
    tokens: int
    images: int
    """Pictures and videos in it"""


def beginning(document: Encoded, visual: Tensor, names: Sequence[str], merge: int) -> Beginning | None:
    """The beginning of a document; None where no picture stands before its first target.

    visual: Bool [T], the placeholders; names: of its pictures and videos, the same for the same content; merge: side of
    the patches that make a token.
    """
    places = visual.nonzero()[:, 0]
    ends = places[(document.grids.prod(1) // merge**2).cumsum(0) - 1] if len(document.grids) else places
    images = int((ends + 1 < _most(document)).sum())
    if not images:
        return None
    tokens = int(ends[images - 1]) + 1
    digest = hashlib.sha256(document.input_ids[:tokens].numpy().tobytes())
    digest.update("\n".join(names[:images]).encode())
    return Beginning(digest.hexdigest(), tokens, images)


def lay(documents: Sequence[Encoded], beginnings: Sequence[Beginning | None]) -> tuple[Pack, list[int]]:
    """The documents in one pack, and the order in which they lie there: those that begin like one before them come
    last, without what they share. Raises ValueError as `pack` does."""
    groups: dict[str, list[int]] = {}
    for number, found in enumerate(beginnings):
        if found is not None:
            groups.setdefault(found.key, []).append(number)
    several = [group for group in groups.values() if len(group) > 1]
    after = {number for group in several for number in group[1:]}
    order = [number for number in range(len(documents)) if number not in after]
    starts, total = dict[int, int](), 0
    for number in order:
        starts[number] = total
        total += len(documents[number])
    laid, prefixes = [documents[number] for number in order], list[Prefix]()
    for group in several:
        found = beginnings[group[0]]
        assert found is not None
        tokens = _common([documents[number] for number in group], found.tokens)
        own = [_without(documents[number], tokens, found.images) for number in group[1:]]
        prefixes.append(Prefix(starts[group[0]], tokens, tuple(len(document) for document in own)))
        laid += own
        order += group[1:]
    joined = pack(laid)
    return (replace(joined, prefixes=tuple(prefixes)) if prefixes else joined), order


def _most(document: Encoded) -> int:
    """Most tokens that a document may share: not the one before its first target, whose hidden state predicts."""
    targets = document.targets.nonzero()[:, 0]
    return (int(targets[0]) if len(targets) else len(document)) - 1


def _common(documents: Sequence[Encoded], least: int) -> int:
    """Tokens that the documents have in common at their beginning; they are alike up to `least`."""
    most = min(_most(document) for document in documents)
    first = documents[0].input_ids[least:most]
    alike = torch.stack([document.input_ids[least:most] == first for document in documents[1:]]).all(0)
    return least + int(alike.long().cumprod(0).sum())


def _without(document: Encoded, tokens: int, images: int) -> Encoded:
    """What is left of a document without its first tokens and images."""
    patches = int(document.grids[:images].prod(1).sum())
    return replace(
        document,
        input_ids=document.input_ids[tokens:],
        positions=document.positions[:, tokens:],
        targets=document.targets[tokens:],
        pixels=document.pixels[patches:],
        grids=document.grids[images:],
    )
