"""Documents to image-question-answer samples (paper §4.1.1): one document after another, each finished on disk.

A finished document is not read or asked about again by the same command; one that cannot be used is listed with the
reason and the others go on. Samples, what was rejected, the figures, and a report stand together at the end; until they
do, a mark keeps the folder from being taken for a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from open4ov.documents import judging
from open4ov.documents.blocks import DocumentError
from open4ov.documents.candidates import Figure, Found, find
from open4ov.documents.extract import Settings, extract
from open4ov.documents.samples import Document, asked_samples, figure_sample, language_of, printed_sample
from open4ov.errors import UserError
from open4ov.mllm import costs, provenance
from open4ov.mllm.answers import FigureQuestions
from open4ov.mllm.ask import AnswerError, Asker, Picture, Prompt, Request, version
from open4ov.mllm.took import Account
from open4ov.progress import Reporter
from open4ov.sample import Sample, content_id
from open4ov.store import ImageStore, read_samples, sweep, unfinished, write_json, write_samples

STORE = "image-store"
STAGE = "documents"
_RULES = 2
"""Counts up when the same document would give other samples: finished ones are made anew."""

_BATCH = 64  # figures asked about at once


def build(
    inputs: Sequence[Path], out: Path, settings: Settings, asker: Asker | None, questions: int, reporter: Reporter
) -> dict[str, Any]:
    """Writes samples.parquet, rejected.parquet, figures.parquet and report.json into `out`, and gives the report.

    Without an `asker` only printed questions become samples, and none is tried without its picture. Raises UserError
    when there is nothing to read, or when the catalog would have to play the role `documents`.

    The report tells what the answers took, document by document, and what was sent and paid over all starts of the
    command: a document that is finished takes its figures along.
    """
    if asker is not None:
        asker.require_model(
            judging.ROLE, "leave out --recipe: then printed questions become samples, and figures get none"
        )
    files = list(_listed(inputs))
    if not files:
        raise UserError("no document: name PDF files, folders of them, or MinerU's content_list.json files")
    with unfinished(out):
        return _build(files, out, settings, asker, questions, reporter)


def _build(
    files: Sequence[Path], out: Path, settings: Settings, asker: Asker | None, questions: int, reporter: Reporter
) -> dict[str, Any]:
    sweep(out)
    store = ImageStore(out / STORE)
    entries: list[dict[str, Any]] = []
    folders: list[Path] = []
    seen: dict[str, str] = {}
    reporter.started(STAGE, 1, 1)
    for at, file in enumerate(files):
        entry: dict[str, Any] = {"file": str(file)}
        entries.append(entry)
        try:
            document = Document(str(file), _sha(file))
            if document.sha in seen:
                raise DocumentError(f"is the same as {seen[document.sha]}")
            seen[document.sha] = document.name
            identity = [asker.identity(judging.ROLE), *map(version, judging.PROMPTS)] if asker else None
            key = content_id(_RULES, document.sha, settings.model_dump(), identity, questions if asker else 0)
            folder = out / STAGE / key
            entry |= _finished(document, file, folder, store, settings, asker, questions, reporter)
            folders.append(folder)
        except DocumentError as error:
            entry |= {"status": "left out", "reason": str(error)}
            reporter.note(STAGE, f"{file}: {error}")
        reporter.progress(STAGE, "documents", at + 1, len(files))
    write_samples(out / "samples.parquet", _all(folders, False))
    write_samples(out / "rejected.parquet", _all(folders, True))
    write_samples(
        out / "figures.parquet", (one for folder in folders for one in read_samples(folder / "figures.parquet"))
    )
    report = _report(entries, asker)
    write_json(out / "report.json", report)
    return report


def _listed(inputs: Sequence[Path]) -> Iterator[Path]:
    """Files as given; of folders, the PDF files and MinerU lists below them, in the order of their names."""
    for path in inputs:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            if file.is_file() and (file.suffix.lower() == ".pdf" or file.name.endswith("content_list.json")):
                yield file


def _sha(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:
        raise DocumentError("no such file") from None
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror or error}") from None


def _finished(
    document: Document, file: Path, folder: Path, store: ImageStore, settings: Settings, asker: Asker | None,
    questions: int, reporter: Reporter,
) -> dict[str, Any]:  # fmt: skip
    """What the report says of a document; made now, or by an earlier run of the same command."""
    done = folder / "done.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))

    def progress(number: int, total: int) -> None:
        reporter.progress(STAGE, f"reading {file.name}", number, total)

    if asker is not None:
        asker.account = Account()
    faults = extract(file, folder, store, settings, progress)
    found = find(folder)
    samples: list[Sample] = []
    asked: list[str] = []
    if found.figures:
        samples, asked = _candidates(document, found, store, asker, questions, reporter)
    samples = _once(samples)
    took = _costs(asker, samples)
    write_samples(folder / "samples.parquet", samples)
    write_samples(folder / "figures.parquet", _once(figure_sample(document, figure) for figure in found.figures))
    entry = {**_entry(document, found, samples, asked, faults), **({"costs": took} if took else {})}
    write_json(done, entry)
    return entry


def _once(samples: Sequence[Sample] | Iterator[Sample]) -> list[Sample]:
    return list({sample.id: sample for sample in samples}.values())


def _costs(asker: Asker | None, samples: Sequence[Sample]) -> dict[str, Any]:
    """What the answers about a document took, and its samples made ready to be written."""
    if asker is None:
        return {}
    out = [sample for sample in samples if judging.rejected(sample)]
    kept = [sample for sample in samples if not judging.rejected(sample)]
    provenance.settle(samples, asker.place)
    return costs.figures(asker.account.totals(), kept=costs.borne(kept), rejected=costs.borne(out))


def _candidates(
    document: Document, found: Found, store: ImageStore, asker: Asker | None, questions: int, reporter: Reporter
) -> tuple[list[Sample], list[str]]:
    """The judged candidates of a document, and why some of its figures were not asked about."""
    samples = [printed_sample(document, question, found) for question in found.questions if question.figures]
    unasked: list[str] = []
    if asker is not None:
        used = {sha for sample in samples for sha in sample.images}
        free = [figure for figure in found.figures if figure.block.image not in used]
        spoken = [figure for figure in free if figure.block.caption or figure.text]
        unasked += ["the document says nothing about it"] * (len(free) - len(spoken))
        for start in range(0, len(spoken), _BATCH):
            batch = spoken[start : start + _BATCH]
            requests = [_request(figure, store, questions) for figure in batch]
            for figure, said in zip(batch, asker.ask_many(requests), strict=True):
                if isinstance(said, AnswerError):
                    unasked.append(str(said))
                    continue
                written = asker.step(judging.ROLE, "documents", said)
                samples += asked_samples(document, figure, said["questions"][:questions], written)
            reporter.progress(STAGE, "asking about figures", min(start + _BATCH, len(spoken)), len(spoken))
    for sample in samples:
        judging.by_rules(sample, asker is not None)
    if asker is not None:
        for start in range(0, len(samples), _BATCH):
            judging.by_model(asker, samples[start : start + _BATCH], lambda sample: _pictures(sample, store))
    return samples, unasked


def _request(figure: Figure, store: ImageStore, questions: int) -> Request:
    block = figure.block
    values = {
        "caption": block.caption,
        "text": figure.text,
        "budget": questions,
        "language": language_of(block.caption + " ".join(figure.text)),
    }
    return Request(judging.ROLE, Prompt("documents", values), (_picture(block.image or "", store),), FigureQuestions)


def _picture(sha: str, store: ImageStore) -> Picture:
    return Picture(sha, lambda: store.get(sha))


def _pictures(sample: Sample, store: ImageStore) -> list[Picture]:
    return [_picture(sha, store) for sha in sample.images]


def _all(folders: Sequence[Path], rejected: bool) -> Iterator[Sample]:
    for folder in folders:
        for sample in read_samples(folder / "samples.parquet"):
            if judging.rejected(sample) == rejected:
                yield sample


def _entry(
    document: Document,
    found: Found,
    samples: Sequence[Sample],
    unasked: Sequence[str],
    faults: Sequence[dict[str, str]],
) -> dict[str, Any]:
    kept = [sample for sample in samples if not judging.rejected(sample)]
    why: dict[str, list[int]] = {}
    for number, reason in found.left_out:
        why.setdefault(reason, []).append(number)
    if found.figures:
        status, reason = "read", ""
    elif len(found.left_out) == found.pages:
        status, reason = "left out", "none of its pages could be read"
    else:
        status, reason = "dropped", "has no images"
    return {
        "status": status,
        "reason": reason,
        "sha256": document.sha,
        "pages": found.pages,
        "pages_scanned": found.scanned,
        "pages_left_out": [{"pages": _runs(numbers), "reason": reason} for reason, numbers in why.items()],
        "figures": len(found.figures),
        "figures_with_caption": sum(bool(figure.block.caption) for figure in found.figures),
        "decorations": found.decorations,
        "captions": found.captions,
        "questions_printed": len(found.questions),
        "questions_without_picture": sum(not question.figures for question in found.questions),
        "figures_not_asked_about": dict(Counter(unasked)),
        "candidates": len(samples),
        "kept": len(kept),
        "rejected": _why(samples),
        "faults": list(faults),
    }


def _why(samples: Sequence[Sample]) -> dict[str, int]:
    """How many were rejected for what: by the words before the colon, because what follows quotes the sample."""
    first = (sample.extra["reasons"][0] for sample in samples if judging.rejected(sample))
    return dict(
        sorted(Counter(reason if reason.startswith("text only") else reason.split(":")[0] for reason in first).items())
    )


def _report(entries: Sequence[dict[str, Any]], asker: Asker | None) -> dict[str, Any]:
    names = ("pages", "figures", "figures_with_caption", "questions_printed", "candidates", "kept")
    totals = {name: sum(entry.get(name, 0) for entry in entries) for name in names}
    statuses = [entry["status"] for entry in entries]
    reasons = Counter[str]()
    for entry in entries:
        reasons.update(entry.get("rejected", {}))
    asked = costs.merged(entry["costs"] for entry in entries if "costs" in entry)
    spent = asker.report().get("spent") if asker else None
    return {
        "counts": {
            "documents": len(entries),
            **{status: statuses.count(status) for status in ("read", "dropped", "left out")},
            **totals,
        },
        "rejected": dict(sorted(reasons.items())),
        "asked": asker.identity(judging.ROLE) if asker else
        "nobody: without a recipe, figures get no questions and printed ones are not tried without their picture",
        **({"costs": asked, "cost_per_kept": costs.per_kept(asked, totals["kept"])} if asked else {}),
        **({"spent": spent} if spent else {}),
        "documents": list(entries),
    }  # fmt: skip


def _runs(numbers: Sequence[int]) -> str:
    """`1-3, 7` for [1, 2, 3, 7]: how a report names pages."""
    if not numbers:
        return ""
    parts: list[list[int]] = [[numbers[0], numbers[0]]]
    for before, number in pairwise(numbers):
        if number == before + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
