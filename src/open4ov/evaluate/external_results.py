"""What VLMEvalKit wrote about a set, read and laid beside ours, item by item.

The kit's own files are read, as it writes them: `open4ov_NAME.tsv` (predictions), the file of each item's score that
`external_sets.KINDS` names, and `NAME.asked.jsonl` of the worker. Nothing is scored for the kit here.
"""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.evaluate.answer_book import Entry
from open4ov.evaluate.external_sets import KitSet, index_of, numbered
from open4ov.evaluate.item import Item
from open4ov.evaluate.scoring import ANLS_LEAST, Reference, Score, score
from open4ov.evaluate.tables import listed

CLOSE = 1e-6
"""Verdicts that differ by no more are equal"""
FAILED = "Failed to obtain answer"
"""How the kit's answer begins where it got none"""
JPEG = "JPEG of quality 75, sides below 100 pixels enlarged"


@dataclass(frozen=True)
class Theirs:
    """What the kit did with an item: the words it put, the answer it got, what it read out of it and what it gives for
    it (0 to 1); `reference`: the right answer as it read it."""

    prompt: str
    answer: str
    read: str | None
    verdict: float
    reference: str


@dataclass(frozen=True)
class Difference:
    """An item on which the two differ. `what`: in the verdict, else the answer, else the prompt; `why`: in words."""

    set: str
    index: str
    place: str
    what: str
    why: str
    right: str
    our_prompt: str
    their_prompt: str
    our_answer: str
    their_answer: str
    our_reading: str | None
    their_reading: str | None
    our_verdict: float
    their_verdict: float


def read(one: KitSet, work: Path, model: str) -> dict[str, Theirs]:
    """The kit's items by its number of each.

    Raises UserError for files that are missing or of another form: another version of the kit, or one that was stopped.
    """
    folder = work / model
    asked = _asked(work / f"{one.name}.asked.jsonl")
    predicted = {row["index"]: row for row in _table(folder / f"{model}_{one.name}.tsv", "index", "prediction")}
    scores = folder / f"{model}_{one.name}{one.kind.scores}"
    columns = {"mcq": ("hit",), "yes_no": ("extracted", "score")}.get(
        one.suite.benchmark.type, ("eval_match", "eval_gt")
    )
    found: dict[str, Theirs] = {}
    for row in _table(scores, "index", "answer", *columns):
        index = row["index"]
        if index not in predicted or index not in asked:
            raise UserError(
                f"{scores}: index {index} is in none of VLMEvalKit's other files; remove {work} and run again"
            )
        try:
            reading, verdict, reference = _verdict(one.suite.benchmark.type, row, asked[index])
        except (ValueError, SyntaxError, TypeError, KeyError) as error:
            raise UserError(f"{scores}: index {index}: no score of the form known here ({error}); is this "
                            "ms-vlmeval 0.0.20?") from None  # fmt: skip
        prompt = str(asked[index]["prompt"])
        found[index] = Theirs(prompt, predicted[index]["prediction"], reading, verdict, reference)
    return found


def _verdict(kind: str, row: Mapping[str, str], asked: Mapping[str, Any]) -> tuple[str | None, float, str]:
    if kind == "mcq":
        return asked.get("read"), float(row["hit"]), row["answer"]
    if kind == "yes_no":
        said = {"Yes": "yes", "No": "no"}.get(row["extracted"])
        return said, float({"True": 1, "False": 0}[row["score"].capitalize()]), row["answer"]
    matches = [float(one) for one in ast.literal_eval(row["eval_match"])]
    if kind == "anls":  # distances
        nearest = 1 - min(matches)
        return row["eval_pred"], nearest if nearest >= ANLS_LEAST else 0.0, row["eval_gt"]
    return row["eval_pred"], max(matches), row["eval_gt"]


def compare(
    one: KitSet, ours: Mapping[str, tuple[Item, Entry]], theirs: Mapping[str, Theirs], pictures: str
) -> tuple[dict[str, Any], list[Difference]]:
    """The figures of a set, and the items that differ. Both by the kit's number of the item."""
    both = [index for index in ours if index in theirs]
    differences: list[Difference] = []
    counts: Counter[str] = Counter()
    verdicts: list[tuple[float, float]] = []
    for index in both:
        item, entry = ours[index]
        found = theirs[index]
        mine = _scored(entry)
        same = {
            "prompt": entry.prompt == found.prompt,
            "answer": entry.responses[0].strip() == found.answer.strip(),
            "verdict": abs(mine.value - found.verdict) <= CLOSE,
        }
        counts.update(name for name, holds in same.items() if holds)
        verdicts.append((mine.value, found.verdict))
        if not all(same.values()):
            worst = next(name for name in ("verdict", "answer", "prompt") if not same[name])
            why = _why(one, same, entry, mine, found, pictures)
            differences.append(_difference(one, item, entry, mine, found, worst, why))
    total = len(both)
    names = {number: index_of(item) for number, item in numbered(one.suite)}
    figures: dict[str, Any] = {
        "type": one.suite.benchmark.type,
        "kit_class": one.kind.class_name,
        "kit_name": one.name,
        "items": total,
        "ours": sum(a for a, _ in verdicts) / total if total else None,
        "theirs": sum(b for _, b in verdicts) / total if total else None,
        "same_prompt": counts["prompt"],
        "same_answer": counts["answer"],
        "same_verdict": counts["verdict"],
        "kappa": kappa([(a >= 0.5, b >= 0.5) for a, b in verdicts]),
        "only_ours": [names[index] for index in ours if index not in theirs],
        "only_theirs": [names.get(index, index) for index in theirs if index not in ours],
        "without_picture": without_picture(one),
        "kit_failures": sum(found.answer.startswith(FAILED) for found in theirs.values()),
    }
    return figures, differences


def without_picture(one: KitSet) -> int:
    """Items that only we ask."""
    return sum(isinstance(item, Item) and not item.images for item in one.suite.items())


def _scored(entry: Entry) -> Score:
    reference = Reference(entry.answers, entry.options, entry.others, entry.category, entry.details)
    return score(entry.rule, entry.responses[0], reference)


def kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa of two judges of the same items (Cohen 1960); None where both always say the same one thing, or for
    no items: agreement by chance is then 1, or unknown."""
    if not pairs:
        return None
    total = len(pairs)
    agreed = sum(a == b for a, b in pairs) / total
    first, second = sum(a for a, _ in pairs) / total, sum(b for _, b in pairs) / total
    chance = first * second + (1 - first) * (1 - second)
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def _why(one: KitSet, same: Mapping[str, bool], entry: Entry, mine: Score, theirs: Theirs, pictures: str) -> str:
    """What is known of the reason: the first of these that holds."""
    if theirs.answer.startswith(FAILED):
        return "VLMEvalKit got no answer, or an empty one"
    if not same["prompt"]:
        return "the questions are worded differently"
    if not same["answer"]:
        if pictures == "kit" and entry.pictures:
            return f"VLMEvalKit sent the pictures as {JPEG}"
        return "the same question got another answer: computed beside other questions, a near tie falls either way"
    kind = one.suite.benchmark.type
    if kind == "mcq" and theirs.reference not in entry.answers:
        return f"VLMEvalKit takes {theirs.reference!r} for the right answer"
    if kind in ("mcq", "yes_no"):
        here, there = mine.read or "undecided", theirs.read or "undecided"
        return f"the same answer is read differently: as {here} here, {there} there"
    if theirs.read is not None and theirs.read.strip() != theirs.answer.strip():
        return f"VLMEvalKit read the answer back from its file as {theirs.read!r}"
    known = {text.strip().lower() for text in _texts(theirs.reference)}
    if known != {text.strip().lower() for text in entry.answers}:
        return f"VLMEvalKit read the right answer from the file as {theirs.reference}"
    return "the same answer is scored differently: " + {
        "vqa": "here equal numbers, units and spellings count, there the letters do",
        "anls": "the lengths are taken after spaces are evened out here, before it there",
    }.get(kind, "the rules differ")


def _texts(reference: str) -> list[str]:
    found = listed(reference)
    return [reference] if found is None else [str(each) for each in found]


def _difference(one: KitSet, item: Item, entry: Entry, mine: Score, theirs: Theirs, what: str, why: str) -> Difference:
    return Difference(
        set=one.suite.name,
        index=index_of(item),
        place=item.place,
        what=what,
        why=why,
        right=" | ".join(entry.answers),
        our_prompt=entry.prompt,
        their_prompt=theirs.prompt,
        our_answer=entry.responses[0],
        their_answer=theirs.answer,
        our_reading=mine.read,
        their_reading=theirs.read,
        our_verdict=mine.value,
        their_verdict=theirs.verdict,
    )


def _asked(path: Path) -> dict[str, dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {str(line["index"]): line for line in map(json.loads, lines)}
    except FileNotFoundError:
        raise UserError(f"{path}: VLMEvalKit did not finish this set; run again") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); remove its folder and run again") from None


def _table(path: Path, *columns: str) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = list(csv.DictReader(text, delimiter="\t"))
    except FileNotFoundError:
        raise UserError(f"{path}: VLMEvalKit wrote no such file; is this ms-vlmeval 0.0.20?") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: damaged ({error}); remove its folder and run again") from None
    lacking = [name for name in columns if rows and name not in rows[0]]
    if lacking:
        raise UserError(f"{path}: no column {', '.join(lacking)}; is this ms-vlmeval 0.0.20?")
    return rows


def to_text(results: Mapping[str, Any], shown: int = 10) -> str:
    """The agreement for a terminal; the file has every difference."""
    rows: list[tuple[str, ...]] = [
        ("set", "items", "ours", "theirs", "same prompt", "same answer", "same verdict", "kappa")
    ]
    for name, row in results["sets"].items():
        total = row["items"]
        rows.append(
            (
                name,
                str(total),
                _percent(row["ours"]),
                _percent(row["theirs"]),
                *(f"{row[key]} of {total}" for key in ("same_prompt", "same_answer", "same_verdict")),
                "-" if row["kappa"] is None else f"{row['kappa']:.2f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for name, row in results["sets"].items():
        for key, who in (("only_ours", "VLMEvalKit"), ("only_theirs", "open4ov")):
            if row[key]:
                lines.append(f"{name}: {len(row[key])} items have no answer by {who}: {', '.join(row[key][:5])}")
        if row["without_picture"]:
            lines.append(f"{name}: VLMEvalKit leaves out {row['without_picture']} items that have no picture")
        if row["kit_failures"]:
            lines.append(f"{name}: VLMEvalKit got no answer to {row['kit_failures']} items")
    lines += [f"{name}: not compared: {why}" for name, why in results["not_compared"].items()]
    differences: list[dict[str, Any]] = results["differences"]
    for why, count in Counter(_kind(one["why"]) for one in differences).most_common():
        lines.append(f"{count} x {why}")
    for one in differences[:shown]:
        lines.append(
            f"  {one['set']} {one['index']} ({one['what']}): ours {one['our_answer'][:60]!r} -> {one['our_reading']} = "
            f"{one['our_verdict']:g}, theirs {one['their_answer'][:60]!r} -> {one['their_reading']} = "
            f"{one['their_verdict']:g}, right {one['right'][:40]}: {one['why']}"
        )
    if len(differences) > shown:
        lines.append(f"  ... and {len(differences) - shown} more (agreement.json has them)")
    return "\n".join(lines)


def _kind(why: str) -> str:
    """A reason without what is an item's own."""
    return re.sub(r": as .*|'[^']*'|\[.*\]", "", why).strip()


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}"


def as_data(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(one) for one in differences]
