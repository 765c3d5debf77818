"""Samples of SFT beside the prompts of RL (paper §4.1.1: "to prevent forgetting of SFT-acquired knowledge").

A mini-batch of an update also gets the cross-entropy of some samples of SFT's general set, weighed. They are laid end
to end in one pack. How many come with each is a matter of the whole run: with a small share some get none. Off by
default: the paper mixes problems of SFT in as tasks, which the pool of tasks does (`rl.pool`); this is for what cannot
be rewarded.

On many processes each packs some of the samples; one packs them all where a model's experts are balanced by pack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from PIL import Image

from open4ov import training
from open4ov.engine import VisionCache
from open4ov.engine.vision_cache import digests
from open4ov.model import Pack, Processor, VisionFeatures, pack
from open4ov.model.processing import visuals
from open4ov.recipe import RlSection
from open4ov.rl.policy import Policy
from open4ov.rl.sampling import Cursor
from open4ov.sample import Sample
from open4ov.training_pass import Spread, Whole, shared_out, summed


def usable(samples: Sequence[Sample]) -> list[Sample]:
    """Those of the training split that end with a response."""
    return [s for s in samples if s.split == "train" and s.messages and s.messages[-1].role == "assistant"]


def each(section: RlSection) -> float:
    """How many samples go with a mini-batch in the mean: `share` of the prompts and samples of a step together."""
    share = section.replay.share
    return section.prompts * share / (1 - share) / section.minibatches


class Replay:
    """Adds the gradients of samples in the cursor's order: after m mini-batches floor(m * `each`) of them in all, so
    that none is lost to rounding. `image(sha)`: a picture by its digest; `pictures`: features of a frozen tower;
    `minibatches`: those that the run has behind it, with `used` samples."""

    def __init__(
        self,
        samples: Sequence[Sample],
        image: Callable[[str], Image.Image],
        processor: Processor,
        pictures: VisionCache,
        section: RlSection,
        cursor: Cursor,
        minibatches: int = 0,
        used: int = 0,
    ) -> None:
        self.samples = {sample.id: sample for sample in samples}
        self.image, self.processor, self.pictures, self.section = image, processor, pictures, section
        self.cursor, self.minibatches, self.used = cursor, minibatches, used
        self._due: list[str] = []

    def coming(self, model: Policy) -> Whole | None:
        """For the next mini-batch: the pass over its samples, whose objective is their mean cross-entropy times its
        weight. None where no sample's turn has come. `took` is to be called once it was computed."""
        self.minibatches += 1
        due = math.floor(self.minibatches * each(self.section) + 1e-9) - self.used
        self._due = self.cursor.take(min(due, len(self.samples)))
        if not self._due:
            return None
        joined, features, targets = None, None, 0
        if own := self._own(model, [self.samples[name] for name in self._due]):
            with training.precision(self.section.precision, model.device):
                joined, features, targets = self._packed(own, model.device)
        (total,) = summed(model, [float(targets)])
        weight = self.section.replay.weight
        if joined is None:
            assert isinstance(model, Spread), "only other processes may have all samples"
            joined = model.filler()
        return Whole(joined, features, weight * (targets / total) if total else weight)

    def took(self, model: Policy, value: float) -> float:
        """The samples are done with. `value`: of this process's pass -> their mean cross-entropy."""
        self.cursor.settle(self._due)
        self.used += len(self._due)
        (loss,) = summed(model, [value])
        return loss / self.section.replay.weight

    def _own(self, model: Policy, samples: list[Sample]) -> list[Sample]:
        """Those that this process packs."""
        text = model.config.text
        together = text.num_experts and text.router_aux_loss_coef
        units = [samples] if together else [[sample] for sample in samples]
        words = [float(sum(len(message.text) for one in unit for message in one.messages)) for unit in units]
        own = shared_out(model, lambda: words, len(units))
        return [sample for number in sorted(n for n in own if n is not None) for sample in units[number]]

    def _packed(self, samples: Sequence[Sample], device: torch.device) -> tuple[Pack, VisionFeatures | None, int]:
        """The samples in one pack, their pictures' features, and how many tokens are predicted."""
        shown = [[self.image(sha) for sha in sample.images] for sample in samples]
        documents = [
            replace(self.processor.encode(sample.messages, images, pixels=False), name=f"sample {sample.id}")
            for sample, images in zip(samples, shown, strict=True)
        ]
        joined = pack(documents)
        targets, joined = len(joined.predicted), joined.to(device)
        seen = [one for s, images in zip(samples, shown, strict=True) for one in visuals(s.messages, images)]
        if not seen:
            return joined, None, targets
        if not self.section.freeze_vision:
            return replace(joined, pixels=self.processor.pixels(seen, device)), None, targets
        names = [name for s, images in zip(samples, shown, strict=True) for name in digests(s.messages, images)]
        return joined, VisionFeatures.cat(self.pictures.features(documents, seen, names)), targets
