"""Where a training stands: what goes from one call of `fit` to the next, and into its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from open4ov.averaging import Average, trained_weights
from open4ov.checkpoints import Checkpoint, load, put, save
from open4ov.errors import UserError
from open4ov.model import Trainable
from open4ov.sft.validation import Watch
from open4ov.training import Optimizer
from open4ov.training_pass import Spread

if TYPE_CHECKING:
    from open4ov.parallel.checkpoint import Writer


@dataclass
class Carry:
    """The state of a training that may take several calls of `fit`. It goes from each to the next, and is not looked
    into.

    `chain` has what each call is a training of. After a restart it may be longer than `calls` says that there were:
    those in it are taken as done, but for the last, of which `begun` steps are.
    """

    optimizer: Optimizer
    average: Average | None = None
    watch: Watch | None = None
    live: dict[str, Tensor] | None = None
    """The weights that training goes on with, where the model was left with others (their average)"""
    chain: list[str] = field(default_factory=list)
    calls: int = 0
    begun: int = 0
    steps: int = 0
    tokens: int = 0
    room: int = 0
    """Tokens that the packs so far had room for"""
    computed: int = 0
    """Tokens without what others shared with them"""
    flops: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    listed: dict[str, list[str]] = field(default_factory=dict)
    """Ids of samples that were left out or split, of all calls"""
    writer: Writer | None = field(default=None, repr=False)
    """Of this call's checkpoints, where the training is on many processes"""

    @property
    def stopped(self) -> bool:
        """Whether validation has ended the training: nothing is trained any more."""
        return self.watch is not None and self.watch.stopped

    def count(self, tokens: int, room: int, computed: int, flops: float) -> None:
        """One step more, of so many tokens in packs with so much room, and so many computed."""
        self.steps += 1
        self.begun += 1
        self.tokens += tokens
        self.room += room
        self.computed += computed
        self.flops += flops

    def enter(self, identity: str, steps: int, model: nn.Module) -> int:
        """Begins a call of that identity and many steps, and gives how many of these are done already."""
        if self.live is not None:
            put(model, self.live)
            self.live = None
        if len(self.chain) == self.calls:
            self.chain.append(identity)
            self.begun = 0
        elif self.chain[self.calls] != identity:
            raise UserError(
                "the training was interrupted after it had gone on with other samples than those that are now chosen "
                f"for its part {self.calls + 1}; delete the stage's folder in .work and give the same command again"
            )
        return steps if self.stopped or len(self.chain) > self.calls + 1 else self.begun

    def leave(self, model: nn.Module) -> None:
        """Ends a call: leaves the model with the weights that would be saved now."""
        self.calls += 1
        if self.writer:  # with its thread and its group of processes: the next call, if there is one, makes another
            writer, self.writer = self.writer, None
            writer.close()
        if self.watch and self.stopped:
            put(model, self.watch.best_weights)
        elif self.average:
            self.live = trained_weights(model)
            put(model, self.average.weights)

    def save(self, folder: Path, model: Trainable[Any, Any]) -> None:
        """Writes a checkpoint. Raises as `checkpoints.save` does."""
        notes: dict[str, Any] = {key: getattr(self, key) for key in _NOTED}
        tensors: dict[str, dict[str, Tensor]] = {}
        if self.average:
            notes["averaged"] = self.average.steps
            tensors["average"] = self.average.weights
        if self.watch:
            notes["watch"] = self.watch.notes()
            tensors["best"] = self.watch.best_weights
        checkpoint = Checkpoint(self.steps, " ".join(self.chain), self.curve, notes, tensors)
        if isinstance(model, Spread):
            from open4ov.parallel.checkpoint import Writer  # brings much in

            self.writer = self.writer or Writer(folder)
            self.writer.save(model, self.optimizer, checkpoint)
        else:
            save(folder, model, self.optimizer, checkpoint)

    def resume(self, folder: Path, model: Trainable[Any, Any], identity: str) -> None:
        """Takes up the newest checkpoint of a training that begins with the call of that identity, if there is one."""
        read = load
        if isinstance(model, Spread):
            from open4ov.parallel import checkpoint

            read = checkpoint.load
        found = read(folder, model, self.optimizer, lambda other: other.split()[0] == identity)
        if not found:
            return
        self.chain, self.steps, self.curve = found.identity.split(), found.done, found.curve
        for key in _NOTED:
            setattr(self, key, found.notes[key])
        if self.average:
            self.average.restore(found.notes["averaged"], found.tensors["average"])
        if self.watch:
            self.watch.restore(found.notes["watch"], found.tensors.get("best", {}))


_NOTED = ("begun", "tokens", "room", "computed", "flops")
