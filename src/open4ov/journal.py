"""What a training tells while it goes, step by step: `train.jsonl`, and TensorBoard and Weights & Biases if asked for.

These files hold times, so no two trainings leave the same ones; what the training itself computed is in `curve.json`
too. They lie in the stage's scratch folder while it runs, where TensorBoard finds them, and come into the stage's own
folder when it is done. A resumed training goes on where its checkpoint stands: later lines are taken back.

of SFT:  step, loss, grad_norm, lr, tokens, targets (those to be predicted), val_loss where it was measured;
         seconds, tokens_per_second, mfu (see `sft/throughput.py`; absent when the device's peak is not known)
of RL:   what `rl/figures.py` computes; seconds and tokens a second of rollout, reward, score and update
of DPO:  the curve's figures; tokens of a step's prompts and responses, seconds without those of validation,
         tokens_per_second
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from open4ov.errors import UserError
from open4ov.run_dir import MEASURED
from open4ov.sample import content_id

LINES, EVENTS, WANDB = "train.jsonl", "tensorboard", "wandb"
assert {LINES, EVENTS, WANDB} <= MEASURED, "the stage's digest may not depend on times"


def now(device: torch.device) -> float:
    """Seconds, once `device` has done what it was given: a GPU works on after the call that gave it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


class Clock:
    """`with clock("rollout"): ...` for each part of a step."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Generator[None]:
        began = now(self._device)
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + now(self._device) - began

    def pace(self, tokens: Mapping[str, int], whole: int) -> dict[str, float]:
        """Seconds of each part and of all; response tokens a second of each part in `tokens`, which has those that it
        computed, and of all by the step's `whole`."""
        found: dict[str, float] = {}
        for part, seconds in self._seconds.items():
            found[f"{part}_seconds"] = round(seconds, 4)
            if part in tokens:
                found[f"{part}_tokens_per_second"] = round(tokens[part] / max(seconds, 1e-9))
        seconds = sum(self._seconds.values())
        return {**found, "seconds": round(seconds, 4), "tokens_per_second": round(whole / max(seconds, 1e-9))}


class Told(Protocol):
    """A section of the recipe that says where its training's steps are told, beside the lines."""

    @property
    def tensorboard(self) -> bool: ...
    @property
    def wandb(self) -> str | None: ...


class Journal:
    """Writes into `folder` from the step after `done` on. `name`: what Weights & Biases calls the run, `identity`: what
    it is a training of; of the same in the same folder it goes on with the same run. `key`: the section's, for
    messages. Raises UserError for a package that is not there."""

    def __init__(self, folder: Path, section: Told, done: int, name: str, identity: str, key: str = "sft") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LINES
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= done]
        path.write_text("".join(kept))
        self._file = path.open("a", buffering=1)
        self._events = _tensorboard(folder / EVENTS, done, key) if section.tensorboard else None
        self._run = _wandb(folder, section.wandb, name, identity, key) if section.wandb else None

    def write(self, point: Mapping[str, Any]) -> None:
        """One step."""
        self._file.write(json.dumps(point) + "\n")
        step = point["step"]
        figures = {f"train/{key}": value for key, value in point.items() if key != "step"}
        if self._events:
            for key, value in figures.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(key, value, step)
        if self._run:
            self._run.log(figures, step=step)

    def close(self) -> None:
        self._file.close()
        if self._events:
            self._events.close()
        if self._run:
            self._run.finish()


def publish(folder: Path, out: Path) -> None:
    """Moves what was written in `folder` to the stage's own folder."""
    for name in (LINES, EVENTS, WANDB):
        if (folder / name).exists():
            shutil.move(folder / name, out / name)


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; the last one may be torn by a kill."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _tensorboard(folder: Path, done: int, key: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"{key}.tensorboard: {error}; pip install 'open4ov[tensorboard]', or set it to false"
        ) from error
    return SummaryWriter(str(folder), purge_step=done + 1)


def _wandb(folder: Path, project: str | None, name: str, identity: str, key: str) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{key}.wandb: {error}; pip install 'open4ov[wandb]', or remove it") from error
    same = content_id("wandb", name, identity, str(folder.resolve()))
    try:
        return wandb.init(
            project=project,
            name=name,
            id=same,
            resume="allow",
            dir=str(folder),
            settings=wandb.Settings(silent=True, quiet=True),
        )
    except Exception as error:  # no key, no network, a server that refuses
        raise UserError(
            f"{key}.wandb: {' '.join(str(error).split())}; log in with wandb's own command, set WANDB_MODE=offline, or "
            "remove it"
        ) from error
