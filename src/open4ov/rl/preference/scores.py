"""Log-probabilities of both responses of preference pairs: prompt and picture are computed once for the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from open4ov import training
from open4ov.engine import VisionCache
from open4ov.model import Qwen3VL, VisionFeatures
from open4ov.rl.policy import Policy, cost
from open4ov.rl.preference.prompts import Prompts
from open4ov.rl.preference.screen import texts
from open4ov.rl.prefix import SharedPrefix, log_probs, scoring
from open4ov.rl.rollout import by_document
from open4ov.sample import Sample
from open4ov.training_pass import Pass, Spread, gathered, in_step, most, score, shared_out

Scores = tuple[Tensor, Tensor]
"""Summed log-probabilities [B, 2] (nats; chosen, rejected) and tokens [B, 2], on the model's device"""


TOGETHER = 32
"""Pairs whose pictures are encoded at once"""


class Scorer:
    """A model with what pairs are encoded by. The pictures' features are kept: the tower is frozen. `precision`: what
    both are computed in (`training.precision`).

    On many processes each scores some of the pairs, and encodes the pictures of those; each pair's by themselves."""

    def __init__(self, model: Policy, prompts: Prompts, precision: str = "fp32") -> None:
        self.model, self.prompts = model, prompts
        self.precision = partial(training.precision, precision, model.device)
        self.pictures = VisionCache(_seeing(model), prompts.processor, watch=False)
        self._alone = True

    def look(self, pairs: Sequence[Sample]) -> None:
        """Encodes the pictures of all pairs, in their order. Where the cache cannot hold them all, those of each pair
        are encoded by themselves as they come: either way the same bits, whichever pairs were scored before."""
        if isinstance(self.model, Spread):
            return
        new = list({tuple(pair.images): pair for pair in reversed(pairs) if pair.images}.values())[::-1]
        for first in range(0, len(new), TOGETHER):
            some = new[first : first + TOGETHER]
            self._features(some)
            held = self.pictures.statistics.bytes / (first + len(some))
            if held * len(new) > self.pictures.limit:
                self.pictures.clear()
                return
        self._alone = False

    def __call__(self, pairs: Sequence[Sample]) -> Scores:
        """With gradient, where one is asked for, by a model in this process. Raises ValueError for a sample that is no
        pair."""
        assert not isinstance(self.model, Spread), "a model on many processes gives gradients by passes"
        shared = self._laid(pairs)
        with self.precision():
            logp, _ = log_probs(self.model, shared)
        return _summed(logp, shared.response, len(pairs))

    def passing(self, pairs: Sequence[Sample], weight: float, objective: Callable[[Tensor, Tensor], Tensor]) -> Pass:
        """The pass over the pairs with an objective of their sums and lengths [B, 2]. Raises as `__call__`."""
        shared = self._laid(pairs)

        def of_tokens(logp: Tensor, entropies: Tensor) -> Tensor:
            return objective(*_summed(logp, shared.response, len(pairs)))

        return scoring(shared, self.model.config, weight=weight, objective=of_tokens)

    def _laid(self, pairs: Sequence[Sample]) -> SharedPrefix:
        responses = [[self.prompts.response(text) for text in texts(pair)] for pair in pairs]
        groups = [[pair] for pair in pairs] if self._alone else [list(pairs)]
        features = [own for group in groups for own in self._features(group)]
        shared = SharedPrefix.build([*zip(map(self.prompts, pairs), features, strict=True)], responses)
        return shared.to(self.model.device)

    def _features(self, pairs: Sequence[Sample]) -> list[VisionFeatures | None]:
        """Of each pair's pictures; those that are not kept are encoded together. No file is opened for kept ones."""
        with self.precision():  # which also names what is kept
            return self._found(pairs)

    def _found(self, pairs: Sequence[Sample]) -> list[VisionFeatures | None]:
        documents = [self.prompts(pair) for pair in pairs]
        grids = [(f, r, c) for document in documents for f, r, c in document.grids.tolist()]
        names = [name for pair in pairs for name in self.prompts.names(pair)]
        found = [*map(self.pictures.find, names, grids)]
        if None in found:
            seen = [visual for pair in pairs for visual in self.prompts.seen(pair)]
            return by_document(documents, self.pictures.features(documents, seen, names))
        return by_document(documents, [one for one in found if one is not None])

    @torch.no_grad()
    def all(self, pairs: Sequence[Sample], tokens: Sequence[int], batch: int, budget: int | None) -> Scores:
        """Of many pairs, `batch` at a time, without gradient; on the CPU, of all pairs on every process."""
        own, found = self.share(pairs, range(len(pairs))), list[tuple[list[int], Tensor, Tensor]]()
        batches = [own[first : first + batch] for first in range(0, len(own), batch)]
        some = [part for one in batches for part in parts(one, tokens, budget)]
        (count,) = most(self.model, [len(some)])
        for part in some:
            shared = self._laid([pairs[number] for number in part])
            logp, _ = score(self.model, scoring(shared, self.model.config), self.precision)
            sums, lengths = _summed(logp, shared.response, len(part))
            found.append((part, sums.float().cpu(), lengths.cpu()))
        for idle in in_step(self.model, (), count - len(some)):
            score(self.model, idle, self.precision)
        sums, lengths = torch.zeros(len(pairs), 2), torch.zeros(len(pairs), 2, dtype=torch.long)
        for numbers, *scores in gathered(self.model, found):
            sums[numbers], lengths[numbers] = scores
        return sums, lengths

    def share(self, pairs: Sequence[Sample], numbers: Sequence[int]) -> list[int]:
        """Of the pairs of these numbers those that this process computes, shared out by what they cost."""

        def costs() -> list[float]:
            lengths = [[len(self.prompts.response(text)) for text in texts(pairs[number])] for number in numbers]
            return [
                cost(self.model.config, self.prompts(pairs[number]), own, True)
                for number, own in zip(numbers, lengths, strict=True)
            ]

        own = shared_out(self.model, costs, len(numbers))
        return [numbers[place] for place in sorted(place for place in own if place is not None)]


def _summed(logp: Tensor, response: Tensor, pairs: int) -> Scores:
    sums = logp.new_zeros(2 * pairs).index_add(0, response, logp)
    lengths = response.new_zeros(2 * pairs).index_add(0, response, torch.ones_like(response))
    return sums.view(-1, 2), lengths.view(-1, 2)


def _seeing(model: Policy) -> Qwen3VL:
    if not isinstance(model, Spread):
        return model
    from open4ov.rl.generation.spread import seeing  # brings much in

    return seeing(model)


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
