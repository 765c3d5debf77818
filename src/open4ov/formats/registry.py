"""The formats by name, and which one a file or folder is in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from open4ov.errors import UserError, nearest
from open4ov.formats import folder, json_rows, lines, parquet, preference_files, preferences, vlmevalkit, webdataset
from open4ov.formats.pictures import SUFFIXES
from open4ov.formats.preference_rows import becomes_pair
from open4ov.formats.reading import Reading
from open4ov.formats.writing import Writing
from open4ov.sample import Sample


@dataclass(frozen=True)
class Format:
    """A format, and how it is read and written. `write` is None for one that is only read."""

    about: str
    read: Callable[[Path, Reading], Iterator[Sample]]
    write: Callable[[Iterable[Sample], Writing], None] | None


FORMATS: dict[str, Format] = {
    "folder": Format("a folder of image files, each with an optional NAME.json", folder.read, None),
    "parquet": Format(
        "Parquet: ours, or any table by its columns; written for `datasets`", parquet.read, parquet.write
    ),
    **{
        name: Format(about, partial(json_rows.read, name), partial(json_rows.write, name))
        for name, about in (
            ("messages", "JSON lines of OpenAI messages"),
            ("llava", "LLaVA: `conversations` and `image`"),
            ("sharegpt", "ShareGPT: `conversations` and `images`"),
        )
    },
    **{
        name: Format(about, partial(preference_files.read, name), write)
        for name, about, write in (
            ("trl", "preference pairs as TRL takes them: `prompt`, `chosen`, `rejected`", preference_files.write_trl),
            (
                "openrlhf",
                "preference pairs for OpenRLHF: JSON lines of two conversations",
                partial(json_rows.write, "openrlhf"),
            ),
            ("llamafactory", "preference pairs for LLaMA-Factory (ShareGPT)", partial(json_rows.write, "llamafactory")),
            (
                "swift",
                "preference pairs for ms-swift: `messages` and `rejected_response`",
                partial(json_rows.write, "swift"),
            ),
        )
    },
    "webdataset": Format("WebDataset: tar shards", webdataset.read, webdataset.write),
    "vlmevalkit": Format("VLMEvalKit's TSV of evaluation questions", vlmevalkit.read, vlmevalkit.write),
}


def named(name: str, writes: bool = False) -> Format:
    """The format of a name. Raises UserError for an unknown one, and with `writes` for one that is only read."""
    known = [key for key, format in FORMATS.items() if format.write is not None or not writes]
    if name not in known:
        raise UserError(f"--format {name}: no such format{' to write' if writes else ''}{nearest(name, known)}")
    return FORMATS[name]


def guess(source: Path) -> tuple[str, str]:
    """A format's name, and by what it was told. Raises UserError when nothing tells."""
    if source.is_file():
        return _of_file(source)
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    entries = [*source.glob("*"), *(source / "data").glob("*")]
    found = sorted(path for path in entries if path.is_file() and not path.name.startswith("."))
    for name, endings in (
        ("parquet", (".parquet",)),
        ("webdataset", webdataset.ENDINGS),
        ("vlmevalkit", (".tsv",)),
        ("messages", (".jsonl",)),
    ):
        if first := next((path for path in found if path.name.lower().endswith(endings)), None):
            return (name, f"{first.name} in it") if name != "messages" else _of_file(first)
    images = {path.with_suffix("") for path in source.rglob("*") if path.suffix.lower() in (*SUFFIXES, ".dcm")}
    rows = [path for path in found if path.suffix.lower() == ".json" and path.with_suffix("") not in images]
    if rows:
        try:
            return _of_file(rows[0])
        except UserError:
            if not images:
                raise
    return "folder", f"{len(images)} image files in it"


def _of_file(path: Path) -> tuple[str, str]:
    name = path.name.lower()
    for format, endings in (("parquet", (".parquet",)), ("webdataset", webdataset.ENDINGS), ("vlmevalkit", (".tsv",))):
        if name.endswith(endings):
            return format, f"the name of {path.name}"
    if name.endswith((".json", ".jsonl", ".ndjson")):
        row = _first(path)
        if becomes_pair(row):
            return "trl", f"several responses, or a corrected one, in the first row of {path.name}"
        if (form := preferences.form_of(row)) is not None:
            return form, f"two responses in the first row of {path.name}"
        if isinstance(row.get("messages"), list):
            return "messages", f"`messages` in the first row of {path.name}"
        if isinstance(row.get("conversations"), list):
            format = "llava" if "image" in row or ("images" not in row and "system" not in row) else "sharegpt"
            return format, f"`conversations` and its images' field in the first row of {path.name}"
        raise UserError(f"{path}: its first row has neither `messages` nor `conversations`; name its --format")
    raise UserError(f"{path}: no format goes by this name; name it with --format ({', '.join(FORMATS)})")


def _first(path: Path) -> dict[str, Any]:
    for _, row in lines.read(path):
        if isinstance(row, dict):
            return row
    raise UserError(f"{path}: no JSON row in it")
