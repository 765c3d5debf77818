"""The dataset card beside an export: README.md with the front matter that the Hugging Face hub reads.

Counts, labels, languages, licences, costs, how it was made and what was left out; from the samples as they pass and
from the reports beside them. What nobody stated is said to be unknown, not guessed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from open4ov.sample import Sample, Step

SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}
"""Our names of splits, and the field's."""

LICENCE_FIELDS = ("licence", "license")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))
_FILES = {
    "parquet": "data/{split}-*.parquet",
    "messages": "{split}.jsonl",
    "llava": "{split}.json",
    "sharegpt": "{split}.json",
    "trl": "data/{split}-*.parquet",
    "openrlhf": "{split}.jsonl",
    "llamafactory": "{split}.json",
    "swift": "{split}.jsonl",
    "webdataset": "{split}-*.tar",
    "vlmevalkit": "*.tsv",
    "version": "samples.parquet",
}
_MOST = 40
"""Lines of a table; the rest is summed up."""


class Card:
    """Counts samples as they pass, and writes the card in the end. `known`: source -> the licences of what is its own,
    for samples that state none."""

    def __init__(self, name: str, format: str, known: Mapping[str, str] | None = None) -> None:
        self.name, self.format, self._known = name, format, known or {}
        self.samples = self.images = self.turns = self.unvoted = 0
        self.splits: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.tasks: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.labels: Counter[tuple[str, str, str]] = Counter()
        self.licences: Counter[str] = Counter()
        self.steps: Counter[tuple[str, str, str]] = Counter()
        self.costs: dict[str, _Cost] = {}

    def count(self, sample: Sample) -> None:
        """Takes note of a sample that was written."""
        self.samples += 1
        self.images += len(sample.images)
        self.turns += sum(message.role == "assistant" for message in sample.messages)
        self.splits[sample.split] += 1
        fields = sample.extra.get("fields", {})
        self.languages[str(fields.get("language") or sample.language)[:20]] += 1
        self.tasks[sample.task[:60]] += 1
        self.sources[sample.source[:60]] += 1
        self.labels.update({(label.axis, label.l1, label.l2 or "") for label in sample.labels})
        stated = [value for place in (sample.extra, fields) for key in LICENCE_FIELDS if (value := place.get(key))]
        self.licences[str(stated[0])[:80] if stated else self._known.get(sample.source, "not stated")] += 1
        for step in sample.steps:
            self.steps[step.stage, step.by or "", step.prompt or ""] += 1
            if step.known_tokens is not None or step.cost is not None:
                self.costs.setdefault(step.stage, _Cost()).add(step)
        self.unvoted += not sample.votes

    def text(self, folder: Path, left_out: Mapping[str, int]) -> str:
        """The card. `folder` is where the samples lie: an import, or a stage's folder in a run directory."""
        front = yaml.safe_dump(self._front(), sort_keys=False, allow_unicode=True)
        report, imported = _object(folder / "report.json"), _object(folder / "import.json")
        lines = [f"---\n{front}---\n\n# {self.name}\n"]
        lines.append(
            f"{self.samples:,} samples, {self.images:,} images in them, {self.turns:,} answers. "
            f"Format: {self.format}. Written by open4ov.\n"
        )
        lines += _table("Splits", ("split", "samples"), [(SPLIT_NAMES[k], n) for k, n in self.splits.most_common()])
        lines += _table("Languages", ("language", "samples"), self.languages.most_common())
        lines += _table("Licences", ("licence", "samples"), self.licences.most_common())
        labels = [(*key, count) for key, count in sorted(self.labels.items(), key=lambda item: (-item[1], item[0]))]
        lines += _table("Labels", ("axis", "L1", "L2", "samples"), labels) or ["## Labels\n\nNone.\n"]
        lines += _table("Tasks", ("task", "samples"), self.tasks.most_common())
        lines += _table("Sources", ("source", "samples"), self.sources.most_common())
        lines += self._making(report, imported)
        lines += _left_out(report, imported, left_out)
        return "\n".join(lines)

    def _front(self) -> dict[str, Any]:
        licences = [name for name in self.licences if name != "not stated"]
        one = licences[0].lower() if len(self.licences) == 1 and licences else None
        splits = [SPLIT_NAMES[split] for split in ("train", "val", "test") if self.splits[split]]
        pattern = _FILES[self.format]
        if "{split}" not in pattern:
            splits = ["test"] if self.format == "vlmevalkit" else ["train"]  # one file, told apart by a column
        files = [{"split": split, "path": pattern.format(split=split)} for split in splits]
        return {
            "pretty_name": self.name,
            "language": sorted(self.languages),
            "license": one or ("unknown" if not licences else "other"),
            "task_categories": ["visual-question-answering", "image-text-to-text"],
            "size_categories": [next((name for most, name in _SIZES if self.samples < most), "10M<n<100M")],
            "tags": ["open4ov"],
            "configs": [{"config_name": "default", "data_files": files}],
        }

    def _making(self, report: dict[str, Any], imported: dict[str, Any]) -> list[str]:
        lines = ["## How it was made\n"]
        if imported:
            lines.append(f"Imported from `{imported.get('source')}` ({imported.get('format')}).\n")
        if counts := report.get("counts"):
            said = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())
            how = "labels, topics, density, questions, three judges, verification"
            if "documents" in report:
                how = "from documents: figures, captions, questions printed or asked, a second pass"
            lines.append(f"Construction ({how}): {said}.\n")
        if self.unvoted:
            lines.append(f"{self.unvoted:,} samples were not voted on by judges.\n")
        steps = [(*key, count) for key, count in sorted(self.steps.items())]
        lines += _table("Steps", ("stage", "by", "prompt", "samples"), steps)
        return lines + self._costs(report)

    def _costs(self, report: dict[str, Any]) -> list[str]:
        """What the samples of this export took, by role, and beside it what all of their construction took."""
        lines: list[str] = []
        if self.costs:
            total = _Cost.of(self.costs.values())
            rows = [cost.row(stage) for stage, cost in self.costs.items()][: _MOST - 1]
            lines += _table(
                "Costs", ("role", "samples", "tokens in", "tokens out", "tokens", "money"), [*rows, total.row("all")]
            )
            prices = "which named none" if total.money is None else "an answer for several samples counts in parts"
            lines.append(f"Of the samples in this export; money in the currency of the recipe's prices, {prices}.\n")
            if total.estimated:
                lines.append(
                    f"Of {total.estimated:,} answers tokens are estimated: their endpoint did not count them.\n"
                )
        found = report.get("costs")
        whole = cast("dict[str, Any]", found).get("total") if isinstance(found, dict) else None
        if isinstance(whole, dict):
            lines += [] if self.costs else ["## Costs\n"]
            kept = cast("dict[str, Any]", report.get("cost_per_kept") or {})
            lines.append(_whole(cast("dict[str, Any]", whole), kept))
        return lines or ["## Costs\n\nNot recorded.\n"]


@dataclass
class _Cost:
    """Sums over the steps of a role. Tokens in and out are of those steps that tell them apart."""

    samples: int = 0
    input: int = 0
    output: int = 0
    tokens: int = 0
    estimated: int = 0
    money: float | None = None

    def add(self, step: Step) -> None:
        self.samples += 1
        self.input += step.input or 0
        self.output += step.output or 0
        self.tokens += step.known_tokens or 0
        self.estimated += bool(step.estimated)
        if step.cost is not None:
            self.money = (self.money or 0.0) + step.cost

    @staticmethod
    def of(costs: Iterable[_Cost]) -> _Cost:
        """All together; `samples` is the largest number, since a sample has several roles."""
        found = _Cost()
        for one in costs:
            found.samples = max(found.samples, one.samples)
            for name in ("input", "output", "tokens", "estimated"):
                setattr(found, name, getattr(found, name) + getattr(one, name))
            if one.money is not None:
                found.money = (found.money or 0.0) + one.money
        return found

    def row(self, name: str) -> tuple[object, ...]:
        money = "not known" if self.money is None else f"{self.money:.6g}"
        return name, self.samples, self.input, self.output, self.tokens, money


def _whole(total: dict[str, Any], kept: dict[str, Any]) -> str:
    """A line on what all answers of the construction took, those for samples that were not kept included."""
    tokens = int(total.get("input") or 0) + int(total.get("output") or 0)
    money = total.get("money")
    said = f"All answers of the construction took {tokens:,} tokens"
    said += "" if money is None else f" and {money:.6g}"
    said += ", those for rejected samples and for none included"
    if (each := kept.get("money")) is not None:
        said += f"; {each:.6g} for each sample kept"
    return said + ".\n"


def _left_out(report: dict[str, Any], imported: dict[str, Any], left_out: Mapping[str, int]) -> list[str]:
    counted: Counter[tuple[str, str]] = Counter()
    for reason, count in cast("dict[str, int]", imported.get("reasons") or {}).items():
        counted["import", reason] += count
    for entry in cast("list[dict[str, Any]]", report.get("skipped") or []):
        counted[str(entry.get("step", "construction")), str(entry.get("reason"))] += 1
    false = cast("dict[str, Any]", report.get("false_rejections") or {})
    for reason, count in cast("dict[str, int]", false.get("reasons") or {}).items():
        counted["judging", reason] += count
    for reason, count in left_out.items():
        counted["export", reason] += count
    rows = [(*key, count) for key, count in counted.most_common()]
    return _table("Left out", ("at", "reason", "count"), rows) or ["## Left out\n\nNothing.\n"]


def _table(title: str, head: tuple[str, ...], rows: list[Any]) -> list[str]:
    if not rows:
        return []
    lines = [f"## {title}\n", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows[:_MOST]]
    if len(rows) > _MOST:
        rest = sum(row[-1] for row in rows[_MOST:])
        lines.append(f"| {len(rows) - _MOST} more {'| ' * (len(head) - 1)}{rest:,} |")
    return [*lines, ""]


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else " ".join(str(value).split()).replace("|", "\\|")[:200]


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
