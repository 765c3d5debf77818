"""A run of seconds for tests of the loop: its data are a handful of labelled samples, and its model "knows" what a file
beside the weights says, so that the weaknesses that it is found to have are known.

As a script (`python tests/loop/rounds_made.py ROOT ROUNDS STAGE ROUND`) it is the process that dies in a stage.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from open4ov import feedback, pipeline
from open4ov.evaluate.scores import Answer, summarise, write_answers
from open4ov.graph import Graph, Stage, StageRun
from open4ov.loop import rounds, weaknesses
from open4ov.loop.questions import Look
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.sample import Label, Sample, assistant, content_id, user
from open4ov.stages import sets
from open4ov.store import write_json, write_samples

SIGNS, LIGHTS = "Automotive ~ Road signs", "Automotive ~ Dashboard tell-tales"
NAMING, MEANING = "Recognition ~ Symbol naming", "Knowledge ~ Meaning"
PLACES = {(SIGNS, NAMING): 0.25, (SIGNS, MEANING): 0.75, (LIGHTS, NAMING): 0.5, (LIGHTS, MEANING): 1.0}
"""Place -> share of its questions that the toy model has right"""
COUNTING, COLOUR = "Counting", "Attribute perception"
ABILITIES = {COUNTING: (1.0, 0.25), COLOUR: (0.75, 0.75)}
"""Ability -> shares that base and round's model have right"""
EACH = 40
"""Samples of each place and ability, half of them of split val"""


def recipe(**sections: Any) -> Recipe:
    told: dict[str, Any] = {"name": "toy", "seed": 3, "threads": 1, "images": {"vertical": "corpus:in_car"}, **sections}
    told.setdefault("sft", {"held_out": 0.0, "knowledge": {"replay": 0.4}})
    return Recipe.model_validate(told)


def go(root: Path, count: int = 2, kind: Any = "adaptive", reporter: Any = None, **sections: Any) -> None:
    rounds.run(recipe(**sections), root, count, kind, reporter or Quiet())


def toy_graph(recipe: Recipe) -> Graph:
    return Graph(
        [
            Stage("data", (), lambda recipe: {"data": recipe.data.model_dump(mode="json")}, data),
            Stage("sets", ("data",), lambda recipe: {}, sets.run),
            Stage("sft_knowledge", ("sets",), lambda recipe: {"sft": recipe.sft.model_dump(mode="json")}, train),
            Stage("dpo", ("sft_knowledge",), lambda recipe: {}, finish),
            Stage("evaluate_dpo", ("dpo",), lambda recipe: {}, evaluate),
            Stage(
                "report", ("evaluate_dpo",), lambda recipe: recipe, lambda run: write_json(run.out / "table.json", {})
            ),
        ]
    )


def sample(run: StageRun, place: int, number: int, labels: list[Label], task: str) -> Sample:
    """Every second one is of split val, but where the recipe's name says that all are trained on."""
    val = number % 2 == 1 and run.recipe.name != "all trained on"
    name = content_id("toy", place, number)
    return Sample(
        id=name,
        source="toy",
        split="val" if val else "train",
        task=task,
        images=[run.images.put(Image.new("RGB", (8, 8), (place, number, 9)))],
        messages=[user("what?", images=1), assistant("this")],
        answer="this",
        labels=labels,
    )


def data(run: StageRun) -> None:
    """As many samples of each place as the feedback file asks for, of a stock."""
    wishes = feedback.read(Path(run.recipe.data.feedback)).wishes if run.recipe.data.feedback else []
    factors = {wish.place[:2]: 1 + wish.weight if wish.want == "more" else 1 / (1 + wish.weight) for wish in wishes}
    made: list[Sample] = []
    for place, (domain, ability) in enumerate(PLACES):
        labels = [_label("domain", domain), _label("ability", ability)]
        count = 2 * round(EACH / 2 * factors.get((domain, ability), 1.0))
        made += [sample(run, place, number, labels, "toy") for number in range(min(count, 200))]
    general: list[Sample] = []
    for place, ability in enumerate(ABILITIES, len(PLACES)):
        labels = [Label(axis="ability", l1=ability, l2=None)]
        general += [sample(run, place, number, labels, "general") for number in range(EACH)]
    write_samples(run.out / "samples.parquet", made)
    write_samples(run.out / "general.parquet", general)
    write_samples(run.out / "topics.parquet", [])
    write_json(run.out / "report.json", {"counts": {"kept": len(made)}, "density": {"budgets": {"4": 40, "2": 3}}})


def _label(axis: Any, name: str) -> Label:
    l1, _, l2 = name.partition(" ~ ")
    return Label(axis=axis, l1=l1, l2=l2)


def train(run: StageRun) -> None:
    (run.out / "model").mkdir()
    (run.out / "model" / "weights").write_text(
        f"{run.recipe.model.rpartition('/round-')[2]} {run.recipe.sft.knowledge.replay}"
    )
    write_json(run.out / "summary.json", {"tokens": 1000})


def finish(run: StageRun) -> None:
    shutil.copytree(run.inputs["sft_knowledge"] / "model", run.out / "model")


def evaluate(run: StageRun) -> None:
    suites = ("naming", "colour", "counting", "reading", "position", "comparing", "charts", "in_car_en", "in_car_zh",
              "arithmetic", "instruction")  # fmt: skip
    answers = [
        Answer(id=f"{suite}/{n}", suite=suite, task=suite, language="en", question="q", earlier="", answers=["a"],
               rule="exact", responses=["a"], right=[n % 2 == 0], tokens=[2], pictures=[])
        for suite in suites for n in range(4)
    ]  # fmt: skip
    write_answers(run.out / "answers.parquet", answers)
    about = {"schema": 1, "model": "dpo", "seed": run.seed, "items": 4, "samples": 1, "confidence": 0.95}
    write_json(run.out / "results.json", {**about, **summarise(answers, 0.95), "differences": {}})


def right(run: StageRun, look: Look, asked: Sequence[Sample], folder: Path, who: str) -> dict[str, bool | None]:
    """In place of a model's answers: the first so many of each place's."""
    found: dict[str, bool | None] = {}
    for name, share in _known(who).items():
        own = sorted(
            one.id for one in asked if {f"{one.l1} ~ {one.l2}" if one.l2 else one.l1 for one in one.labels} == name
        )
        found |= {id: place < share * len(own) for place, id in enumerate(own)}
    assert found.keys() == {one.id for one in asked}
    return found


def _known(who: str) -> dict[frozenset[str], float]:
    known = {frozenset(place): share for place, share in PLACES.items()}
    return known | {frozenset([name]): shares[who != "the base"] for name, shares in ABILITIES.items()}


def install(patch: Any) -> None:
    """The toy in place of the pipeline's graph and of the models' answers."""
    patch(pipeline, "graph", toy_graph)
    patch(weaknesses, "_right", right)
    from open4ov.loop import questions

    patch(questions, "IN_CAR", "corpus:none")  # questions are those that the sets keep apart
    patch(questions, "GENERAL", "corpus:none")


if __name__ == "__main__":
    root, count, stage, number = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    install(setattr)
    plain = toy_graph

    def deadly(recipe: Recipe) -> Graph:
        from dataclasses import replace

        def die(run: StageRun) -> None:
            if run.out.parent.parent.name == f"round-{number}":
                os.kill(os.getpid(), signal.SIGKILL)
            plain(recipe).stages[stage].run(run)

        stages = plain(recipe).stages.values()
        return Graph([replace(one, run=die) if one.name == stage else one for one in stages])

    pipeline.graph = deadly
    if stage == "plan":

        def never(self: object, folder: Path, origin: str) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        from open4ov.loop.plan import Plan

        Plan.write = never  # type: ignore[method-assign, assignment]
    go(root, count)
