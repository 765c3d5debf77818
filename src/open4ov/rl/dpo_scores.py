"""Log-probabilities of both responses of preference pairs: prompt and picture are computed once for the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor

from open4ov.engine import VisionCache
from open4ov.model import Processor, Qwen3VL
from open4ov.rl.dpo_screen import response_tokens, texts
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.rl.rollout import encoded_prompts
from open4ov.rl.tasks import Task
from open4ov.sample import Sample

Scores = tuple[Tensor, Tensor]
"""Summed log-probabilities [B, 2] (nats; chosen, rejected) and tokens [B, 2]"""


TOGETHER = 32
"""Pairs whose pictures are encoded at once"""


class Scorer:
    """A model with what pairs are encoded by. The pictures' features are kept: the tower is frozen."""

    def __init__(self, model: Qwen3VL, processor: Processor, image: Callable[[str], Image.Image]) -> None:
        self.model, self.processor, self.image = model, processor, image
        self.pictures = VisionCache(model, processor, watch=False)
        self._alone = True

    def look(self, pairs: Sequence[Sample]) -> None:
        """Encodes the pictures of all pairs, in their order. Where the cache cannot hold them all, those of each pair
        are encoded by themselves as they come: either way the same bits, whichever pairs were scored before."""
        new = list({tuple(pair.images): pair for pair in reversed(pairs) if pair.images}.values())[::-1]
        for first in range(0, len(new), TOGETHER):
            tasks = self._tasks(new[first : first + TOGETHER])
            encoded_prompts(self.processor, tasks, self.pictures)
            held = self.pictures.statistics.bytes / (first + len(tasks))
            if held * len(new) > self.pictures.limit:
                self.pictures.clear()
                return
        self._alone = False

    def __call__(self, pairs: Sequence[Sample]) -> Scores:
        """With gradient, where one is asked for. Raises ValueError for a sample that is no pair."""
        tasks = self._tasks(pairs)
        if self._alone:
            for task in tasks:
                encoded_prompts(self.processor, [task], self.pictures)
        responses = [[response_tokens(self.processor, text) for text in texts(pair)] for pair in pairs]
        groups = SharedPrefix.build(encoded_prompts(self.processor, tasks, self.pictures), responses)
        logp, _ = log_probs(self.model, groups)
        sums = logp.new_zeros(2 * len(pairs)).index_add(0, groups.response, logp)
        return sums.view(-1, 2), torch.bincount(groups.response).view(-1, 2)

    def _tasks(self, pairs: Sequence[Sample]) -> list[Task]:
        return [Task(pair, pair.messages[:-1], [self.image(sha) for sha in pair.images]) for pair in pairs]

    @torch.no_grad()
    def all(self, pairs: Sequence[Sample], tokens: Sequence[int], batch: int, budget: int | None) -> Scores:
        """Of many pairs, `batch` at a time, without gradient; on the CPU."""
        scores = [
            tuple(part.cpu() for part in self([pairs[i] for i in part]))
            for first in range(0, len(pairs), batch)
            for part in parts(range(first, min(first + batch, len(pairs))), tokens, budget)
        ]
        if not scores:
            return torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.long)
        return torch.cat([one[0] for one in scores]), torch.cat([one[1] for one in scores])


def parts(batch: Sequence[int], tokens: Sequence[int], budget: int | None) -> Iterator[list[int]]:
    """A batch of pairs (their numbers) cut into parts of at most `budget` tokens, in order; a longer pair stands alone.
    Without a budget the whole batch is one."""
    part, room = list[int](), budget
    for number in batch:
        if part and room is not None and tokens[number] > room:
            yield part
            part, room = [], budget
        part.append(number)
        room = None if room is None else room - tokens[number]
    if part:
        yield part
