"""Rollouts of a policy that lies on many processes.

With our own engine every process has the whole weights a second time, and generates for its share of the prompts; all
get all responses. What is sampled depends on the seed, the step and the task, not on who generates. Servers by address
and vLLM are asked by the first process alone, which writes the gathered weights once for all of them. After an update
weights are gathered; each response says by which version of them it is, and all processes must have the same.

Memory: a copy of the weights on every process (with servers or vLLM, on the first one), two where it generates ahead or
quantised. Our engine that computes in bf16 has in it what it would make of the products' weights anyway: half the bytes
to hold, and to read for every token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from open4ov.engine import Completion, Request, VisionCache
from open4ov.engine.generate import Progress
from open4ov.engine.half import products
from open4ov.model import Config, Qwen3VL, VisionFeatures
from open4ov.model.vision import VisionModel
from open4ov.parallel import exchange
from open4ov.parallel.model import Parallel
from open4ov.recipe_rl_rollout import RolloutSection
from open4ov.rl.generation.generator import Generator, GeneratorGone

T = TypeVar("T")


@dataclass(frozen=True)
class Tower:
    """What encodes pictures where there is no whole model: the frozen tower, which every rank of the first stage has.
    On ranks of later stages features are of the right shape, and nobody reads them."""

    model: Parallel
    vision: nn.Module

    @staticmethod
    def of(model: Parallel) -> Tower:
        own = model.stages[0].vision
        if own is None or any(parameter.requires_grad for parameter in own.parameters()):  # nobody asks it then
            with torch.device("meta"):
                own = VisionModel(model.config.vision)
        return Tower(model, own)

    @property
    def config(self) -> Config:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    def encode_images(self, pixels: torch.Tensor, grids: torch.Tensor) -> VisionFeatures:
        return self.model.encode_images(pixels, grids)


def seeing(model: Parallel) -> Qwen3VL:
    """For a `VisionCache`: what encodes pictures by a frozen tower."""
    return cast(Qwen3VL, Tower.of(model))


def copied(model: Parallel, section: RolloutSection, half: torch.dtype | None = None) -> Qwen3VL | None:
    """The whole model for this process to generate with; None where it does not. A frozen tower is the policy's own,
    where this process has it. What others are to generate with is on the CPU, from where they get it. half: what our
    engine computes in instead of the weights' type. All processes call it."""
    here = section.backend == "own"
    generates, place = here or model.leads, model.device if here else "cpu"
    own = model.stages[0].vision if here else None
    if own is not None and any(parameter.requires_grad for parameter in own.parameters()):
        own = None
    with torch.device("meta"):
        twin = Qwen3VL(model.config)
    kinds: dict[str, torch.dtype] = {}
    if half is not None and section.backend == "own" and section.weights == "same":
        kinds = dict.fromkeys(products(twin), half)
    state: dict[str, torch.Tensor] = {}
    for name, value, trained in model.wholes():  # each straight to where it stays: the whole is never there twice
        if generates and (own is None or not name.startswith("vision.")):
            state[name] = value.to(place, kinds.get(name, value.dtype), copy=True)
            twin.get_parameter(name).requires_grad_(trained)
    if not generates:
        return None
    if own is not None:
        twin.vision = own
    twin.load_state_dict(state, strict=False, assign=True)
    missing = {name for name, p in twin.named_parameters() if p.is_meta}
    assert not missing, f"nobody has {missing}"
    return twin


class SpreadGenerator:
    """`inner` generates by `twin` (see `copied`); both None where this process does not."""

    def __init__(
        self,
        model: Parallel,
        twin: Qwen3VL | None,
        pictures: VisionCache,
        inner: Callable[[Qwen3VL], Generator],
        section: RolloutSection,
        version: int,
    ) -> None:
        self.model, self.twin, self.section, self._version = model, twin, section, version
        self._group: Any = dist.new_group(backend="gloo")  # its own: it may generate while the policy is trained
        self._inner = self._all(lambda: None if twin is None else inner(twin))
        self.apart, self.vision_cache = section.ahead, pictures

    @property
    def weight_version(self) -> int:
        return self._version

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        inner = self._inner
        mine = range(len(requests)) if self.section.backend != "own" else self.model.mine(len(requests))
        asked = [requests[number] for number in mine]
        found = self._all(lambda: [] if inner is None or not asked else inner.generate(asked, progress))
        everybody = exchange.told(found, self._group)
        if self.section.backend != "own":
            return everybody[0]
        size = len(everybody)
        return [everybody[number % size][number // size] for number in range(len(requests))]

    def update_weights(self) -> int:
        """All processes call it, between two steps."""
        inner = self._inner
        own = {} if self.twin is None else dict(self.twin.named_parameters())
        still = not any(p.requires_grad for name, p in own.items() if name.startswith("vision."))
        with torch.no_grad():
            for name, value, _ in self.model.wholes():
                if own and not (still and name.startswith("vision.")):
                    own[name].copy_(value)
        told = self._all(lambda: None if inner is None else inner.update_weights())
        versions = {one for one in exchange.told(told, self._group) if one is not None}
        if len(versions) != 1:
            raise RuntimeError(f"processes have weights of the versions {sorted(versions)}")
        (self._version,) = versions
        return self._version

    def release(self) -> None:
        if self._inner is not None:
            self._inner.release()

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _all(self, what: Callable[[], T]) -> T:
        """What `what` gives here. Raises GeneratorGone on all processes where it does on one: they go on together."""
        gone: str | None = None
        found: T | None = None
        try:
            found = what()
        except GeneratorGone as error:
            gone = str(error)
        if text := next((one for one in exchange.told(gone, self._group) if one), None):
            raise GeneratorGone(text)
        return cast(T, found)
