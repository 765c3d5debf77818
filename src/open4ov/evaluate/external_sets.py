"""The sets of an external check as VLMEvalKit reads them: TSVs that hold their pictures, each scored by a class of its.

Built-in sets are made into three files first, which anybody may read: `mcq` (the right answer among those of other
questions of the same task), `yes_no`, and `vqa` (a word or a phrase). A file of the user's is written anew with what
could be asked of it, its pictures as PNG.
"""

from __future__ import annotations

import base64
import csv
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import get_args

from open4ov.errors import UserError
from open4ov.evaluate.benchmarks import Type, registry
from open4ov.evaluate.built_in import BuiltIn
from open4ov.evaluate.file_suite import FileSuite
from open4ov.evaluate.item import Fault, Item
from open4ov.mllm.asked import Picture
from open4ov.writing import atomic

OPTIONS = 4
"""Of a choice that is made from a built-in set, where there are so many other answers"""
BRIEF = "\nAnswer the question using a single word or phrase."
"""What the kit appends to such questions; the photographs' have it already"""
LEAST = 40
"""Questions drawn of each built-in set, at least: few of them are answered by yes or no"""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Kind:
    """How VLMEvalKit scores sets of one type: its class, what its scorer wants in the set's name (it goes by names),
    and how the name of the file with the scores of each item ends."""

    class_name: str
    mark: str
    scores: str


KINDS: Mapping[Type, Kind] = {
    "mcq": Kind("ImageMCQDataset", "", "_exact_matching_result.tsv"),
    "yes_no": Kind("ImageYORNDataset", "", "_auxmatch.tsv"),
    "vqa": Kind("ImageVQADataset", "_OCRVQA", "_results.tsv"),
    "anls": Kind("ImageVQADataset", "_DocVQA", "_results.tsv"),
    "relaxed": Kind("ImageVQADataset", "_ChartQA", "_results.tsv"),
}


@dataclass(frozen=True)
class KitSet:
    """A set of ours as the kit gets it: `name` is the file's and the kit's name of it."""

    suite: FileSuite
    kind: Kind
    name: str


def built_in_files(names: Sequence[str], count: int, seed: int, folder: Path) -> dict[Type, Path]:
    """Writes `count` items of each type (fewer where there are not so many) from built-in sets, taking these in turn.

    Raises UserError where there is none to take.
    """
    turns: dict[Type, list[list[Item]]] = {"mcq": [], "yes_no": [], "vqa": []}
    known: dict[tuple[str, ...], dict[str, None]] = {}
    drawn = max(2 * count, LEAST)  # a set has questions of several kinds
    for name in names:
        fit = [item for item in BuiltIn(name, drawn, 1, seed).items() if isinstance(item, Item) and _fits(item)]
        words = [item for item in fit if item.answers[0].lower() not in ("yes", "no")]
        for item in words:
            known.setdefault(_task(item), {})[item.answers[0]] = None
        turns["mcq"].append([item for item in words if _wrong(item, known)])
        turns["yes_no"].append([item for item in fit if item not in words])
        turns["vqa"].append(words)
    written: dict[Type, Path] = {}
    for kind, sets in turns.items():
        rows: list[dict[str, str]] = []
        for item in islice(_in_turn(sets), count):
            row = {"index": str(len(rows) + 1), "image": _cell(item.images), "question": _question(item)}
            row |= _choice(item, _wrong(item, known), seed) if kind == "mcq" else {"answer": _answer(kind, item)}
            rows.append(row | {"category": item.suite})
        if rows:
            written[kind] = folder / f"{kind}.tsv"
            write(written[kind], rows)
    if not written:
        raise UserError(
            f"--harness: of {', '.join(names)} no question can be put to VLMEvalKit (it takes single questions with "
            "pictures and short answers); name others with --suite, such as general"
        )
    return written


def kit_sets(suites: Sequence[FileSuite]) -> tuple[list[KitSet], dict[str, str]]:
    """The sets that the kit can score item by item, and why it cannot the others."""
    found: list[KitSet] = []
    left: dict[str, str] = {}
    for suite in suites:
        entry = suite.benchmark
        kind = KINDS.get(entry.type)
        if kind is None or entry.rule not in ("choice", "yes_no", "exact", "anls", "relaxed"):
            scored = ", ".join(name for name in get_args(Type) if name in KINDS)
            left[suite.name] = f"VLMEvalKit gives no score of each item for this type (it does for {scored})"
        elif entry.media not in ("image", "images") or entry.places != "before":
            left[suite.name] = "only sets with pictures before the question are compared"
        else:
            # a number, since words of the real name would choose another scorer
            found.append(KitSet(suite, kind, f"set{len(found) + 1}{kind.mark}"))
    return found, left


def export(one: KitSet, path: Path) -> int:
    """Writes the set for the kit; gives how many items it has."""
    rows = [_row(number, item) for number, item in numbered(one.suite)]
    write(path, rows)
    return len(rows)


def numbered(suite: FileSuite) -> Iterator[tuple[str, Item]]:
    """The items as the kit knows them: without those that have no picture, which it leaves out, and by numbers from 1.
    Other indices it reads back as other ones ("007", "1e3") or takes for rotations of each other (1 and 1000001)."""
    asked = (item for item in suite.items() if not isinstance(item, Fault) and item.images)
    for number, item in enumerate(asked, start=1):
        yield str(number), item


def index_of(item: Item) -> str:
    """What stands in the column `index` of our file."""
    return item.id.partition("/")[2]


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """A TSV, whole or not at all; columns in the order in which rows name them first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(names)
        table.writerows([row.get(name, "") for name in names] for row in rows)


def _row(number: str, item: Item) -> dict[str, str]:
    row = {"index": number, "image": _cell(item.images), "question": item.question}
    row |= item.options
    row["answer"] = item.answers[0] if len(item.answers) == 1 else json.dumps(list(item.answers), ensure_ascii=False)
    if item.rule == "yes_no":  # the kit compares with these letter by letter
        row["answer"] = "Yes" if item.answers[0].lower() in ("yes", "是", "1") else "No"
    return row | ({"hint": item.hint} if item.hint else {}) | ({"category": item.category} if item.category else {})


def _cell(pictures: Sequence[Picture]) -> str:
    encoded = [base64.b64encode(picture.png).decode() for picture in pictures]
    return encoded[0] if len(encoded) == 1 else json.dumps(encoded)


def _fits(item: Item) -> bool:
    """A single question about pictures that stand before it, with a short answer that rules can compare."""
    if len(item.messages) != 1 or not item.images or item.rule not in ("exact", "verbatim"):
        return False
    kinds = [part.type for part in item.messages[0].content]
    return kinds == ["image"] * len(item.images) + ["text"]


def _task(item: Item) -> tuple[str, ...]:
    return item.suite, item.task, item.category, item.language


def _wrong(item: Item, known: Mapping[tuple[str, ...], Mapping[str, None]]) -> list[str]:
    """Answers to other questions of the same task."""
    right = {answer.lower() for answer in item.answers}
    return [answer for answer in known[_task(item)] if answer.lower() not in right]


def _choice(item: Item, wrong: Sequence[str], seed: int) -> dict[str, str]:
    draw = random.Random(f"choice/{seed}/{item.id}")
    options = [item.answers[0], *draw.sample(list(wrong), min(OPTIONS - 1, len(wrong)))]
    draw.shuffle(options)
    lettered = dict(zip(_LETTERS, options, strict=False))
    return lettered | {"answer": _LETTERS[options.index(item.answers[0])]}


def _question(item: Item) -> str:
    return "".join(part.text or "" for part in item.messages[0].content).removesuffix(BRIEF)


def _answer(kind: Type, item: Item) -> str:
    return item.answers[0].capitalize() if kind == "yes_no" else json.dumps(list(item.answers), ensure_ascii=False)


def _in_turn(sets: Sequence[Sequence[Item]]) -> Iterator[Item]:
    """The first of each set, the second of each, and so on."""
    for row in zip_longest(*sets):
        yield from (item for item in row if item is not None)


def suite_of(kind: Type, path: Path, **options: int | None) -> FileSuite:
    """A file that `built_in_files` wrote, asked as the kit asks."""
    known = registry()
    entry = known.of_type(kind, kind)
    return FileSuite(kind, entry, path, known.prompt(entry.prompt), **options)  # type: ignore[arg-type]
