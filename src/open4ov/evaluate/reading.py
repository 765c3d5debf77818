"""What is the same for all models of a run when they are asked the same: the questions as tokens, and the features of
their pictures.

No stage of a run needs to train the tower, and the recipes of this project leave it as it is, so that the base and
each model after it see the same. What the first of them has computed is held in the process for the next. Features
are computed in a fixed order and in fixed groups, not as requests come, so that they are the same to the last bit
whether they were held or are computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from open4ov.engine import Completion, Engine, Request, VisionCache
from open4ov.engine.generate import Progress
from open4ov.engine.sequence import Prompt
from open4ov.engine.vision_cache import DEFAULT_BYTES, Grid
from open4ov.model import Processor, Qwen3VL, VisionFeatures
from open4ov.model.processing import Visual, visuals

HELD_BYTES = 2**30
"""Of features, most that are held, in host memory: a training may follow on the card; pictures beyond are encoded as
they are asked about"""
MAX_BATCH = 256
"""Completions under way together: most answers are short, and a step costs the same overhead for more of them"""
TOGETHER = 64
"""Pictures of one pass of the tower"""


@dataclass
class Read:
    """The requests of one evaluation as one processor reads them, and what one tower has seen of their pictures."""

    asked: object
    name: Hashable
    prompts: list[Prompt]
    tower: Hashable = None
    features: dict[tuple[str, Grid], VisionFeatures] = field(default_factory=dict[tuple[str, Grid], VisionFeatures])


_latest: Read | None = None


class Reader:
    """A model that is to answer requests, whose pictures its tower has seen. Of the same questions (`asked`, the very
    same object) requests of equal `name` are the same. The weights must stay as they are as long as it answers.

    Raises UserError for a request that the model can never answer.
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        requests: Sequence[Request],
        asked: object,
        name: Hashable,
        autocast: torch.dtype | None,
    ) -> None:
        global _latest
        self.cache = VisionCache(model, processor, HELD_BYTES + DEFAULT_BYTES, watch=False)
        self.engine = Engine(model, processor, MAX_BATCH, autocast=autocast, vision_cache=self.cache, watch=False)
        name = name, _digest(*(f"{key} {len(text)} ".encode() + text for key, text in sorted(processor.files.items())))
        if _latest is None or _latest.asked is not asked or _latest.name != name:
            _latest = Read(asked, name, [self.engine.prompt(request) for request in requests])
        self.prompts = _latest.prompts
        _see(_latest, self.engine, self.cache)

    def answers(self, places: Sequence[int], progress: Progress | None = None) -> list[list[Completion]]:
        """The completions of the requests at some places."""
        prompts = [self.prompts[place] for place in places]
        return self.engine.generate([prompt.request for prompt in prompts], progress, prompts)


def _see(read: Read, engine: Engine, cache: VisionCache) -> None:
    """Brings what the tower has seen up to the engine's model, and puts it into the cache."""
    model = engine.model
    weights = (p.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for p in model.vision.parameters())
    tower = repr(model.config.vision), str(model.device), engine.dtype, _digest(*weights)
    if read.tower != tower:
        read.tower, read.features = tower, {}
        with engine.precision():
            _encode(read, cache)
    with engine.precision():
        for (digest, grid), features in read.features.items():
            cache.put(digest, grid, _moved(features, model.device))


def _encode(read: Read, cache: VisionCache) -> None:
    pictures: dict[tuple[str, Grid], Visual] = {}
    for prompt in read.prompts:
        grids: list[Grid] = [tuple(grid) for grid in prompt.document.grids.tolist()]
        shown = visuals(prompt.request.messages, prompt.request.images)
        pictures |= dict(zip(zip(prompt.digests, grids, strict=True), shown, strict=True))
    names, held = list(pictures), 0
    for start in range(0, len(names), TOGETHER):
        part = names[start : start + TOGETHER]
        found = cache.of([grid for _, grid in part], [pictures[name] for name in part], [digest for digest, _ in part])
        read.features |= dict(zip(part, (_moved(one, torch.device("cpu")) for one in found), strict=True))
        held += sum(features.nbytes for features in found)
        if held >= HELD_BYTES:
            return


def _moved(features: VisionFeatures, device: torch.device) -> VisionFeatures:
    return VisionFeatures(features.merged.to(device), [tap.to(device) for tap in features.deepstack])


def _digest(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()
