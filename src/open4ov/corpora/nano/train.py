"""Pretrain the nano base on general tasks only: `open4ov nano train` (design: dense supervision first).

First the vision tower alone learns to tell shapes, colours and characters apart (`tower.py`). Then the whole model
learns conversations with a full description and several short questions, so that each picture supervises many answers;
some labelled pictures beside each pack keep the tower's eye in. Hidden matrices are updated by Muon, the rest by AdamW;
in each part the learning rate warms up, holds, and decays to zero. Pictures and conversations are a pure function of
(seed, index): the run is reproducible and can be continued from a checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from open4ov import checkpoints
from open4ov.errors import UserError
from open4ov.model import Pack, Processor, Qwen3VL, pack
from open4ov.training import Diverged, freeze_vision, muon

from .tower import Heads, Pictures, draw


@dataclass(frozen=True)
class NanoTraining:
    """How the base is trained.

    pictures: labelled pictures that the tower sees first, `picture_batch` a step. items: conversations after that.
    pack_tokens: tokens of one step; beside them go `beside` labelled pictures, whose loss weighs `beside_weight` (their
    gradient would drown that of the conversations in the tower). learning_rate: of Muon, scaled to AdamW's update size;
    in the second part both rates are `second_rate` times what is given. late: share of the conversations after which
    `dense` draws from its later mixture. warmup, cooldown: shares of each part over which the rate rises and falls.
    freeze_vision: leave the tower as it is (then nothing is taught to it, in neither part).
    """

    pictures: int = 200_000
    picture_batch: int = 128
    items: int = 200_000
    seed: int = 0
    pack_tokens: int = 8192
    beside: int = 32
    beside_weight: float = 0.1
    learning_rate: float = 3e-3
    adam_learning_rate: float = 2e-3
    second_rate: float = 0.5
    weight_decay: float = 0.02
    late: float = 0.5
    warmup: float = 0.01
    cooldown: float = 0.3
    grad_clip: float = 1.0
    freeze_vision: bool = False


UPCYCLED = NanoTraining(
    pictures=0, beside=0, freeze_vision=True, items=60_000, pack_tokens=4096, second_rate=0.4, late=0.0, seed=4
)
"""How a base that was cut into experts is trained on: its tower has learnt what it can."""


@dataclass
class Batch:
    """What one step learns from: a pack (none in the first part), pictures (may be none), and where it ends."""

    pack: Pack | None
    pictures: Pictures | None
    done: dict[str, int]
    """Pictures and conversations seen once this step is done."""


class Batches(IterableDataset[Batch]):
    """The steps of a training from where it stands (`done`) to its end."""

    def __init__(self, processor: Processor, training: NanoTraining, done: dict[str, int]) -> None:
        super().__init__()
        self.processor, self.training, self.done = processor, training, done

    def __iter__(self) -> Iterator[Batch]:
        pictures, items = self.done["pictures"], self.done["items"]
        while items == 0 and pictures < self.training.pictures:
            count = min(self.training.picture_batch, self.training.pictures - pictures)
            drawn = self._draw(pictures, count)
            pictures += count
            yield Batch(None, drawn, {"pictures": pictures, "items": 0})
        for packed, seen in self._packs(items):
            drawn = self._draw(pictures, self.training.beside) if self.training.beside else None
            pictures += self.training.beside
            yield Batch(packed, drawn, {"pictures": pictures, "items": seen})

    def _draw(self, start: int, count: int) -> Pictures:
        return draw(range(start, start + count), self.training.seed, self.processor.images)

    def _packs(self, start: int) -> Iterator[tuple[Pack, int]]:
        from open4ov.corpora import dense

        documents, size = [], 0
        stop = self.training.items
        for index in range(start, stop):
            item = dense("train", index, self.training.seed, late=index >= self.training.late * stop)
            document = self.processor.encode(item.sample.messages, item.images)
            if documents and size + len(document.input_ids) > self.training.pack_tokens:
                yield pack(documents), index
                documents, size = [], 0
            documents.append(document)
            size += len(document.input_ids)
        if documents:
            yield pack(documents), stop


def rate(done: float, training: NanoTraining) -> float:
    """The learning-rate factor after a share `done` of a part: warm up, hold, decay linearly."""
    if done < training.warmup:
        return done / training.warmup
    if done > 1 - training.cooldown:
        return max(0.0, (1 - done) / training.cooldown)
    return 1.0


class _Learner(nn.Module):
    """The model and the heads that are thrown away."""

    def __init__(self, model: Qwen3VL, training: NanoTraining) -> None:
        super().__init__()
        self.model = model
        self.heads = Heads(model.config.text.hidden_size, training.seed)
        self.beside_weight = training.beside_weight

    def word_parameters(self) -> list[Tensor]:
        return self.model.word_parameters()

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step, in nats, and its figures."""
        figures: dict[str, float] = {}
        total = torch.zeros(())
        if batch.pictures is not None:
            loss, right = self.heads(self.model, batch.pictures)
            total = total + (loss if batch.pack is None else self.beside_weight * loss)
            figures |= {"picture_loss": round(float(loss.detach()), 5), "recognised": round(float(right), 4)}
        if batch.pack is not None:
            loss = self.model.loss(batch.pack)
            total = total + loss
            figures["loss"] = round(float(loss.detach()), 5)
        return total, figures


def train(
    model: Qwen3VL,
    processor: Processor,
    out: Path,
    training: NanoTraining,
    on_step: Callable[[dict[str, float]], None],
    compile_blocks: bool = True,
    checkpoint_minutes: float = 10.0,
) -> None:
    """Train and write `out/` (model directory, curve.json, training.json); continue from `out/checkpoint` if there.

    Raises Diverged when the loss is not finite, and UserError for a checkpoint of other options and for options that
    contradict each other.
    """
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    if training.freeze_vision:
        if training.pictures or training.beside:
            raise UserError("freeze_vision: pictures and beside must be 0, as nothing can be taught to a frozen tower")
        freeze_vision(model)
    learner = _Learner(model, training)
    optimizer = muon(learner, training.learning_rate, training.weight_decay)
    checkpoint, identity = out / "checkpoint", json.dumps(asdict(training))
    found = checkpoints.load(checkpoint, learner, optimizer, lambda other: other == identity)
    steps, curve = (found.done, found.curve) if found else (0, [])
    if not steps and any(checkpoint.glob("step-*")):
        raise UserError(f"{checkpoint}: is of a training with other options; give another --out")
    done = curve[-1] if curve else {"pictures": 0, "items": 0}
    if compile_blocks:
        for block in [*model.text.layers, *model.vision.blocks]:
            block.compile(dynamic=True)
    batches = Batches(processor, training, {key: int(done[key]) for key in ("pictures", "items")})
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8)
    began = saved = time.monotonic()
    for batch in loader:
        talking = batch.pack is not None
        share = batch.done["items"] / training.items if talking else batch.done["pictures"] / training.pictures
        factor = rate(share, training) * (training.second_rate if talking else 1.0)
        for place, group in enumerate(optimizer.param_groups):  # the first is Muon's
            group["lr"] = factor * (training.adam_learning_rate if place else training.learning_rate)
        with torch.autocast("cpu", torch.bfloat16):
            loss, figures = learner(batch)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(learner.parameters(), training.grad_clip))
        if not math.isfinite(norm):
            raise Diverged(f"the gradient's norm is {norm} after {batch.done}: lower the learning rate")
        optimizer.step()
        learner.zero_grad(set_to_none=True)
        now = time.monotonic()
        steps += 1
        curve.append({**batch.done, **figures, "grad_norm": round(norm, 4)})
        on_step({**curve[-1], "rate": factor, "seconds": now - began})
        border = not talking and batch.done["pictures"] == training.pictures
        if border or now - saved > checkpoint_minutes * 60:
            checkpoints.save(checkpoint, learner, optimizer, checkpoints.Checkpoint(steps, identity, curve))
            saved = time.monotonic()
    model.save_pretrained(out, dtype=torch.bfloat16)
    processor.save_pretrained(out)
    thin = max(1, len(curve) // 400)
    (out / "curve.json").write_text(json.dumps(curve[::thin]))
    (out / "training.json").write_text(json.dumps({**asdict(training), "steps": steps}, indent=1))
