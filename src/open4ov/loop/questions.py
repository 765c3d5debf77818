"""The stage `development` of a round: the questions by which its model's weaknesses are found.

Never a test's: what chooses the next round's data must not be what the rounds are judged by. About the vertical they
are those of a set that somebody trusts (`loop.probe`), or renderings of the corpus's split `val`, drawn anew for each
round with a seed of their own, or what the run's own data keep apart (`sft.held_out`, `data.hygiene.val`); about
general abilities the same of the general set. A question about a picture that anything is trained on is left out.

It comes before any training, so that a set without such questions is found out at once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from open4ov.admission import probe
from open4ov.corpora import in_car
from open4ov.corpora.in_car.items import SOURCE
from open4ov.data import corpus_labels, labels
from open4ov.errors import UserError
from open4ov.formats.convert import located
from open4ov.loop.places import Level
from open4ov.picture_groups import names
from open4ov.recipe import Recipe
from open4ov.sample import Sample, content_id
from open4ov.sft import sets
from open4ov.store import ImageStore, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

IN_CAR, GENERAL = "corpus:in_car", "corpus:general"
HINT = "sft.held_out or data.hygiene.val keeps some apart"


@dataclass(frozen=True)
class Look:
    """What a round is looked at with: the loop's recipe (whose model is the base, whatever the round starts from), the
    round's number, and the level of its places, where a round before has set it."""

    recipe: Recipe
    round: int
    level: Level | None = None

    @property
    def seed(self) -> int:
        """Of the development questions of this round: no evaluation, and no other round, draws with it."""
        return int(content_id("loop development", self.recipe.seed, self.round), 16) % 2**31


def choose(run: StageRun, look: Look) -> None:
    """Writes vertical.parquet, general.parquet (empty where there is no general set) and summary.json, which says where
    they are from."""
    recipe = look.recipe
    taught = {name: sets.training(run.inputs["sets"] / name) for name in sets.FILES}
    vertical, of_vertical = _vertical(run, look, taught["knowledge"])
    general, of_general = _general(run, look)
    seen = {name for samples in taught.values() for sample in samples for name in names(sample)}
    kept: list[list[Sample]] = []
    for what, questions in (("vertical", vertical), ("general", general)):
        apart = [one for one in questions if seen.isdisjoint(names(one))]
        if len(apart) < len(questions):
            shared = len(questions) - len(apart)
            if what == "vertical" and recipe.loop.probe:
                raise UserError(
                    f"loop.probe: {recipe.loop.probe}: the run is trained on pictures of {shared} of its questions; "
                    "name another set, or take these pictures out of images.vertical"
                )
            run.note(f"{shared} {what} questions have a picture that is trained on, and are left out")
        if questions and len(apart) < probe.LEAST:
            raise UserError(f"loop: {len(apart)} {what} development questions are left; {probe.LEAST} are needed")
        kept.append(apart)
    write_samples(run.out / "vertical.parquet", kept[0])
    write_samples(run.out / "general.parquet", kept[1])
    on = {"vertical": of_vertical, "general": of_general}
    write_json(run.out / "summary.json", {**{name: len(s) for name, s in zip(on, kept, strict=True)}, "on": on})


def _vertical(run: StageRun, look: Look, taught: Sequence[Sample]) -> tuple[list[Sample], str]:
    recipe, count = look.recipe, look.recipe.loop.questions
    if recipe.loop.probe:
        file, theirs = located(Path(recipe.loop.probe))
        found = probe.from_samples(read_samples(file), f"loop.probe: {recipe.loop.probe}", split=None)
        chosen = probe.blocks(found, count, 1, look.seed)[0]
        _bring(chosen, theirs, run.images, recipe.loop.probe)
        return chosen, f"the set {Path(recipe.loop.probe).name}"
    if recipe.images.vertical == IN_CAR and {sample.source for sample in taught} <= {SOURCE}:
        told = f"pictures of the corpus's split val, drawn with the seed {look.seed}"
        return _in_car(run, count, look.seed), told
    held = sets.validation(run.inputs["sets"] / "knowledge")
    chosen = probe.blocks(probe.from_samples(held, "loop: SFT-Knowledge", hint=HINT), count, 1, look.seed)[0]
    return chosen, "what SFT-Knowledge keeps apart (split val), whose answers are as good as the data"


def _in_car(run: StageRun, count: int, seed: int) -> list[Sample]:
    """Every symbol as often as the count allows, and the rest by lot: the corpus has the tell-tales first."""
    symbols = [symbol.id for symbol in in_car.load()]
    whole = count - count % len(symbols)
    some = random.Random(f"development {seed}").sample(symbols, count - whole)
    found = probe.in_car_questions(whole, seed, run.images, None, _teller(run, "vertical"))
    return found + probe.in_car_questions(len(some), seed + 1, run.images, some, _teller(run, "vertical"))


def _general(run: StageRun, look: Look) -> tuple[list[Sample], str]:
    recipe, count = look.recipe, look.recipe.loop.general_questions
    if not sets.training(run.inputs["sets"] / "ability"):
        return [], "there is no general set"
    if recipe.images.general == GENERAL:
        tree = labels.load(recipe.data.labels)
        known = corpus_labels.names(tree)
        drawn = probe.general_questions(count, look.seed, run.images, _teller(run, "general"))
        told = f"pictures of the corpora's split val, drawn with the seed {look.seed}"
        return [corpus_labels.labelled(sample, tree, known) for sample in drawn], told
    held = sets.validation(run.inputs["sets"] / "ability")
    chosen = probe.blocks(probe.from_samples(held, "loop: SFT-Ability", hint=HINT), count, 1, look.seed)[0]
    return chosen, "what SFT-Ability keeps apart (split val)"


def _teller(run: StageRun, what: str) -> probe.Progress:
    def tell(done: int, total: int) -> None:
        run.progress(f"drawing {what} development questions", done, total)

    return tell


def _bring(samples: Sequence[Sample], theirs: ImageStore, into: ImageStore, name: str) -> None:
    """Copies pictures into the run's store. Raises UserError for one that is not there."""
    for sample in samples:
        for sha in sample.images:
            if not into.path(sha).exists():
                if not theirs.path(sha).exists():
                    raise UserError(
                        f"loop.probe: {name}: the picture of sample {sample.id} is missing: {theirs.path(sha)}"
                    )
                into.put(theirs.get(sha))
