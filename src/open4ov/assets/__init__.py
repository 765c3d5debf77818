"""What ships in the package: base models, and the pictures and fonts the corpora are drawn from."""

from __future__ import annotations

from pathlib import Path

from open4ov.errors import UserError, nearest

ROOT = Path(__file__).parent


def base_dir(name: str) -> Path:
    """The folder of a base model in Hugging Face layout: a shipped one by name, or else the path given.

    Raises UserError when there is no such folder, or a file that a model needs is not in it.
    """
    shipped = {path.parent.name: path.parent for path in ROOT.glob("*/config.json")}
    folder = shipped.get(name, Path(name))
    if not folder.is_dir():
        hint = nearest(name, shipped) if "/" not in name else ""
        raise UserError(f"model: no shipped base model and no folder is called '{name}'{hint}")
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise UserError(f"model: {folder} has no {needed}; expected a Qwen3-VL in Hugging Face layout")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"model: {folder} has no weights (*.safetensors); other formats are not read")
    return folder
