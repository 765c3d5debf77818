"""The life of one sample: every step that the files of a run, or of an import, know of (`open4ov data trace DIR ID`).

A sample's parents (`lineage`) come first, then what was done to it file by file: where it was read, its labels and
topics, density and budget, votes with reasons, checks, rejection, what training thought of it; what its answers took,
step by step and in all; and from the reports what names it. What an older file does not hold is left out, never made
up; of answers that a model gave, what is not known is said to be so.
"""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from open4ov.errors import UserError
from open4ov.mllm.provenance import lookup
from open4ov.run_dir import read_json
from open4ov.sample import Sample, Step

Event = dict[str, Any]
"""`stage`, `what` it says in words, `sample` it is about, `file` it stands in, and figures beside."""
_SHORTEST = 4
_BATCH = 2048


def trace(folder: Path, id: str) -> list[Event]:
    """All events, the oldest first. `id` may be the beginning of one. Raises UserError when no sample has it."""
    files = _files(folder)
    whole = _whole_id(files, id, folder)
    return list(_life(folder, files, whole, set()))


def lines(events: list[Event]) -> Iterator[str]:
    """The events for people: a heading for each sample, a line for each event."""
    about = None
    for event in events:
        if event["sample"] != about:
            about = event["sample"]
            yield f"{event['sample']}:"
        yield f"  {event['stage']:<10} {event['what']}  [{event['file']}]"


def _files(folder: Path) -> list[Path]:
    """The Parquet files of samples below a folder, in the order in which their stages ended."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a run directory or an import")
    found: list[Path] = []
    for path in sorted(folder.rglob("*.parquet")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError):
            continue
        if {"id", "record"} <= set(schema.names):
            found.append(path)
    if not found:
        raise UserError(f"{folder}: no file of samples below it; name a run directory or an import")
    return sorted(found, key=lambda path: (_finished(path), path.name != "samples.parquet", str(path)))


def _finished(path: Path) -> int:
    mark = path.parent / "stage.json"
    return (mark if mark.exists() else path).stat().st_mtime_ns


def _whole_id(files: list[Path], id: str, folder: Path) -> str:
    found: set[str] = set()
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=["id"]):
            ids = batch.column("id")
            if pc.any(pc.equal(ids, id)).as_py():
                return id
            if len(id) >= _SHORTEST:
                found.update(ids.filter(pc.starts_with(ids, id)).to_pylist())
    if len(found) == 1:
        return found.pop()
    if found:
        raise UserError(f"{id}: {len(found)} ids begin so ({', '.join(sorted(found)[:3])}, ...); give more of it")
    raise UserError(f"{id}: no sample in {folder} has this id; ids are in the column `id` of its Parquet files")


def _life(folder: Path, files: list[Path], id: str, told: set[str]) -> Iterator[Event]:
    told.add(id)
    copies = [(path, sample) for path in files for sample in _of(path, id)]
    for parent in dict.fromkeys(parent for _, sample in copies for parent in sample.lineage):
        if parent not in told and " " not in parent:  # older files have remarks there
            yield from _life(folder, files, parent, told)
    if not copies:
        what = "named as a parent, and in no file here"
        yield {"sample": id, "stage": "unknown", "what": what, "file": folder.name}
        return
    known: set[str] = set()
    for path, sample in copies:
        name = path.relative_to(folder).as_posix()
        for event in _events(sample, lookup(folder, id)):
            if (key := json.dumps(event, sort_keys=True, default=str)) not in known:
                known.add(key)
                yield {"sample": id, **event, "file": name}
        if version := _version(path):
            yield {"sample": id, **version, "file": name}
    files_of = {str(sample.extra["file"]) for _, sample in copies if "file" in sample.extra}
    yield from _reported(folder, id, files_of)


def _of(path: Path, id: str) -> Iterator[Sample]:
    for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=["id", "record"]):
        for record in batch.filter(pc.equal(batch.column("id"), id)).column("record"):
            yield Sample.model_validate_json(record.as_py())


def _events(sample: Sample, kept: list[bool | None]) -> Iterator[Event]:
    read = sample.extra.get("file")
    yield _event(
        "source", f"{sample.source}{f', file {read}' if read else ''}", split=sample.split, images=sample.images
    )
    for at, step in enumerate(sample.steps):
        known = step.model_dump(exclude={"stage"})
        if step.prompt is not None:
            known["answer"] = {True: "kept from before", False: "fresh", None: None}[
                kept[at] if at < len(kept) else None
            ]
        yield _event(step.stage, _told(step, known), **known)
    if any(step.prompt for step in sample.steps):
        yield _cost(sample.steps)
    if sample.lineage:
        yield _event("made from", ", ".join(sample.lineage), parents=sample.lineage)
    for message in sample.messages:
        yield _event("text", f"{message.role}: {_shown(message.text)}", role=message.role, text=message.text)
    if sample.answer is not None:
        yield _event("text", f"answer: {_shown(sample.answer)}", answer=sample.answer)
    for label in sample.labels:
        near = f" ({label.score:g})" if label.score is not None else ""
        yield _event(
            "label", f"{label.axis}: {' / '.join(filter(None, (label.l1, label.l2)))}{near}", **label.model_dump()
        )
    for topic in sample.topics:
        yield _event("topic", topic, topic=topic)
    if sample.density:
        scores = ", ".join(f"{name} {score:g}" for name, score in sample.density.items())
        yield _event("density", f"{scores}; budget {sample.budget}", density=sample.density, budget=sample.budget)
    for vote in sample.votes:
        said = "abstained" if vote.score is None else f"said {vote.score}"
        yield _event(
            "vote", f"{vote.judge} {said}{f': {_shown(vote.reason)}' if vote.reason else ''}", **vote.model_dump()
        )
    reasons = cast("dict[str, str]", sample.extra.get("check_reasons") or {})
    for name, held in sample.checks.items():
        why = f": {_shown(reasons[name])}" if name in reasons else ""
        yield _event("check", f"{name} {'holds' if held else 'fails'}{why}", check=name, holds=held)
    for name, reason in reasons.items():
        if name not in sample.checks:
            yield _event("check", f"{name}: {_shown(str(reason))}", check=name, reason=reason)
    if defect := sample.extra.get("defect"):
        yield _event("defect", f"a spoilt copy: {defect}", defect=defect)
    if by := sample.extra.get("rejected_by"):
        yield _event("rejected", f"by {by}", by=by)
    if sample.mastery is not None or sample.pass_rate is not None:
        rate = "" if sample.pass_rate is None else f", pass rate {sample.pass_rate:g}"
        yield _event(
            "mastery", f"{sample.mastery or 'not rated'}{rate}", mastery=sample.mastery, pass_rate=sample.pass_rate
        )


def _version(path: Path) -> Event | None:
    """The version of a data set that a file is of, and what that was made from."""
    record = read_json(path.parent / "version.json") if path.name == "samples.parquet" else None
    if record is None:
        return None
    parents = [f"{one['name']} {one['id']}" for one in record.get("parents", ())]
    made = f", made from {', '.join(parents)}" if parents else ""
    what = f"in {record.get('name')} {record.get('id')}, {record.get('samples', 0):,} samples{made}"
    return _event("version", what, version=record.get("id"), parents=parents)


def _told(step: Step, known: dict[str, Any]) -> str:
    """A step in words; of a model's answer also what is not known."""
    parts = [
        f"{key} {value:g}" if key == "cost" else f"{key} {value}" for key, value in known.items() if value is not None
    ]
    if step.among is not None:
        parts[parts.index(f"among {step.among}")] = f"its part of an answer for {step.among} samples"
    if step.prompt is not None and step.note is None:
        if step.known_tokens is None:
            parts.append("tokens and cost not known")
        elif step.cost is None:
            parts.append("cost not known: no price")
        if known.get("answer") is None:
            parts.append("not known whether fresh or kept")
    return ", ".join(parts) or "done"


def _cost(steps: list[Step]) -> Event:
    """What the answers of a sample took together."""
    asked = [step for step in steps if step.prompt is not None and step.note is None]
    tokens = sum(step.known_tokens or 0 for step in asked)
    priced = [step.cost for step in asked if step.cost is not None]
    money = sum(priced) if priced else None
    what = f"{tokens:,} tokens, " + ("no price known" if money is None else f"{money:g} in the currency of the prices")
    unknown = [step.stage for step in asked if step.known_tokens is None]
    if unknown:
        what += f"; not known of {', '.join(unknown)}"
    if any(step.estimated for step in asked):
        what += "; tokens partly estimated, since an endpoint did not count them"
    return _event("cost", what, tokens=tokens, cost=money, unknown=unknown)


def _event(stage: str, what: str, **figures: Any) -> Event:
    return {"stage": stage, "what": what, **{key: value for key, value in figures.items() if key != "stage"}}


def _reported(folder: Path, id: str, files: set[str]) -> Iterator[Event]:
    """What reports say of the sample, or of the file that it was read from."""
    for path in sorted((*folder.rglob("report.json"), *folder.rglob("skipped.json"))):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        entries: Any = cast("dict[str, Any]", found).get("skipped", []) if isinstance(found, dict) else found
        for entry in cast("list[Any]", entries) if isinstance(entries, list) else []:
            if not isinstance(entry, dict):
                continue
            about = cast("dict[str, Any]", entry)
            if id in (about.get("image"), about.get("sample"), about.get("id")) or about.get("file") in files:
                what = f"{about.get('step', 'left out')}: {about.get('reason', 'no reason given')}"
                yield {"sample": id, "stage": "left out", "what": what, "file": path.relative_to(folder).as_posix()}


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."
