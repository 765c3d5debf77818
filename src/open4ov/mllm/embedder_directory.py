"""A sentence-transformers model in a folder as an embedder (extra `embed`), CLIP and its like among them.

Nothing is fetched, no code of the folder runs, and weights are read from safetensors only. Whether the model embeds
images is what it says itself (its `modalities`).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open4ov.errors import UserError
from open4ov.mllm.ask import Picture

Floats = NDArray[np.float32]
WHERE = "data.embedder.directory"
"""Whose messages these are, unless another option names the folder"""
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
LAYOUT = "modules.json"


class DirectoryEmbedder:
    """Raises UserError for a folder that is none of sentence-transformers, holds no safetensors or needs code of its
    own, and where the extra is not installed."""

    def __init__(self, folder: Path, batch: int, where: str = WHERE) -> None:
        _check(folder, where)
        if importlib.util.find_spec("sentence_transformers") is None:
            raise UserError(f"{where}: needs the extra `embed`: pip install 'open4ov[embed]'")
        opened: Any = importlib.import_module("sentence_transformers")  # carries no types
        try:
            self._model: Any = opened.SentenceTransformer(
                str(folder), local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except Exception as error:  # whatever a folder's contents make the library raise
            told = " ".join(str(error).split())[:300]
            raise UserError(f"{where}: {folder} cannot be opened as a sentence-transformers model: {told}") from None
        self._folder, self._batch, self._where = folder, batch, where
        self.sees = "image" in {str(one) for one in self._model.modalities}

    def texts(self, texts: Sequence[str]) -> Floats:
        return self._encode(list(texts))

    def images(self, pictures: Sequence[Picture]) -> Floats:
        if not self.sees:
            raise UserError(f"{self._where}: {self._folder} embeds texts only; images are described instead")
        parts = [
            self._encode([picture.image for picture in pictures[start : start + self._batch]])
            for start in range(0, len(pictures), self._batch)
        ]
        return np.concatenate(parts) if parts else self._encode([])

    def _encode(self, inputs: list[Any]) -> Floats:
        from open4ov.mllm.embedders import rows

        if not inputs:
            return np.zeros((0, int(self._model.get_embedding_dimension() or 0)), dtype=np.float32)
        found = self._model.encode(inputs, batch_size=self._batch, convert_to_numpy=True, show_progress_bar=False)
        return rows(found, len(inputs))


def files(folder: Path, where: str = WHERE) -> list[Path]:
    """The files that a model's rows depend on. Raises UserError as the embedder does for the folder."""
    _check(folder, where)
    return model_files(folder)


def model_files(folder: Path) -> list[Path]:
    """All files of a model's folder but hidden ones."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]


def need_safetensors(folder: Path, where: str) -> None:
    """Raises UserError for a folder without weights as safetensors."""
    if not any(folder.rglob("*.safetensors")):
        found = sorted({path.suffix for path in folder.rglob("*") if path.suffix in _OTHER_WEIGHTS})
        told = f" (only {', '.join(found)}); convert them" if found else ""
        raise UserError(f"{where}: {folder} has no weights as safetensors{told}")


def _check(folder: Path, where: str) -> None:
    if not folder.is_dir():
        raise UserError(f"{where}: {folder} is no folder; name one of a sentence-transformers model on this machine")
    layout = folder / LAYOUT
    if not layout.is_file():
        raise UserError(f"{where}: {folder} has no {LAYOUT}; expected a folder that sentence-transformers saved")
    try:
        modules: Any = json.loads(layout.read_text("utf-8"))
        kinds = [str(module["type"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{layout}: not a list of modules ({type(error).__name__})") from None
    foreign = [kind for kind in kinds if not kind.startswith("sentence_transformers.")]
    if foreign:
        raise UserError(f"{layout}: the module {foreign[0]} is code of the folder's own, which is never run")
    need_safetensors(folder, where)
