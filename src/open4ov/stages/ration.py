"""Rationing put together: admission's search, trained by SFT's loop and scored by the engine (paper §3.2.2).

The stage `ration` of a run takes the general set for the stable version and the vertical one for the new data; `admit`
makes one of versions outside of a run (`open4ov admit ration`).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from open4ov import asking, assets, keys, version_diff, versions
from open4ov.admission import halving, ration, stable
from open4ov.admission.batches import Source, batches
from open4ov.admission.halving import Scores
from open4ov.admission.ration import STABLE, Shares
from open4ov.admission.stable import Given
from open4ov.commit import commit
from open4ov.errors import UserError
from open4ov.formats.convert import located
from open4ov.graph import Graph, Stage
from open4ov.model import Processor, Qwen3VL
from open4ov.report import ration_page
from open4ov.run_dir import hash_json, read_json
from open4ov.sample import Sample, content_id
from open4ov.sft import curriculum, pupil, screen, short
from open4ov.store import ImageStore, atomic, write_json
from open4ov.verifier import Verifier

if TYPE_CHECKING:
    from open4ov.graph import StageRun
    from open4ov.recipe import Recipe

SETS = {STABLE: "ability", "vertical": "knowledge"}
"""What a run searches the ratio of, as folders of its stage `sets`"""


def run(run: StageRun) -> None:
    """The stage `ration` of a run: ratio.json, ration.html, and the next stable version in stable/ with its diff."""
    folders = {name: run.inputs["sets"] / folder for name, folder in SETS.items()}
    sets = [stable.given(folder / versions.SAMPLES, run.images, name) for name, folder in folders.items()]
    ration_sets(run, sets[0], sets[1:])


def admit(
    recipe: Recipe, stable_set: Path, new_sets: Sequence[Path], verdicts: Sequence[Path] = (), anyway: bool = False
) -> Graph:
    """The same for a stable version and new data outside of a run: a graph of the one stage `ration`.

    The pictures go to its image store, so that it needs nothing else. Raises UserError for sets that do not go together
    and, if not `anyway`, for new data that the rapid assessment did not admit.
    """
    if not recipe.admission.ration.on:
        raise UserError("admission.ration has no ratios and no trials: nothing to search; write `trials: 5`, for one")
    places = [located(folder) for folder in (stable_set, *new_sets)]
    sets = [
        stable.given(path, pictures, STABLE if place == 0 else None) for place, (path, pictures) in enumerate(places)
    ]
    for place, one in enumerate(sets):
        if one.name in {other.name for other in sets[:place]}:
            sets[place] = replace(one, name=f"{one.name}-{place}")
    stable.check_trees(sets)
    if not anyway:
        stable.check_admitted(sets[1:], verdicts)
    ration.candidates(recipe.admission.ration, {one.name: 1 for one in sets[1:]})  # a misspelt name, before the work

    def work(run: StageRun) -> None:
        ration_sets(run, sets[0], sets[1:], run.images)

    ids = [one.parent().model_dump() for one in sets]
    return Graph([Stage("ration", (), lambda recipe: {**keys.ration(recipe), "sets": ids}, work)])


def ration_sets(run: StageRun, old: Given, new: Sequence[Given], to: ImageStore | None = None) -> None:
    """Searches the ratio and writes what it came to into `run.out`. `to`: as in `stable.write`."""
    section, out = run.recipe.admission.ration, run.out
    pictures = versions.Stores(*(one.pictures for one in (old, *new)))
    sources = {
        name: Source(one.samples(), versions.Stored(one.held) if one.held else ())
        for name, one in ((STABLE, old), *((one.name, one) for one in new))
    }
    drawn = batches(sources, section.batch, section.questions, run.seed)
    plan = ration.budget(section)
    rounds = ", ".join(f"{rung.candidates} x {rung.added:,}" for rung in plan.rungs)
    run.note(f"at most {plan.total:,} tokens ({rounds}), of {plan.grid:,} for every candidate to the end")
    trials = Trials(run, pictures)
    tried, found = ration.search(
        section,
        drawn,
        trials.train,
        trials.score,
        run.scratch / "journal",
        run.seed,
        run.progress,
        trials.forget,
    )
    record = ration.record(section, drawn, tried, found)
    about = versions.Version(
        name=STABLE,
        recipe=hash_json(section.model_dump(mode="json"))[:16],
        commit=commit() or "",
        note=f"ratio of new data {record['name']}, {record['ended']}",
    )
    record |= trials.told(run, sum(map(len, found.base.values())))
    shares = tried[found.chosen]
    made, joined, changed = stable.write(out / STABLE, old, new, shares, about, to)
    record["stable"] = {"id": made.id, "samples": made.samples, **asdict(joined)}
    write_json(out / "diff.json", changed)
    _write_text(out / "diff.html", version_diff.page(changed, _called(old), f"{STABLE} {made.id}", pictures))
    write_json(out / "ratio.json", record)
    _write_text(out / "ration.html", ration_page.page(record, pictures))
    write_json(out / "summary.json", {key: record[key] for key in ("ratio", "held", "ended")} | {"stable": made.id})
    run.log({"ratio": record["ratio"], "tokens": found.used, "held": record["held"]})
    if all(trial["vertical"] <= record["base"]["vertical"] for one in record["candidates"] for trial in one["trials"]):
        run.note("no candidate raised the vertical score, so that the ratio says little: raise admission.ration.tokens")
    if not record["held"]:
        lost = f"{record['lost']:.1%} of the general score, beyond admission.ration.margin = {section.margin:g}"
        run.note(f"the ratio {record['name']} loses {lost}; none tried was better by the objective")


class Trials:
    """Trains and scores candidates. Their models lie in the stage's scratch, a folder each, whole or not at all."""

    def __init__(self, run: StageRun, pictures: ImageStore) -> None:
        self.run = run
        self.section = short.section_of(run.recipe)
        self.base = assets.base_dir(run.recipe.model)
        self.folder = run.scratch / "models"
        self.processor = Processor.from_pretrained(self.base)
        self.encoder = pupil.encoder(self.section, self.processor, pictures)
        self.left_out: dict[str, dict[str, str]] = {"too_long": {}, "split": {}, "empty": {}}

    def train(
        self, batches: Mapping[str, Sequence[Sample]], shares: Shares, start: str | None, done: int, tokens: int
    ) -> str:
        """One piece: a whole learning-rate schedule of its own, as stage 1 of SFT has it, from where the last one
        ended."""
        name = content_id(dict(shares), done + tokens)
        if (self.folder / name).exists():
            return name
        samples = self._blend(batches, shares, done, tokens)
        for what, ids in self.left_out.items():
            self._tell(what, ids)
        short.run(self._place(start), samples, self.section, self.encoder, self.run.seed, self.folder / name)
        return name

    def score(self, handle: str | None, questions: Mapping[str, Sequence[Sample]]) -> Scores:
        """Greedy answers of a model, right (1) or not (0) by `sft.verifier`: not where it does not say either, which
        `told` counts."""
        asked = [sample for row in halving.ROWS for sample in questions[row]]
        model, most = Qwen3VL.from_pretrained(self._place(handle)), self.run.recipe.evaluate.max_tokens
        model.to(self.encoder.device)
        picture = self.encoder.picture
        said = asking.answers(model, self.processor, asked, picture, self.section.precision, lambda _: most)
        seconds = self.run.recipe.admission.mastery.verifier_seconds
        with Verifier(self.section.verifier, seconds, "sft.verifier") as verifier:
            found = asking.verdicts(said, asked, verifier)
        silent = {f"{handle} {s.id}": one.reason for s, one in zip(asked, found, strict=True) if one.right is None}
        self._tell("unjudged", silent)
        right = iter(float(one.right is True) for one in found)
        return {row: [next(right) for _ in questions[row]] for row in halving.ROWS}

    def told(self, run: StageRun, questions: int) -> dict[str, dict[str, int]]:
        """What the trials have left out, and how many answers were not judged; for ratio.json, and as notes."""
        known = read_json(self.tally) or {}
        counts = {what: len(ids) for what, ids in sorted(known.items())}
        left = {what: count for what, count in counts.items() if what != "unjudged"}
        if left:
            words = {"too_long": "longer than a pack", "split": "split to fit a pack", "empty": "without an answer"}
            parts = ", ".join(f"{count} {words[what]}" for what, count in left.items())
            run.note(f"samples of the trials' batches: {parts}")
        if "unjudged" in counts:
            reason = next(iter(known["unjudged"].values()))
            asked = questions * len({one.partition(" ")[0] for one in known["unjudged"]})
            run.note(asking.unjudged(counts["unjudged"], asked, reason, "they count as not right"))
        return {"trials": counts} if counts else {}

    def forget(self, handle: str) -> None:
        shutil.rmtree(self.folder / handle, ignore_errors=True)

    @property
    def tally(self) -> Path:
        """What was left out or not judged so far, by id: of the whole search, kills and all."""
        return self.run.scratch / "tally.json"

    def _tell(self, what: str, about: Mapping[str, str]) -> None:
        if about:
            known = read_json(self.tally) or {}
            write_json(self.tally, {**known, what: {**known.get(what, {}), **about}})

    def _place(self, handle: str | None) -> Path:
        return self.base if handle is None else self.folder / handle

    def _blend(self, batches: Mapping[str, Sequence[Sample]], shares: Shares, done: int, tokens: int) -> list[Sample]:
        """The conversations of one piece: of each set those that lie between its share of `done` and of `done + tokens`
        in an order that all candidates take it in; never more than `tokens` in all."""
        found: list[Sample] = []
        for name, share in shares.items():
            part = list(self._between(name, batches[name], share * done, share * (done + tokens)))
            found = curriculum.spread(found, part)
        if not found:
            raise UserError(
                f"admission.ration.tokens: no sample of the batches fits into {tokens} tokens at the ratio "
                f"{ration.named(shares)} and sft.pack_tokens = {self.section.pack_tokens}; raise one of them"
            )
        return found

    def _between(self, name: str, samples: Sequence[Sample], start: float, end: float) -> Iterator[Sample]:
        at, epoch, turns = 0, 0, self.section.knowledge.turns
        while True:
            rng = random.Random(f"ration {name} {self.run.seed} {epoch}")
            fits = False
            for conversation in chain.from_iterable(
                map(self._sifted, curriculum.in_turn(curriculum.merge(samples, turns, rng)))
            ):
                size = self.encoder.length(conversation)
                fits = True
                if at + size > end:
                    return
                at += size
                if at > start:
                    yield conversation
            if not fits:
                return
            epoch += 1

    def _sifted(self, conversation: Sample) -> list[Sample]:
        """What of a conversation can be trained on, as stage 1 would have it."""
        section = self.section
        found = screen.sift(
            [conversation], self.encoder.length, section.pack_tokens, section.too_long, section.empty_answers
        )
        for what, ids in self.left_out.items():
            ids |= dict.fromkeys(getattr(found, what), "")
        return found.samples


def _write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _called(one: Given) -> str:
    return f"{one.name} {one.version.id}" if one.version else one.name
