"""Samples of SFT beside the prompts of RL (paper §4.1.1: "to prevent forgetting of SFT-acquired knowledge").

A mini-batch of an update also gets the cross-entropy of some samples of SFT's general set, weighed. They are laid end
to end in one pack. How many come with each is a matter of the whole run: with a small share some get none. Off by
default: the paper mixes problems of SFT in as tasks, which the pool of tasks does (`rl.pool`); this is for what cannot
be rewarded.
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
from open4ov.model import Pack, Processor, Qwen3VL, VisionFeatures, pack
from open4ov.model.processing import visuals
from open4ov.recipe import RlSection
from open4ov.rl.sampling import Cursor
from open4ov.sample import Sample


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

    def add_gradients(self, model: Qwen3VL) -> float | None:
        """For the next mini-batch: backward pass of its samples' mean cross-entropy times its weight. Gives that mean;
        None where no sample's turn has come."""
        self.minibatches += 1
        due = math.floor(self.minibatches * each(self.section) + 1e-9) - self.used
        names = self.cursor.take(min(due, len(self.samples)))
        if not names:
            return None
        with training.precision(self.section.precision, model.device):
            joined, features = self._packed([self.samples[name] for name in names], model.device)
            loss = model.loss(joined, features)
        (loss * self.section.replay.weight).backward()
        self.cursor.settle(names)
        self.used += len(names)
        return float(loss.detach())

    def _packed(self, samples: Sequence[Sample], device: torch.device) -> tuple[Pack, VisionFeatures | None]:
        shown = [[self.image(sha) for sha in sample.images] for sample in samples]
        documents = [
            replace(self.processor.encode(sample.messages, images, pixels=False), name=f"sample {sample.id}")
            for sample, images in zip(samples, shown, strict=True)
        ]
        joined = pack(documents).to(device)
        seen = [one for s, images in zip(samples, shown, strict=True) for one in visuals(s.messages, images)]
        if not seen:
            return joined, None
        if not self.section.freeze_vision:
            return replace(joined, pixels=self.processor.pixels(seen, device)), None
        names = [name for s, images in zip(samples, shown, strict=True) for name in digests(s.messages, images)]
        return joined, VisionFeatures.cat(self.pictures.features(documents, seen, names))
