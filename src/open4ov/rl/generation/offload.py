"""Trainer and engine on one device: each gives way to the other between phases (`rl.rollout.offload`).

    phases = Phases(generator, optimizer, section.rollout.offload)
    with phases.generation():    # the optimizer's state is in host memory
        ...
    with phases.update():        # the engine holds no keys and values
        ...

What moves: the optimizer's state (AdamW: 8 bytes a parameter) out during generation and back before the update, bit for
bit; keys and values are given up, since an update makes them useless, and their memory is taken again at the next
generation. What stays: the weights, which both use, and features of pictures, which both read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from open4ov import memory
from open4ov.rl.generation.generator import Generator
from open4ov.training import Optimizer


class Phases:
    """The two phases of a step. With `on` False both do nothing."""

    def __init__(self, generator: Generator, optimizer: Optimizer, on: bool) -> None:
        self.generator, self.on = generator, on
        self._away = Away(optimizer)

    @contextmanager
    def generation(self) -> Iterator[None]:
        """While responses are generated."""
        if not self.on:
            yield
            return
        with self._away:
            yield

    @contextmanager
    def update(self) -> Iterator[None]:
        """While the policy is trained. Raises RuntimeError while the engine is at work."""
        if self.on:
            self.generator.release()
            memory.free_card()
        yield


class Away:
    """While it is entered an optimizer's state is on `device`; then back where each part was, in the same bits. No step
    may be made in between. The place it had there is kept: page-locked memory is slow to get."""

    def __init__(self, optimizer: Optimizer, device: torch.device | str = "cpu") -> None:
        self.optimizer, self.device = optimizer, torch.device(device)
        self._there: dict[tuple[int, str], Tensor] = {}
        self._home: dict[tuple[int, str], torch.device] = {}

    def __enter__(self) -> Away:
        for key, held in self._tensors():
            tensor = held[key[1]]
            self._home[key] = tensor.device
            if tensor.device != self.device:
                held[key[1]] = self._place(key, tensor).copy_(tensor)
        memory.free_card()
        return self

    def __exit__(self, *_: object) -> None:
        for key, held in self._tensors():
            held[key[1]] = held[key[1]].to(self._home.get(key, held[key[1]].device))

    def _place(self, key: tuple[int, str], tensor: Tensor) -> Tensor:
        place = self._there.get(key)
        if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
            pinned = tensor.is_cuda and self.device.type == "cpu"
            place = self._there[key] = torch.empty_like(tensor, device=self.device, pin_memory=pinned)
        return place

    def _tensors(self) -> list[tuple[tuple[int, str], dict[str, Tensor]]]:
        """Every tensor of the state: what names it, and the mapping that holds it."""
        return [
            ((id(parameter), name), held)
            for parameter, held in self.optimizer.state.items()
            for name, value in held.items()
            if isinstance(value, Tensor)  # pyright: ignore[reportUnnecessaryIsInstance]
        ]
