"""The data sets of a release: Parquet as `datasets` loads it, a card each, and one card over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov.formats import registry
from open4ov.formats.card import SPLIT_NAMES, Card
from open4ov.formats.pictures import Pictures
from open4ov.formats.writing import Writing
from open4ov.release import licences
from open4ov.release.source import Set, Source
from open4ov.sample import Sample
from open4ov.store import iter_samples

Tell = Callable[[str], None]
ABOUT = {
    "sft_knowledge": "question and answer pairs on the vertical's pictures: stage 1 of fine-tuning",
    "sft_ability": "general abilities, to mend what stage 1 has cost: stage 2",
    "sft_preference": "how to answer: styles, long contexts, pictures that are missing or beside the point: stage 3",
    "rl_pool": "tasks whose answers a program verifies: reinforcement learning",
    "dpo_pairs": "two responses to one prompt, one of them preferred: direct preference optimisation",
}


@dataclass(frozen=True)
class Released:
    """A set as it was written, and what its card counted."""

    set: Set
    card: Card
    left_out: dict[str, int]

    @property
    def splits(self) -> list[str]:
        return [split for split in ("train", "val", "test") if self.card.splits[split]]

    def figures(self) -> dict[str, Any]:
        card = self.card
        return {
            "samples": card.samples,
            "images": card.images,
            "splits": {SPLIT_NAMES[name]: card.splits[name] for name in self.splits},
            "languages": dict(card.languages.most_common()),
            "licences": dict(card.licences.most_common()),
            "left_out": self.left_out,
        }


def write_sets(source: Source, stage: str, out: Path, name: str, tell: Tell) -> tuple[list[Released], list[str]]:
    """Writes the sets that a stage's model was trained on below `out`, a folder each with its card, and the card over
    all; gives them, and a line on each that is empty. Sets of unfinished stages are passed over (`Source.missing`)."""
    written: list[Released] = []
    empty: list[str] = []
    for one in source.sets(stage):
        if one.stage not in source.stages:
            continue
        tell(f"{one.title}: is written")
        found = _write(source, one, out / one.name, f"{name}: {one.title}")
        if found.card.samples:
            written.append(found)
        else:
            empty.append(f"{one.title}: is empty")
    return written, empty


def _write(source: Source, one: Set, out: Path, name: str) -> Released:
    below = [Path(file).relative_to(one.stage).as_posix() for file in one.files]
    there = [file for file in below if file in source.stages[one.stage]["files"]]
    source.check(one.stage, there)
    card = Card(name, one.format, licences.IN_SHORT)
    write = registry.named(one.format, writes=True).write
    assert write is not None
    out.mkdir(parents=True)
    export = Writing(out, Pictures(source.images), one.name, card)

    def samples() -> Iterator[Sample]:
        for file in there:
            yield from iter_samples(source.root / one.stage / file)

    write(samples(), export)
    left_out = dict(export.left_out)
    if not card.samples:
        (out / "data").rmdir()
        out.rmdir()
        return Released(one, card, left_out)
    folder = source.root / ("data" if one.name == "sft_knowledge" else one.stage)  # whose report tells how it was made
    head, body = licences.split(card.text(folder, left_out))
    head["license"], lines = licences.of_data(card.licences, card.sources)
    title, _, rest = body.partition("\n\n")
    said = f"{ABOUT[one.name][0].upper()}{ABOUT[one.name][1:]}."
    body = f"{title}\n\n{said}\n\n{rest}\n## What it is made of\n\n" + "\n".join(lines) + "\n"
    (out / "README.md").write_text(licences.joined(head, body), encoding="utf-8")
    return Released(one, card, left_out)
