"""What asking needs of the machine, as far as it can be told before anything is done: keys, and where answers go."""

from __future__ import annotations

import os
from pathlib import Path

from open4ov.errors import UserError
from open4ov.mllm.ask import ProviderError
from open4ov.recipe import DataSection


def key_of(variable: str, where: str) -> str:
    """The key in an environment variable. Raises `ProviderError` when it is not set; `where`: the part of the recipe
    that names it."""
    if secret := os.environ.get(variable):
        return secret
    raise ProviderError(
        f"{where}.api_key_env: the environment variable {variable} is not set; set it to the endpoint's key (any word "
        "for an endpoint without keys)"
    )


def check(section: DataSection) -> None:
    """Raises `UserError` when a key is not set, or the folder for kept answers cannot be had; makes that folder."""
    for name, one in section.providers.items():
        if one.kind == "openai":
            key_of(one.api_key_env, f"data.providers.{name}")
    if section.embedder.endpoint is not None:
        key_of(section.embedder.endpoint.api_key_env, "data.embedder.endpoint")
    if section.cache:
        try:
            Path(section.cache).mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise UserError(f"data.cache: {error.filename}: cannot be written: {error.strerror}") from None
