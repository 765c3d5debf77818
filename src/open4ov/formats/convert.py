"""A source in any format -> a folder of ours, and a folder of ours -> an export. Both hold a few samples at a time.

A folder of ours has `samples.parquet`, `image-store/`, `import.json` (from what, in which format, how many) and
`skipped.jsonl` (what was refused, where and why). Until they are whole a mark says so, and nobody takes the folder for
a set. An export is written beside its place and moved there when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from open4ov.errors import UserError
from open4ov.formats import registry
from open4ov.formats.card import Card
from open4ov.formats.pairs import FIELDS
from open4ov.formats.pictures import Pictures
from open4ov.formats.reading import Reading
from open4ov.formats.writing import Writing
from open4ov.images import MAX_PIXELS
from open4ov.run_dir import alone, beside, writing
from open4ov.sample import Sample, content_id
from open4ov.store import (
    ImageStore,
    Seen,
    atomic,
    check_finished,
    iter_samples,
    sweep,
    unfinished,
    write_json,
    write_samples,
)
from open4ov.versions import store

Progress = Callable[[int], None]
SAMPLES, STORE, ORIGINALS = "samples.parquet", "image-store", "image-files"
RECORD, SKIPPED = "import.json", "skipped.jsonl"


@dataclass(frozen=True)
class Done:
    """What came of an import or export: the format, by what it was told, counts, and what was left out."""

    format: str
    told_by: str
    samples: int
    left_out: Mapping[str, int]
    examples: Sequence[str] = ()

    @property
    def refused(self) -> int:
        """How many rows or samples were left out."""
        return sum(self.left_out.values())


def import_set(
    source: Path,
    out: Path,
    format: str = "auto",
    *,
    name: str | None = None,
    images: Sequence[Path] = (),
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    licence: str | None = None,
    max_pixels: int = MAX_PIXELS,
    keep_files: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> Done:
    """Reads a source into the folder `out`. Raises UserError; with `strict` also for the first row that is refused.

    `images`: folders below which rows may name image files, beside the source's own; `columns`: column -> field;
    `keep_files`: keeps PNG, JPEG and WebP files as they were, for exports with the same bytes.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    for column, field in (columns or {}).items():
        if field not in FIELDS:
            raise UserError(f"--map {column}={field}: no such field; known: {', '.join(FIELDS)}")
    told_by = "--format"
    if format == "auto":
        format, told_by = registry.guess(source)
    chosen = registry.named(format)
    if format == "folder" and not source.is_dir():
        raise UserError(f"{source}: is no folder; name its format with --format")
    root = source if source.is_dir() else source.parent
    pictures = Pictures(ImageStore(out / STORE), [root, *images], max_pixels, (out / ORIGINALS) if keep_files else None)
    _check_place(out)
    with alone(out):
        _check_place(out)
        sweep(out)
        with (
            unfinished(out),
            atomic(out / SKIPPED) as temporary,
            temporary.open("w", encoding="utf-8", newline="\n") as report,
        ):
            reading = Reading(
                source,
                pictures,
                name or source.resolve().stem,
                split=split,
                licence=licence,
                columns=columns,
                strict=strict,
                report=report,
            )
            found = _counted(_distinct(chosen.read(source, reading), reading), progress)
            written = write_samples(out / SAMPLES, found)
        done = Done(format, told_by, written, dict(reading.reasons), reading.examples)
        write_json(
            out / RECORD,
            {
                "source": source.name,
                "format": format,
                "samples": written,
                "refused": reading.refused,
                "reasons": dict(reading.reasons.most_common()),
                "licence": licence,
            },
        )
        return done


def export_set(
    folder: Path,
    out: Path,
    format: str,
    *,
    stage: str | None = None,
    split: str | None = None,
    name: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Done:
    """Writes a set of samples to the folder `out`, with a dataset card. Raises UserError."""
    chosen = registry.named(format, writes=True)
    assert chosen.write is not None
    path, images = located(folder, stage)
    if name is not None:
        _check_name(name)
    name = name or folder.name or "dataset"
    originals = images.root.parent / ORIGINALS
    pictures = Pictures(images, originals=originals if originals.is_dir() else None)
    card = Card(name, format)
    with beside(out) as part:
        export = Writing(part, pictures, name, card, strict=strict)
        wanted = (sample for sample in iter_samples(path) if split in (None, sample.split))
        chosen.write(_counted(wanted, progress), export)
        if not card.samples:
            reasons = "; ".join(export.left_out) or "it holds none"
            raise UserError(f"{path}: no sample to write as {format}: {reasons}")
        (part / "README.md").write_text(card.text(path.parent, export.left_out), encoding="utf-8")
    return Done(format, "--format", card.samples, dict(export.left_out))


def _check_name(name: str) -> None:
    """A name becomes a file's: nothing in it leads to another folder. Raises UserError."""
    one_part = name == Path(name).name and name not in ("", "..") and "\\" not in name
    if not one_part or not name.isprintable() or len(name) > 100:
        raise UserError(f"--name {name[:100]!r}: give one part of a path, of at most 100 letters that can be printed")


def located(folder: Path, stage: str | None = None) -> tuple[Path, ImageStore]:
    """The samples.parquet of an import, a version, a run directory (of its stage `data`, or another) or a stage's
    folder, and the store with its images. Raises UserError."""
    if folder.is_file():
        path = folder
    elif (folder / "run.json").exists():
        path = folder / (stage or "data") / SAMPLES
    elif stage is not None:
        raise UserError(f"{folder}: --stage names a stage of a run directory, and this is none")
    else:
        path = folder / SAMPLES
    check_finished(path.parent)
    if not path.is_file():
        raise UserError(f"{path}: no such file; name an import, or a run directory whose stage is finished")
    return path, store(path.parent)


def _check_place(out: Path) -> None:
    """A place for an import. One with an unfinished import is taken over: `import.json` comes last."""
    with writing(out):
        if not out.exists():
            return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; give another --out")
    if (out / RECORD).exists():
        raise UserError(f"{out}: holds an import already; give another --out, or delete it")
    known = {SAMPLES, STORE, ORIGINALS, SKIPPED}
    if others := [path.name for path in out.iterdir() if path.name not in known and not path.name.startswith(".")]:
        raise UserError(f"{out}: holds other things ({min(others)}); give an --out that is new or empty")


def _distinct(samples: Iterator[Sample], reading: Reading) -> Iterator[Sample]:
    """The samples, with other ids for those whose id came before: equal rows stay as many as they were."""
    seen = Seen()
    for number, sample in enumerate(samples):
        while not seen.add(sample.id):
            sample.id = content_id(sample.id, number)
        yield sample


def _counted(samples: Iterator[Sample], progress: Progress | None) -> Iterator[Sample]:
    for number, sample in enumerate(samples, start=1):
        yield sample
        if progress is not None:
            progress(number)
