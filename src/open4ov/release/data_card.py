"""The card over all data sets of a release: a Hugging Face card with a configuration for each set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from open4ov.formats.card import SPLIT_NAMES
from open4ov.release import licences
from open4ov.release.data import ABOUT, Released
from open4ov.release.source import Source

_HOW = "labels, topics, density, questions, three judges, checks"
_STEPS = ("near_duplicates", "near_questions", "decontaminate", "personal_data", "burned_in", "licences")
"""Options of `data.hygiene` that switch a step on"""


def text(source: Source, name: str, sets: Sequence[Released], gaps: Sequence[str]) -> str:
    """The card. `gaps`: lines on what is missing or empty."""
    stated: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for one in sets:
        stated.update(one.card.licences)
        sources.update(one.card.sources)
        languages.update(one.card.languages)
    licence, of = licences.of_data(stated, sources)
    head: dict[str, Any] = {
        "pretty_name": f"{name}: training data",
        "language": sorted(languages),
        "license": licence,
        "task_categories": ["visual-question-answering", "image-text-to-text"],
        "tags": ["open4ov"],
        "configs": [
            {
                "config_name": one.set.name,
                "data_files": [
                    {"split": SPLIT_NAMES[split], "path": f"{one.set.name}/data/{SPLIT_NAMES[split]}-*.parquet"}
                    for split in one.splits
                ],
            }
            for one in sets
        ],
    }
    lines = [
        f"\n# {name}: training data\n",
        "What the model beside this was trained on, stage by stage. Pictures are inside the Parquet files; "
        '`datasets.load_dataset(FOLDER, "sft_knowledge")` gives them as PIL images.\n',
        "| set | what for | samples | images | languages |",
        "|---|---|---|---|---|",
        *(
            f"| [{one.set.name}]({one.set.name}/README.md) | {ABOUT[one.set.name]} | {one.card.samples:,} | "
            f"{one.card.images:,} | {', '.join(sorted(one.card.languages))} |"
            for one in sets
        ),
        "",
        *([f"Not here: {'; '.join(gaps)}.\n"] if gaps else []),
        "## How it was made\n",
        *_making(source),
        "## Limits\n",
        *(f"- {line}" for line in _limits(source, sources)),
        "\n## Licences\n",
        *(of or ["None is stated."]),
        "",
    ]
    return licences.joined(head, "\n".join(lines))


def _making(source: Source) -> list[str]:
    counts: Any = source.json("data/report.json").get("counts")
    lines: list[str] = []
    if isinstance(counts, dict):
        told = cast("dict[str, Any]", counts)
        said = ", ".join(f"{key.replace('_', ' ')} {number:,}" for key, number in told.items())
        lines.append(f"Construction from pictures ({_HOW}): {said}.\n")
    lines.append(f"Who wrote the questions and answers, and judged them: {_writers(source)}.\n")
    hygiene = cast("dict[str, Any]", source.option("data.hygiene", {}) or {})
    on = [key.replace("_", " ") for key in _STEPS if hygiene.get(key)]
    lines.append(f"Hygiene steps that were switched on: {', '.join(on) if on else 'none'}.\n")
    return lines


def _writers(source: Source) -> str:
    """The kinds of providers, and the models that endpoints were asked for; no addresses."""
    found: list[str] = []
    for name, provider in cast("dict[str, Any]", source.option("data.providers", {}) or {}).items():
        kind = provider.get("kind")
        if kind == "catalog":
            found.append(f"'{name}': answers from the annotations that came with the pictures (`catalog`), no model")
        else:
            found.append(f"'{name}': {provider.get('model') or kind} (`{kind}`)")
    return "; ".join(found) or "not recorded"


def _limits(source: Source, sources: Counter[str]) -> list[str]:
    lines = [
        "Questions and answers are synthetic: written by rules or models and checked by judges, not by people, unless "
        "a card says that it was reviewed."
    ]
    if any(name in licences.SHIPPED for name in sources):
        lines.append("Pictures of open4ov's corpora are symbols and drawings, not photographs.")
    if not source.option("data.hygiene.decontaminate"):
        lines.append(
            "No benchmark was given to hold the data against (`data.hygiene.decontaminate`): overlap with public "
            "benchmarks is not excluded."
        )
    if not source.option("data.hygiene.personal_data"):
        lines.append("No search for personal data was switched on (`data.hygiene.personal_data`).")
    return lines
