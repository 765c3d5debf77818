"""What a trainer needs of a model: our Qwen3-VL and the adapter of transformers' models both have it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

from open4ov.recipe_sft import Part


class Batch(Protocol):
    """What a trainer reads of a batch itself; the rest is between the model and its encoder."""

    @property
    def input_ids(self) -> Tensor:
        """Long [T]: the tokens of all documents, end to end and without padding."""
        ...


B = TypeVar("B", bound=Batch)
V = TypeVar("V")


class Trainable(nn.Module, ABC, Generic[B, V]):
    """A multimodal model on batches of type B, whose images may come as features of type V."""

    @abstractmethod
    def loss(self, batch: B, /, vision: V | None = None) -> Tensor:
        """Mean negative log-likelihood (nats a token) over the batch's targets; a scalar."""
        ...

    def figures(self) -> dict[str, float]:
        """What is worth recording of the last loss besides its value; empty for most models."""
        return {}

    @abstractmethod
    def vision_parameters(self) -> list[nn.Parameter]:
        """All that turns pixels into the language model's tokens: what `freeze_vision` freezes."""
        ...

    @abstractmethod
    def merger_parameters(self) -> list[nn.Parameter]:
        """Those among `vision_parameters` that turn the tower's features into tokens. Raises UserError where they
        cannot be told from the tower."""
        ...

    def part_parameters(self, part: Part) -> list[nn.Parameter]:
        """The parameters of `vision` (the tower without its mergers), `merger` or `language` (all the rest). Each
        parameter of the model is in one of the three."""
        if part == "merger":
            return self.merger_parameters()
        vision = self.vision_parameters()
        others = self.merger_parameters() if part == "vision" else vision
        known = {id(p) for p in others}
        return [p for p in (vision if part == "vision" else self.parameters()) if id(p) not in known]

    @abstractmethod
    def word_parameters(self) -> list[Tensor]:
        """The tables with a row for each word of the vocabulary: embedding and head, once when they are tied."""
        ...

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The repeated blocks that `torch.compile` pays for. Raises UserError where there are none to compile."""
        ...
