"""A model in a folder as the encoder of responses: one of sentence-transformers (extra `embed`), or an encoder of
Hugging Face's such as DeBERTa (extra `hf`), whose last hidden states are averaged over the tokens of a text.

Nothing is fetched, no code of the folder runs, and weights are read from safetensors only.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open4ov.errors import UserError
from open4ov.mllm import embedder_directory

WHERE = "rl.embedder.directory"
LONGEST = 512
"""Tokens of a text, at most, where neither tokenizer nor model says"""


class DirectoryEncoder:
    """n texts -> rows [n, D]. Raises UserError for a folder that holds no such model, and where an extra is missing."""

    def __init__(self, folder: Path, batch: int) -> None:
        self._folder, self._batch = folder, batch
        _check(folder)
        self._sentences: embedder_directory.DirectoryEmbedder | None = None
        if (folder / embedder_directory.LAYOUT).is_file():
            self._sentences = embedder_directory.DirectoryEmbedder(folder, batch, WHERE)
            return
        if importlib.util.find_spec("transformers") is None:
            raise UserError(f"{WHERE}: needs the extra `hf`: pip install 'open4ov[hf]'")
        library: Any = importlib.import_module("transformers")  # too many types to be of use
        library.utils.logging.disable_progress_bar()  # loading a text encoder takes no time worth a bar
        try:
            options = {"local_files_only": True, "trust_remote_code": False}
            self._tokenizer: Any = library.AutoTokenizer.from_pretrained(str(folder), **options)
            self._model: Any = library.AutoModel.from_pretrained(
                str(folder), use_safetensors=True, dtype=torch.float32, **options
            ).eval()
            self._longest = _longest(self._tokenizer, self._model.config)
            self._hidden(["one text"])
        except UserError:
            raise
        except Exception as error:  # whatever a folder's contents make the library raise
            told = " ".join(str(error).split())[:300]
            raise UserError(f"{WHERE}: {folder} cannot be used as a text encoder: {told}") from None

    def __call__(self, texts: list[str]) -> Tensor:
        if self._sentences is not None:
            return torch.from_numpy(self._sentences.texts(texts))  # pyright: ignore[reportUnknownMemberType]
        parts = [self._hidden(texts[at : at + self._batch]) for at in range(0, len(texts), self._batch)]
        return torch.cat(parts) if parts else torch.zeros(0, 1)

    @torch.no_grad()
    def _hidden(self, texts: list[str]) -> Tensor:
        """The mean of the last hidden states over each text's own tokens, [n, D]."""
        asked = self._tokenizer(texts, padding=True, truncation=True, max_length=self._longest, return_tensors="pt")
        states = getattr(self._model(**asked), "last_hidden_state", None)
        if not isinstance(states, Tensor) or states.dim() != 3:
            raise UserError(f"{WHERE}: {self._folder} gives no hidden states of a text; name a text encoder")
        mask = asked["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1).clamp(min=1)


def files(folder: Path) -> list[Path]:
    """The files that a model's rows depend on. Raises UserError as the encoder does for the folder."""
    _check(folder)
    return embedder_directory.model_files(folder)


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{WHERE}: {folder} is no folder; name one of a model on this machine")
    if (folder / embedder_directory.LAYOUT).is_file():
        embedder_directory.files(folder, WHERE)
        return
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(
            f"{WHERE}: {folder} has neither {embedder_directory.LAYOUT} nor config.json; expected a model that "
            "sentence-transformers or transformers saved"
        )
    try:
        told: Any = json.loads(config.read_text("utf-8"))
        kind = str(told.get("model_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{config}: not a model's configuration ({type(error).__name__})") from None
    if "auto_map" in told:
        raise UserError(f"{WHERE}: {folder} needs code of its own, which is never run")
    if "vision_config" in told or "audio_config" in told:
        raise UserError(f"{WHERE}: {folder} is a multimodal model ({kind}); name a text encoder")
    embedder_directory.need_safetensors(folder, WHERE)


def _longest(tokenizer: Any, config: Any) -> int:
    """Tokens that the model has positions for; two fewer than it says, since some begin to count at two."""
    positions = getattr(config, "max_position_embeddings", None)
    limits = [int(tokenizer.model_max_length), int(positions) - 2 if positions and positions > 2 else LONGEST]
    return max(1, min(*limits, 8192))
