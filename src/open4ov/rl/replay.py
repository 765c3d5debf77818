"""Samples of SFT beside the prompts of RL (paper §4.1.1: "to prevent forgetting of SFT-acquired knowledge").

Each mini-batch of an update also gets the cross-entropy of some samples of SFT's general set, weighed. They are laid
end to end in one pack. Off by default: the paper mixes problems of SFT in as tasks, which the pool of tasks does
(`rl.pool`); this is for what cannot be rewarded.
"""

from __future__ import annotations

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


def count(section: RlSection) -> int:
    """How many samples go with a mini-batch: `share` of the prompts and samples of a step together."""
    share = section.replay.share
    return round(section.prompts * share / (1 - share) / section.minibatches) if share else 0


class Replay:
    """Adds the gradients of samples, `count` at a time, in the cursor's order. `image(sha)`: a picture by its digest;
    `pictures`: features of a frozen tower."""

    def __init__(
        self,
        samples: Sequence[Sample],
        image: Callable[[str], Image.Image],
        processor: Processor,
        pictures: VisionCache,
        section: RlSection,
        cursor: Cursor,
    ) -> None:
        self.samples = {sample.id: sample for sample in samples}
        self.image, self.processor, self.pictures, self.section = image, processor, pictures, section
        self.cursor = cursor
        self.count = min(count(section), len(samples))

    def add_gradients(self, model: Qwen3VL) -> float:
        """Backward pass of the next samples' mean cross-entropy times its weight; gives that mean."""
        names = self.cursor.take(self.count)
        with training.precision(self.section.precision, model.device):
            joined, features = self._packed([self.samples[name] for name in names], model.device)
            loss = model.loss(joined, features)
        (loss * self.section.replay.weight).backward()
        self.cursor.settle(names)
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
