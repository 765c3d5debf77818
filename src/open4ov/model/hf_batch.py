"""Documents of transformers' models: one (`HFEncoded`), and a padded batch of them (`HFBatch`).

Unlike our packs these batches are padded, since transformers' models promise no attention within documents only.

Shapes: T tokens of all documents, B documents, L longest document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import Documents


@dataclass
class HFEncoded:
    """One conversation as a model of transformers reads it."""

    input_ids: Tensor
    """Long [T]"""
    targets: Tensor
    """Bool [T]: assistant content and its closing end-of-turn token, the tokens to be predicted"""
    aligned: dict[str, Tensor]
    """What else the family's processor gives for each token: [T]"""
    images: dict[str, Tensor]
    """Pixels and whatever else the family's processor gives about the images; empty without images"""

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass
class HFBatch:
    """Documents end to end (`input_ids` Long [T], `targets` Bool [T], borders `cu_seqlens` [B + 1]), and padded:
    `inputs` is what the model's forward takes, tokens [B, L] with their attention mask and the images of all
    documents."""

    input_ids: Tensor
    targets: Tensor
    cu_seqlens: Tensor
    inputs: dict[str, Tensor]

    @property
    def lengths(self) -> Tensor:
        """Long [B]"""
        return self.cu_seqlens.diff()

    @cached_property
    def slots(self) -> Tensor:
        """Long [T]: where in the padded, flattened batch [B * L] each token stands."""
        return self.inputs["attention_mask"].flatten().nonzero()[:, 0]

    @cached_property
    def predicted(self) -> Tensor:
        """Long: the tokens whose probability is asked for: targets, save the first of a document."""
        wanted = self.targets.clone()
        wanted[self.cu_seqlens[:-1]] = False
        return wanted.nonzero()[:, 0]

    def to(self, device: torch.device, dtype: torch.dtype) -> HFBatch:
        """On `device`, the images' numbers in `dtype`; itself when it is there already."""
        if all(v.device == device and (v.dtype == dtype or not v.is_floating_point()) for v in self.inputs.values()):
            return self
        inputs = {
            name: value.to(device, dtype if value.is_floating_point() else value.dtype)
            for name, value in self.inputs.items()
        }
        moved = {name: getattr(self, name).to(device) for name in ("input_ids", "targets", "cu_seqlens")}
        return replace(self, **moved, inputs=inputs)


def pack(documents: Sequence[HFEncoded], left: bool = False) -> HFBatch:
    """A batch of documents (at least one, none empty), padded on the right or, for generation, on the left.

    A padding slot repeats a token that is no image's and is masked. Images are joined along their first dimension;
    where documents differ in another one (tiles of an image, images of a document), zeros fill up to the largest,
    which the families that have such dimensions tell from pixels.
    """
    if not documents or any(len(d) == 0 for d in documents):
        raise ValueError("pack needs at least one document, and no empty ones")
    cu_seqlens = torch.tensor([0, *(len(d) for d in documents)]).cumsum(0)
    pad = Documents.of(cu_seqlens).pad
    real = torch.arange(pad.shape[1]) < cu_seqlens.diff()[:, None]
    if left:
        pad, real = pad.clone(), real.clone()
        for row, document in enumerate(documents):
            pad[row], real[row] = pad[row].roll(-len(document)), real[row].roll(-len(document))
    ids = torch.cat([d.input_ids for d in documents])
    inputs = {"input_ids": ids[pad].where(real, ids[-1]), "attention_mask": real.long()}
    for name in {name: None for d in documents for name in d.aligned}:
        values = torch.cat([d.aligned.get(name, torch.zeros_like(d.input_ids)) for d in documents])
        inputs[name] = values[pad].where(real, torch.zeros_like(values[:1]))
    for name in {name: None for d in documents for name in d.images}:
        inputs[name] = _joined([d.images[name] for d in documents if name in d.images])
    return HFBatch(ids, torch.cat([d.targets for d in documents]), cu_seqlens, inputs)


def _joined(parts: list[Tensor]) -> Tensor:
    """The tensors end to end, filled up with zeros in the other dimensions."""
    sides = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled: list[Tensor] = []
    for part in parts:
        missing = [side - size for side, size in zip(sides, part.shape[1:], strict=True)]
        filled.append(F.pad(part, [n for amount in reversed(missing) for n in (0, amount)]) if any(missing) else part)
    return torch.cat(filled)
