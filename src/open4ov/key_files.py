"""Digests of what a run reads from outside of it: folders, evaluation sets, models, and functions that a user wrote.

What cannot be read, or a function that is not there, raises UserError, before any stage runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from open4ov import assets
from open4ov.errors import UserError
from open4ov.functions import foreign
from open4ov.recipe import Recipe
from open4ov.run_dir import fingerprint, hash_json


@cache
def corpora() -> str:
    """A digest of the shipped corpora: pictures, fonts, words and the in-car knowledge."""
    from open4ov.corpora import in_car

    knowledge = Path(in_car.__file__).parent
    files = [path for path in (Path(assets.__file__).parent / "corpora").rglob("*") if path.is_file()]
    return fingerprint([*files, *knowledge.glob("*.yaml")])


def folder(folder: Path) -> str:
    """A digest of a folder of images and annotations: samples name their files by where these lie below it."""
    return fingerprint((path for path in folder.rglob("*") if path.is_file()), folder)


def functions(named: Mapping[str, str | None]) -> dict[str, str]:
    """Digests of the user's own functions, by the option that names one: with another text a stage is made anew. Raises
    UserError for a name that leads nowhere."""
    return there({key: foreign(path, key) for key, path in named.items() if path})


def there(files: dict[str, str]) -> dict[str, str]:
    """Those that are of something."""
    return {key: digest for key, digest in files.items() if digest}


def evaluation_sets(recipe: Recipe) -> dict[str, str]:
    """A digest of the evaluation sets that data are kept clean of, and of the pictures that they name by path: one that
    is put where it was missing makes the data anew."""
    hygiene = recipe.data.hygiene
    paths = [Path(name) for name in hygiene.decontaminate]
    for path in paths:
        if not path.is_file():
            raise UserError(f"data.hygiene.decontaminate: no such file: {path}")
    own = {"burned_in": hygiene.burned_in, "question_embedder": hygiene.question_embedder}
    found = functions({f"data.hygiene.{key}": path for key, path in own.items()})
    if not paths:
        return found
    found["data.hygiene.decontaminate"] = fingerprint(paths)
    named = _pictures_of(paths, [Path(name) for name in hygiene.decontaminate_images])
    if named:
        there = fingerprint({file for _, file in named if file is not None})
        missing = sorted({name for name, file in named if file is None})
        found["data.hygiene.decontaminate_images"] = hash_json([there, missing])
    return found


def _pictures_of(paths: list[Path], folders: list[Path]) -> list[tuple[str, Path | None]]:
    from open4ov.data import evaluation_tsv

    return [item for path in paths for item in evaluation_tsv.named(path, folders).items()]


def base(recipe: Recipe) -> str:
    """A digest of the model that a run begins with."""
    return model(recipe.model)


def model(name: str) -> str:
    """A digest of a model's files."""
    folder = assets.base_dir(name)
    return fingerprint(path for path in folder.iterdir() if path.is_file())
