"""What puts texts and images into one space for fine matching (`data.embedder`, paper §2.2.3).

An embedder gives rows for texts, and for images if it `sees`; where it does not, images are described and the
descriptions embedded. Rows need not be of length 1. `open_embedder` builds the one of a recipe, `identity` says what
its rows depend on beside the recipe: a run's stage is made anew when that changes.
"""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.mllm.ask import Picture
from open4ov.recipe_embedder import SHIPPED, EmbedderSection
from open4ov.run_dir import fingerprint

if TYPE_CHECKING:
    from open4ov.mllm.desk import Desk

Floats = NDArray[np.float32]
WHERE = "data.embedder"


class Embedder(Protocol):
    """`sees`: whether `images` may be called."""

    sees: bool

    def texts(self, texts: Sequence[str]) -> Floats:
        """[N, D]"""
        ...

    def images(self, pictures: Sequence[Picture]) -> Floats:
        """[N, D], in the space of the texts."""
        ...


class FunctionEmbedder:
    """A function that a recipe names: a list of N texts -> a float array [N, D]. It sees no image."""

    sees = False

    def __init__(self, embed: Callable[[list[str]], Floats]) -> None:
        self._embed = embed

    def texts(self, texts: Sequence[str]) -> Floats:
        return rows(self._embed(list(texts)), len(texts))

    def images(self, pictures: Sequence[Picture]) -> Floats:
        raise UserError(f"{WHERE}: embeds texts only; images are described instead")


class ShippedEmbedder:
    """The embedder that ships in the package (towers.py)."""

    sees = True

    def __init__(self) -> None:
        from open4ov.mllm.towers import shipped

        self._towers = shipped()

    def texts(self, texts: Sequence[str]) -> Floats:
        return self._towers.texts(texts)

    def images(self, pictures: Sequence[Picture]) -> Floats:
        step = 64  # pixels of so many pictures are held at once
        parts = [
            self._towers.images([picture.image for picture in pictures[start : start + step]])
            for start in range(0, len(pictures), step)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self._towers.width), np.float32)


class Remembered:
    """An embedder that keeps the rows of the last images, for those that are ranked first and matched after."""

    def __init__(self, inner: Embedder, most: int = 16_384) -> None:
        self.sees = inner.sees
        self._inner, self._most = inner, most
        self._rows: dict[str, Floats] = {}
        self._lock = threading.Lock()

    def texts(self, texts: Sequence[str]) -> Floats:
        return self._inner.texts(texts)

    def images(self, pictures: Sequence[Picture]) -> Floats:
        with self._lock:
            found = {picture.sha: self._rows[picture.sha] for picture in pictures if picture.sha in self._rows}
        new = list({picture.sha: picture for picture in pictures if picture.sha not in found}.values())
        if new or not pictures:
            found.update(zip([picture.sha for picture in new], given := self._inner.images(new), strict=True))
            if not pictures:
                return given
        with self._lock:
            for picture in new:
                self._rows[picture.sha] = found[picture.sha]
            for old in list(self._rows)[: max(0, len(self._rows) - self._most)]:
                del self._rows[old]
        return np.stack([found[picture.sha] for picture in pictures])


def open_embedder(section: EmbedderSection, desk: Desk | None = None) -> Embedder:
    """The embedder of a recipe. `desk`: where answers of endpoints are kept and counted.

    Raises UserError for a function, folder or key that is not there, or an extra that is not installed.
    """
    if section.endpoint is not None:
        from open4ov.mllm.embedder_endpoint import EndpointEmbedder

        return EndpointEmbedder(section.endpoint, desk)
    if section.directory is not None:
        from open4ov.mllm.embedder_directory import DirectoryEmbedder

        return DirectoryEmbedder(Path(section.directory), section.batch)
    if section.name == SHIPPED:
        return ShippedEmbedder()
    return FunctionEmbedder(tried(section.name or ""))


def tried(path: str) -> Callable[[list[str]], Floats]:
    """A function that a recipe names, tried on one text before anything is asked or paid.

    Raises UserError for one that cannot be found, fails, or gives anything but a row of numbers for a text.
    """
    embed = cast("Callable[[list[str]], Floats]", function(path, WHERE))
    try:
        found = np.asarray(embed(["a red warning light"]), np.float32)
    except UserError:
        raise
    except Exception as error:  # whatever a function of the user's raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{WHERE}: {path!r} fails on a list of one text ({reason})") from error
    if found.ndim != 2 or len(found) != 1 or not found.shape[1] or not np.isfinite(found).all():
        raise UserError(
            f"{WHERE}: {path!r} gives an array of shape {found.shape} for a list of one text; it must give [1, D] "
            "finite numbers"
        )
    return embed


def identity(section: EmbedderSection) -> str:
    """A digest of what an embedder's rows depend on and the recipe does not hold: the source of a function that is not
    of this package, the files of a model. "" where there is nothing. Raises UserError as `open_embedder` does."""
    if section.endpoint is not None:
        return ""
    if section.directory is not None:
        from open4ov.mllm.embedder_directory import files

        return fingerprint(files(Path(section.directory)))
    if section.name == SHIPPED:
        from open4ov.assets import base_dir
        from open4ov.mllm.towers import CALIBRATION, WEIGHTS

        return fingerprint([WEIGHTS, CALIBRATION, *base_dir("nano").glob("*.safetensors")])
    module = (section.name or "").partition(":")[0]
    function(section.name or "", WHERE)
    if module.partition(".")[0] == "open4ov":  # changes with the package, as all else in it
        return ""
    source = inspect.getsourcefile(importlib.import_module(module))
    return fingerprint([Path(source)]) if source else ""


def rows(found: Any, count: int) -> Floats:
    """What an embedder gave as an array [count, D]. Raises UserError for another shape, or values that are none."""
    try:
        array = np.asarray(found, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{WHERE}: gave no array of numbers ({error})") from None
    if array.ndim != 2 or len(array) != count:
        raise UserError(f"{WHERE}: gave an array of shape {list(array.shape)} for {count} texts; expected [{count}, D]")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise UserError(f"{WHERE}: row {row} (from 0) holds values that are not finite")
    return array
