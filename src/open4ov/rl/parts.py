"""What one pass of an update computes: as many whole groups as fit, or some responses of a group that does not.

Shapes: B responses and R response tokens of one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from open4ov.model import Encoded, VisionFeatures
from open4ov.model.draft import Visual
from open4ov.model.processing import visuals
from open4ov.rl.prefix import SharedPrefix
from open4ov.rl.rollout import Group

Encoding = tuple[Encoded, VisionFeatures | None]
"""A prompt, and the features of its pictures where the tower is frozen"""
Pixels = Callable[[Sequence[Visual], torch.device], Tensor]
"""`Processor.pixels`"""


@dataclass
class Part:
    """What one pass computes: groups, or responses of a group that is too large for one pass. On the model's device."""

    shared: SharedPrefix
    advantages: Tensor
    """[B] float64"""
    rollout_logp: Tensor
    """[R] log p as the rollout had it"""
    pixels: Tensor | None
    """Patches of the pictures, where the tower is trained"""
    names: list[str]
    """Ids of the tasks"""
    old_logp: Tensor | None = None
    """[R] log p under the policy that sampled them; None: that of the pass itself, which comes before any step"""

    @property
    def responses(self) -> int:
        return len(self.advantages)

    @property
    def tokens(self) -> int:
        return len(self.shared.response)


def parts(
    groups: Sequence[Group],
    encoded: Sequence[Encoding],
    limit: float,
    device: torch.device,
    pixels: Pixels | None = None,
) -> Iterator[Part]:
    """One mini-batch as passes of at most `limit` tokens (`rl.max_update_tokens`), on `device`: whole groups as far as
    they fit, one that does not by some of its responses at a time. A single response with its prompt is never cut.
    `encoded`: the groups' prompts. `pixels`: patches of pictures, where the tower is trained."""
    pieces = [
        (place, rows)
        for place, group in enumerate(groups)
        for rows in _within(len(encoded[place][0]), [len(r.token_ids) for r in group.responses], limit)
    ]
    chosen: list[tuple[int, list[int]]] = []
    filled = 0
    for place, rows in pieces:
        size = len(encoded[place][0]) + sum(len(groups[place].responses[row].token_ids) for row in rows)
        if chosen and filled + size > limit:
            yield _part(groups, encoded, chosen, device, pixels)
            chosen, filled = [], 0
        chosen.append((place, rows))
        filled += size
    if chosen:
        yield _part(groups, encoded, chosen, device, pixels)


def _part(
    groups: Sequence[Group],
    encoded: Sequence[Encoding],
    chosen: Sequence[tuple[int, list[int]]],
    device: torch.device,
    pixels: Pixels | None,
) -> Part:
    responses = [[groups[place].responses[row] for row in rows] for place, rows in chosen]
    shared = SharedPrefix.build(
        [encoded[place] for place, _ in chosen], [[r.token_ids for r in own] for own in responses]
    )
    tasks = [groups[place].task for place, _ in chosen]
    seen = [] if pixels is None else [one for t in tasks for one in visuals(t.prompt, t.images)]
    return Part(
        shared.to(device),
        torch.cat([groups[place].advantages[rows] for place, rows in chosen]).to(device),
        torch.tensor([value for own in responses for r in own for value in r.log_probs]).to(device),
        pixels(seen, device) if pixels is not None and seen else None,
        [task.sample.id for task in tasks],
    )


def _within(prompt: int, lengths: Sequence[int], limit: float) -> list[list[int]]:
    """The responses of a group that have tokens, by number, in runs that fit into one pass with the prompt."""
    runs: list[list[int]] = []
    filled = 0
    for row, length in enumerate(lengths):
        if not length:
            continue
        if not runs or prompt + filled + length > limit:
            runs.append([])
            filled = 0
        runs[-1].append(row)
        filled += length
    return runs
