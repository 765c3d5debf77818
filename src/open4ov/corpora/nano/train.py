"""Pretrain the nano base on general tasks only: `open4ov nano train` (design: dense supervision first).

Every item is one conversation with a full description and several short questions, so that each picture supervises
many answers. Hidden matrices are updated by Muon, the rest by AdamW; the learning rate warms up, holds, and decays to
zero over the last part of the run. Items are a pure function of (seed, index): the run is reproducible and can be
continued from a checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, IterableDataset

from open4ov.errors import UserError
from open4ov.model import Pack, Processor, Qwen3VL, pack
from open4ov.training import Diverged


@dataclass(frozen=True)
class NanoTraining:
    """How the base is trained.

    items: conversations seen. pack_tokens: tokens of one step. learning_rate: of Muon, scaled to AdamW's update size.
    late: share of the run after which `dense` draws from its later mixture. cooldown: share of the run over which the
    rate decays to zero.
    """

    items: int = 200_000
    seed: int = 0
    pack_tokens: int = 4096
    learning_rate: float = 4e-3
    adam_learning_rate: float = 2e-3
    weight_decay: float = 0.02
    late: float = 0.5
    warmup: float = 0.01
    cooldown: float = 0.3
    grad_clip: float = 1.0


class Packs(IterableDataset[tuple[Pack, int]]):
    """Packs of consecutive training items, encoded; yields (pack, index after its last item)."""

    def __init__(self, processor: Processor, training: NanoTraining, start: int) -> None:
        super().__init__()
        self.processor, self.training, self.start = processor, training, start

    def __iter__(self) -> Iterator[tuple[Pack, int]]:
        from open4ov.corpora import dense

        documents, size = [], 0
        stop = self.training.items
        for index in range(self.start, stop):
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
    """The learning-rate factor after a share `done` of the run: warm up, hold, decay linearly."""
    if done < training.warmup:
        return done / training.warmup
    if done > 1 - training.cooldown:
        return max(0.0, (1 - done) / training.cooldown)
    return 1.0


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

    Raises Diverged when the loss is not finite, and UserError for a checkpoint of other options.
    """
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(
        matrices, lr=training.learning_rate, weight_decay=training.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=training.adam_learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    curve: list[dict[str, float]] = []
    start = 0
    checkpoint = out / "checkpoint"
    if (checkpoint / "state.json").exists():
        start, curve = _load_checkpoint(checkpoint, model, muon, adam, training)
    if compile_blocks:
        for block in [*model.text.layers, *model.vision.blocks]:
            block.compile(dynamic=True)
    data = Packs(processor, training, start)
    loader = DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=8)
    began = saved = time.monotonic()
    for batch, index in loader:
        factor = rate(index / training.items, training)
        for optimizer, base in ((muon, training.learning_rate), (adam, training.adam_learning_rate)):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value} after {index} items: lower the learning rate")
        now = time.monotonic()
        curve.append({"items": index, "loss": round(value, 5), "grad_norm": round(float(norm), 4)})
        on_step({**curve[-1], "rate": factor, "seconds": now - began, "tokens": len(batch.input_ids)})
        if now - saved > checkpoint_minutes * 60:
            _save_checkpoint(checkpoint, model, muon, adam, index, curve, training)
            saved = time.monotonic()
    model.save_pretrained(out, dtype=torch.bfloat16)
    processor.save_pretrained(out)
    thin = max(1, len(curve) // 400)
    (out / "curve.json").write_text(json.dumps(curve[::thin]))
    (out / "training.json").write_text(json.dumps({**asdict(training), "steps": len(curve)}, indent=1))


def _save_checkpoint(
    folder: Path,
    model: Qwen3VL,
    muon: torch.optim.Muon,
    adam: torch.optim.AdamW,
    index: int,
    curve: list[dict[str, float]],
    training: NanoTraining,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for name, optimizer in (("muon", muon), ("adam", adam)):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, folder / "state.tmp")
    (folder / "state.tmp").rename(folder / f"state-{index}.safetensors")
    (folder / "state.json.tmp").write_text(json.dumps({"index": index, "curve": curve, "training": asdict(training)}))
    (folder / "state.json.tmp").rename(folder / "state.json")
    for old in folder.glob("state-*.safetensors"):
        if old.name != f"state-{index}.safetensors":
            old.unlink()


def _load_checkpoint(
    folder: Path, model: Qwen3VL, muon: torch.optim.Muon, adam: torch.optim.AdamW, training: NanoTraining
) -> tuple[int, list[dict[str, float]]]:
    about = json.loads((folder / "state.json").read_text())
    if about["training"] != asdict(training):
        raise UserError(f"{folder}: is of a training with other options ({about['training']}); give another --out")
    tensors = load_file(folder / f"state-{about['index']}.safetensors")
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for name, optimizer in (("muon", muon), ("adam", adam)):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(f"{name}."):
                _, i, field = key.split(".", 2)
                state.setdefault(int(i), {})[field] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return about["index"], about["curve"]
