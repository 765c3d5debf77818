"""What tells the responses of a group apart (paper §4.2.2, eq. 7): an encoder, and the distance above which two differ.

The paper embeds by a DeBERTa-based encoder and leaves its threshold open. Here the encoder is named by the recipe
(`rl.embedder`), and a threshold that is right for one is wrong for another: `auto` sets it by labelled pairs
(`labelled.py`), once for each encoder, and keeps it by the digest of both.

`steps` ships: of a worked answer it sees the way, not the wording, as far as figures and signs show it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from open4ov import functions
from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.recipe_rl_encoder import EncoderSection
from open4ov.rl.distance import labelled
from open4ov.run_dir import fingerprint
from open4ov.store import write_json

WHERE = "rl.embedder"
_BUCKETS = 4096
_WEIGHTS = {"figure": 2.0, "next": 1.0, "sign": 0.5, "word": 0.1}
_TOKEN = re.compile(r"[一-鿿]|[a-z]+|\d+(?:\.\d+)?|[-+*/×÷=]")
_BOX = re.compile(r"\\boxed\s*\{[^{}]*\}")
_STOP = frozenset(
    [
        *("a", "an", "the", "of", "on", "in", "at", "to", "for", "and", "or", "is", "are", "was", "be", "it", "its"),
        *("this", "that", "i", "so", "there", "we", "he", "she", "they", "by", "with", "from", "let", "me", "look"),
        *("picture", "carefully", "chart", "first", "next", "now", "final", "answer"),
    ]
)

Encoder = Callable[[list[str]], Tensor]
"""n texts -> unit rows [n, D]"""


def steps(texts: list[str]) -> Tensor:
    """The shipped encoder: [n, 4096], unit rows (texts without any feature: one fixed row).

    Features, hashed: the figures of the working, which figure follows which, the signs of calculation, and weakly the
    words; what stands in the box is left out, for all right responses share it. Of 216 labelled pairs that it was not
    calibrated on it tells 79 % rightly (docs/rl.md); hashed word n-grams 68 %. A slip counts as another way.
    """
    rows = torch.zeros(len(texts), _BUCKETS, dtype=torch.float64)
    for row, text in zip(rows, texts, strict=True):
        for feature, weight in (_features(text) or {"nothing": 1.0}).items():
            row[int.from_bytes(hashlib.blake2s(feature.encode(), digest_size=4).digest(), "little") % _BUCKETS] += (
                weight
            )
    return rows / rows.norm(dim=-1, keepdim=True)


def ngram_embedding(texts: list[str]) -> Tensor:
    """An encoder of wording: hashed word and character n-grams, [n, 4096], unit rows (empty texts: one fixed row).

    It sees wording, not meaning or working; `steps`, the default, does better. Words and word pairs of lower-cased
    text, and for scripts without spaces characters and character pairs; counts are damped by a square root.
    With a threshold of 0.4 one changed word in a sentence of six is "similar", another wording "different".
    """
    rows = torch.zeros(len(texts), _BUCKETS, dtype=torch.float64)
    for row, text in zip(rows, texts, strict=True):
        words = re.findall(r"[一-鿿]|[^\W_]+|[^\w\s]", text.lower())
        grams = [*words, *(f"{a} {b}" for a, b in pairwise(words))]
        for gram in grams or [""]:
            row[int.from_bytes(hashlib.blake2s(gram.encode(), digest_size=4).digest(), "little") % _BUCKETS] += 1
    rows = rows.sqrt()
    return rows / rows.norm(dim=-1, keepdim=True)


def build(section: EncoderSection) -> Encoder:
    """The encoder of a recipe, tried on one text. Its rows have length 1.

    Raises UserError for a function that cannot be found or gives no rows, for a folder that is no model, and where an
    extra is missing.
    """
    if section.directory is not None:
        from open4ov.rl.distance.directory import DirectoryEncoder

        encoder: Encoder = DirectoryEncoder(Path(section.directory), section.batch)
        named = section.directory
    else:
        named = section.name or ""
        encoder = function(named, WHERE)

    def encode(texts: list[str]) -> Tensor:
        return _unit(encoder(texts), len(texts), named)

    encode(["3 + 4 = 7."])
    return encode


def identity(section: EncoderSection) -> str:
    """A digest of what an encoder's rows depend on beside its name: a model's files, the source of a function that is
    not of this package ("" for one that is). Raises UserError as `build` does for the name."""
    if section.directory is not None:
        from open4ov.rl.distance.directory import files

        return fingerprint(files(Path(section.directory)))
    return functions.foreign(section.name or "", WHERE)


def digest(section: EncoderSection) -> str:
    """16 hex digits of an encoder: its name or files, and its source."""
    facts = [section.name, identity(section), "" if section.name is None else functions.digest(section.name, WHERE)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def threshold(
    section: EncoderSection, given: float | str, encoder: Encoder, folder: Path | None
) -> tuple[float, dict[str, Any]]:
    """The distance above which two responses differ, and what is to be told of it.

    given: the recipe's `rl.diversity_threshold`. For `auto` the labelled pairs set it, and `folder`, if there is one
    (it is made where it is missing), keeps it for the same encoder and the same pairs. Raises UserError for an encoder
    that tells nothing apart.
    """
    if not isinstance(given, str):
        return given, {"threshold": given}
    path = folder / f"{digest(section)}-{fingerprint(labelled.files())[:16]}.json" if folder else None
    if path and path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return float(kept["threshold"]), kept
    try:
        found = labelled.calibrate(encoder).figures()
    except ValueError as error:
        raise UserError(
            f"rl.diversity_threshold: auto cannot be set for {section.name or section.directory}: {error}"
        ) from None
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    return found["threshold"], cast("dict[str, Any]", found)


def _features(text: str) -> dict[str, float]:
    tokens = _TOKEN.findall(_BOX.sub(" ", text).lower())
    figures = [token for token in tokens if token[0].isdigit()]
    found: dict[str, float] = defaultdict(float)
    for figure in set(figures):
        found[f"figure {figure}"] += _WEIGHTS["figure"]
    for one, other in pairwise(figures):
        found[f"next {one} {other}"] += _WEIGHTS["next"]
    for token in tokens:
        if token in "-+*/×÷":
            found[f"sign {token}"] += _WEIGHTS["sign"]
        elif token != "=" and not token[0].isdigit() and token not in _STOP:
            found[f"word {token}"] += _WEIGHTS["word"]
    return {feature: weight**0.5 for feature, weight in found.items()}


def _unit(found: Any, count: int, named: str) -> Tensor:
    """Rows [n, D] float64 of length 1. Raises UserError for another shape, and for values that are not finite."""
    try:
        rows = torch.as_tensor(found, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{WHERE}: {named} gave no array of numbers ({error})") from None
    if rows.dim() != 2 or len(rows) != count or not rows.shape[1]:
        raise UserError(f"{WHERE}: {named} gave shape {list(rows.shape)} for {count} texts; expected [{count}, D]")
    if not bool(torch.isfinite(rows).all()):
        raise UserError(f"{WHERE}: {named} gave values that are not finite")
    norms = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(norms == 0, torch.ones_like(norms), norms)
