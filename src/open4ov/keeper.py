"""The checkpoints of one training in a folder, whether it is in one process (`checkpoints.py`) or on many
(`parallel/checkpoint.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from open4ov import checkpoints
from open4ov.checkpoints import Checkpoint
from open4ov.training import Optimizer
from open4ov.training_pass import Spread

if TYPE_CHECKING:
    from open4ov.parallel.checkpoint import Writer


class Keeper:
    """`folder`: None keeps nothing. On many processes all make the same calls."""

    def __init__(self, folder: Path | None, model: nn.Module, optimizer: Optimizer) -> None:
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self._writer: Writer | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Raises UserError when the disk is full: the one before is there still. On many processes it is written while
        the training goes on, and the next call, or `close`, raises."""
        if self.folder is None:
            return
        if not isinstance(self.model, Spread):
            checkpoints.save(self.folder, self.model, self.optimizer, checkpoint)
            return
        if self._writer is None:
            from open4ov.parallel.checkpoint import Writer  # brings much in

            self._writer = Writer(self.folder)
        self._writer.save(self.model, self.optimizer, checkpoint)

    def load(self, identity: str) -> Checkpoint | None:
        """Puts the newest one of that identity into model and optimizer, whether it was written by one process or many;
        None when there is none. Raises UserError for one that cannot be read."""
        if self.folder is None:
            return None
        if isinstance(self.model, Spread) or any(self.folder.glob("step-*/record.json")):
            from open4ov.parallel import checkpoint  # which reads both

            return checkpoint.load(self.folder, self.model, self.optimizer, lambda other: other == identity)
        return checkpoints.load(self.folder, self.model, self.optimizer, lambda other: other == identity)

    def close(self) -> None:
        """Waits for what is written."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
