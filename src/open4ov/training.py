"""What every trainer of a whole model on one machine needs: freezing, optimizers, a step. Learning-rate schedules are
in `schedules.py`, checkpoints in `checkpoints.py`.

sft and rl build on this and on nothing of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from open4ov.errors import UserError
from open4ov.model import Trainable
from open4ov.training_pass import Spread


def freeze_vision(model: Trainable[Any, Any]) -> None:
    """No gradient for the vision tower, its mergers and DeepStack taps included (paper §4.2.3): it stays as it is."""
    for parameter in model.vision_parameters():
        parameter.requires_grad_(False)


class Optimizer:
    """One or more of PyTorch's optimizers, each with parameters of its own, stepped and saved together."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        return {parameter: state for part in self.parts for parameter, state in part.state.items()}

    def restore(self, state: dict[Tensor, dict[str, Tensor]]) -> None:
        """Puts back what `state` gave."""
        for part in self.parts:
            for group in part.param_groups:
                part.state.update({p: state[p] for p in group["params"] if p in state})

    def step(self) -> None:
        for part in self.parts:
            part.step()


EMBEDDING_EPS = 1e-4
"""AdamW's eps for embedding and head, far above the gradients of words that a batch does not use.

The softmax gives every word of the vocabulary a gradient in every step. AdamW would blow the faint ones up to whole
steps, and words that the batches of a vertical never use would drift away: what a model forgets first.
"""


Factors = Mapping[int, float]
"""id of a parameter -> its share of the learning rate; those that are not named have 1"""


def adamw(
    model: Trainable[Any, Any],
    learning_rate: float,
    weight_decay: float = 0.0,
    factors: Factors | None = None,
    embedding_eps: float = EMBEDDING_EPS,
) -> Optimizer:
    """AdamW over the parameters that are not frozen; matrices decay, those of experts too; embeddings, norms and biases
    do not."""
    groups = _by_factor(_adamw_groups(model, weight_decay, embedding_eps), factors)
    return Optimizer(torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True))


class Worded(Protocol):
    """A model, or one within what is trained, that knows which of its parameters stand for words."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def word_parameters(self) -> list[Tensor]: ...


def muon(
    model: Worded,
    learning_rate: float,
    weight_decay: float = 0.0,
    factors: Factors | None = None,
    embedding_eps: float = EMBEDDING_EPS,
) -> Optimizer:
    """Muon over the matrices of the layers, its steps scaled to AdamW's size; AdamW over the rest, as `adamw` has it:
    mergers and taps, embeddings, norms, biases, and experts, which lie in one tensor that Muon cannot take. It learns
    in fewer tokens than AdamW alone, for about a tenth more time a step at nano size. Frozen parameters are left
    out. Raises UserError for a model on several processes: it works on whole matrices, which none of them has."""
    if isinstance(model, Spread):
        raise UserError("sft.optimizer: muon is for one process; use adamw on several")
    matrices, _, _ = _split(model, "merger", "taps")  # wide: they would be most of Muon's cost
    chosen = {id(p) for p in matrices}
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        groups = _by_factor([{"params": matrices}], factors)
        parts.append(
            torch.optim.Muon(groups, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    rest = [
        {**group, "params": [p for p in group["params"] if id(p) not in chosen]}
        for group in _adamw_groups(model, weight_decay, embedding_eps)
    ]
    rest = _by_factor(rest, factors)
    if rest:
        parts.append(torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True))
    return Optimizer(*parts)


def _adamw_groups(model: Worded, weight_decay: float, embedding_eps: float) -> list[dict[str, Any]]:
    """What is trained, by decay and eps."""
    matrices, experts, others = _split(model)
    words = model.word_parameters()
    known = {id(p) for p in words}
    return [
        {"params": [p for p in (*matrices, *experts) if id(p) not in known], "weight_decay": weight_decay},
        {"params": [p for p in others if id(p) not in known], "weight_decay": 0.0},
        {"params": [p for p in words if p.requires_grad], "weight_decay": 0.0, "eps": embedding_eps},
    ]


def _by_factor(groups: Sequence[dict[str, Any]], factors: Factors | None) -> list[dict[str, Any]]:
    """The groups that hold something, one for each factor among their parameters."""
    split: list[dict[str, Any]] = []
    for group in groups:
        shares = [(factors or {}).get(id(p), 1.0) for p in group["params"]]
        for share in dict.fromkeys(shares):
            params = [p for p, own in zip(group["params"], shares, strict=True) if own == share]
            split.append({**group, "params": params, "factor": share})
    return split


def _split(model: Worded, *left_out: str) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """What is trained: the matrices of the layers; those of experts, many in one tensor; and tables of vectors, norms,
    biases and what is `left_out`."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    tables = ("embed", "position", "head.", "heads.", "router", *left_out)
    matrices = [p for name, p in named if p.ndim == 2 and not any(part in name for part in tables)]
    experts = [p for name, p in named if p.ndim == 3 and ".mlp." in name]
    chosen = {id(p) for p in (*matrices, *experts)}
    return matrices, experts, [p for _, p in named if id(p) not in chosen]


class Diverged(UserError, FloatingPointError):
    """A training whose gradient is not finite any more."""


def step(model: nn.Module, optimizer: Optimizer, learning_rate: float, grad_clip: float) -> float:
    """One update from the gradients at hand; clears them and gives their norm before clipping.

    Raises Diverged when the gradient is not finite: nothing has been changed then, and the gradients are cleared.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if isinstance(model, Spread):
        norm = model.clip(parameters, grad_clip)
    else:
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, grad_clip))
    if not math.isfinite(norm):
        model.zero_grad(set_to_none=True)
        raise Diverged(f"the gradient's norm is {norm}: lower the learning rate ({learning_rate:g})")
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]
    optimizer.step()
    model.zero_grad(set_to_none=True)
    return norm


def device(choice: str, key: str) -> torch.device:
    """`auto` is cuda where there is one. Raises UserError, naming the recipe's key, for a card that is not there."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key}: there is no CUDA device here; set it to auto or cpu")
    return torch.device("cuda" if choice == "cuda" or (choice == "auto" and torch.cuda.is_available()) else "cpu")


def same_card() -> Callable[[], None]:
    """For a thread that is about to be started: what it calls first, to use the CUDA card that this one uses. (Its own
    would be the first of the machine, whichever process it is of.)"""
    card = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    return lambda: None if card is None else torch.cuda.set_device(card)


def kind(choice: str, device: torch.device | str = "cpu") -> Literal["bf16", "fp32"]:
    """`auto` is bf16 where the device multiplies matrices in it at speed: CUDA cards, and CPUs with AVX-512 or AMX. On
    others PyTorch has no such kernels, and bf16 takes ten times as long as fp32."""
    if choice != "auto":
        return "bf16" if choice == "bf16" else "fp32"
    fast = torch.device(device).type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if fast else "fp32"


def autocast(choice: str, device: torch.device | str = "cpu") -> torch.dtype | None:
    """What an engine computes in to generate as `precision` trains; None: the weights' own type."""
    return torch.bfloat16 if kind(choice, device) == "bf16" else None


def precision(choice: str, device: torch.device | str = "cpu") -> AbstractContextManager[Any]:
    """`bf16`: matrix products on `device` in bfloat16 (weights, sums and the optimizer stay in float32); `fp32`: no
    change; `auto`: see `kind`."""
    half = autocast(choice, device)
    return torch.autocast(torch.device(device).type, half) if half else nullcontext()
