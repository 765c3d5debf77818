"""Who generates the responses of online RL: our engine in process, a quantised copy of the policy, servers by address,
or vLLM.

    rolls = generator.build(model, processor, section.rollout)
    responses = rolls.generate(requests)         # by weights of rolls.weight_version
    ...                                          # the update, in place
    rolls.update_weights()

Whatever it is, a response has token ids, log p of each under what it was sampled from (at the request's temperature),
and the version of the weights. Where these are not the trained policy's (`recipe_rl_rollout.exact`), the trainer
corrects by `importance.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from open4ov.engine import Completion, Engine, Request, VisionCache
from open4ov.engine.generate import Progress
from open4ov.engine.half import in_half
from open4ov.engine.quantize import quantize
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL

if TYPE_CHECKING:
    from open4ov.recipe_rl_rollout import RolloutSection


class GeneratorGone(UserError):
    """Nobody generates any more. The step's responses are lost, the training is not: it goes on from its checkpoint."""

    final = False


class Generator(Protocol):
    """What generates rollouts. One thread at a time may call it.

    `weight_version`: of the weights that it generates with; every completion is stamped with it. `apart`: whether it
    has weights of its own, so that it may generate during an update. `vision_cache`: features of pictures by the
    trained model's own tower, for the update to use as well.
    """

    @property
    def weight_version(self) -> int: ...

    @property
    def apart(self) -> bool: ...

    @property
    def vision_cache(self) -> VisionCache: ...

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        """The completions of each request, in order, as `Engine.generate`. Raises GeneratorGone."""
        ...

    def update_weights(self) -> int:
        """Takes over the trained model's weights as they are now; returns the new version. Raises GeneratorGone."""
        ...

    def release(self) -> None:
        """Frees the memory that only generating needs, until the next `generate`."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Sizes:
    """Of our engine: responses under way together, tokens whose keys and values are held, what it computes in instead
    of the weights' type, and whether a GPU plays steps back (`engine/decoding.py`)."""

    batch: int = 128
    kv_tokens: int = 32768
    autocast: torch.dtype | None = None
    graphs: bool = True


class OwnGenerator:
    """Our engine over the very model that is trained: nothing is copied, an update only has to be told. `pictures`: the
    trainer's features of pictures (None: a cache of its own)."""

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        pictures: VisionCache | None = None,
        sizes: Sizes | None = None,
        version: int = 0,
    ) -> None:
        sizes = sizes or Sizes()
        self.engine = Engine(
            model,
            processor,
            max_batch=sizes.batch,
            kv_tokens=sizes.kv_tokens,
            autocast=sizes.autocast,
            vision_cache=pictures,
            graphs=sizes.graphs,
        )
        self.engine.weight_version = version
        self.apart = False

    @property
    def weight_version(self) -> int:
        return self.engine.weight_version

    @property
    def vision_cache(self) -> VisionCache:
        return self.engine.vision_cache

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        return self.engine.generate(requests, progress)

    def update_weights(self) -> int:
        return self.engine.update_weights(self._state())

    def _state(self) -> Mapping[str, Tensor] | None:
        return None

    def release(self) -> None:
        self.engine.release()

    def close(self) -> None:
        self.engine.release()


class CopyGenerator(OwnGenerator):
    """Our engine over a copy of the policy: quantised (`kind` int8 or fp8), or alike (None), so that it can generate
    while the policy is trained. `update_weights` copies anew, and quantises on the way in.

    A frozen tower is shared, not copied, and so are the features of pictures: when it generates in another thread than
    the trainer's, `pictures` is used by both at once. Raises UserError where the kind cannot be computed (`quantize`).
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        kind: str | None = None,
        pictures: VisionCache | None = None,
        sizes: Sizes | None = None,
        version: int = 0,
    ) -> None:
        self.trained = model
        twin = copied(model)
        if kind is not None:
            quantize(twin, kind)
        if sizes is not None and sizes.autocast is not None:
            in_half(twin, sizes.autocast)
        self._pictures = pictures or VisionCache(model, processor)
        shared = twin.vision is model.vision
        super().__init__(twin, processor, self._pictures if shared else None, sizes, version)
        self.apart = True

    @property
    def vision_cache(self) -> VisionCache:
        return self._pictures

    def _state(self) -> Mapping[str, Tensor]:
        return self.trained.state_dict()


def copied(model: Qwen3VL) -> Qwen3VL:
    """The same model with weights of its own that nobody trains; a tower that is frozen is the very same one."""
    frozen = not any(parameter.requires_grad for parameter in model.vision_parameters())
    memo: dict[int, object] = {id(model.vision): model.vision} if frozen else {}
    twin = copy.deepcopy(model, memo)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return twin


def build(
    model: Qwen3VL,
    processor: Processor,
    section: RolloutSection,
    pictures: VisionCache | None = None,
    *,
    autocast: torch.dtype | None = None,
    version: int = 0,
) -> Generator:
    """What the recipe's `rl.rollout` asks for. `pictures`: the trainer's features of pictures, which the engine fills
    and uses where it can (`Generator.vision_cache`); `autocast`: what our own engine computes in instead of the
    weights' type; `version`: of the weights that it begins with, in a run that goes on.

    Freeze what is to be frozen before. Raises UserError for what cannot work here, and GeneratorGone.
    """
    if section.backend != "own":
        from open4ov.rl.generation.served import ServedGenerator

        return ServedGenerator(model, processor, section, pictures, version)
    # a recording ends with an error where another thread waits for the GPU, as a training does
    sizes = Sizes(section.batch, section.kv_tokens, autocast, graphs=not section.ahead)
    if section.weights == "same" and not section.ahead:
        return OwnGenerator(model, processor, pictures, sizes, version)
    kind = None if section.weights == "same" else section.weights
    return CopyGenerator(model, processor, kind, pictures, sizes, version)
