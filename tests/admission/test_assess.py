"""The rapid assessment with a made-up model: rounds, what is kept after a kill, the files, and bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov import feedback
from open4ov.admission import probe
from open4ov.admission.assess import Assessment, Checks, assess
from open4ov.data import labels
from open4ov.data.language import answers_in
from open4ov.errors import UserError
from open4ov.recipe import Recipe, load
from open4ov.recipe_assess import AssessSection
from open4ov.sample import Label, Sample, assistant, user
from open4ov.stages import assess as stage_assess
from open4ov.store import ImageStore, write_samples
from open4ov.verifier import Verdict
from open4ov.versions import Stores

SECTION = AssessSection(tokens=1000, gain=0.1, margin=0.1, language_margin=0.1)
BASE = Path("base")


def question(name: str, task: str = "name", answer: str = "oil", split: Any = "val") -> Sample:
    messages = [user(f"What is {name}?", 1), assistant(answer)]
    return Sample(id=name, source="t", split=split, task=task, images=[name], messages=messages, answer=answer)


class Models:
    """`train` and `ask` of models that know so much: the share of the vertical that round r's model has learned."""

    def __init__(self, *learned: float, general: float = 1.0, chinese: bool = False) -> None:
        self.learned, self.general, self.chinese = learned, general, chinese
        self.trained: list[int] = []
        self.asked: list[str] = []

    def train(self, seed: int, folder: Path) -> Path:
        self.trained.append(seed)
        return folder / str(len(self.trained) - 1)

    def ask(self, model: Path, questions: list[Sample], what: str) -> list[str]:
        self.asked.append(what)
        vertical = 0.0 if model == BASE else self.learned[int(model.name)]
        general = 1.0 if model == BASE else self.general
        said: list[str] = []
        for place, one in enumerate(questions):
            knows = (place % 20) / 20 < (vertical if one.task == "name" else general)
            wrong = "我不知道这是什么标志，也许是安全带" if self.chinese and model != BASE else "seat belt"
            said.append(one.answer or "" if knows else wrong)
        return said

    def __call__(self, model: Path, questions: list[Sample], what: str) -> list[str]:
        return self.ask(model, questions, what)

    def identity(self, model: Path) -> str:
        return str(model.parent)


def right(said: Sequence[str], samples: Sequence[Sample]) -> list[Verdict]:
    return [Verdict(text == sample.answer) for text, sample in zip(said, samples, strict=True)]


Judge = Callable[[Sequence[str], Sequence[Sample]], list[Verdict]]


def run(models: Models, scratch: Path, rounds: int = 1, judge: Judge = right, **options: Any) -> Assessment:
    blocks = [
        {
            "vertical": [question(f"v{r}-{i}") for i in range(60)],
            "general": [question(f"g{r}-{i}", "colour", "red") for i in range(60)],
        }
        for r in range(rounds)
    ]
    checks = Checks(judge, answers_in)
    section = SECTION.model_copy(update={"rounds": rounds, **options})
    own = [question("own", split="train")]
    return assess(BASE, blocks, own, models.train, models, checks, section, 7, scratch)  # pyright: ignore[reportArgumentType]


def test_a_model_that_learned_is_admitted_and_one_that_forgot_is_not(tmp_path: Path) -> None:
    assert run(Models(0.5), tmp_path / "a").verdict == "admit"
    assert run(Models(0.0), tmp_path / "b").verdict == "reject"
    forgot = run(Models(0.5, general=0.5), tmp_path / "c")
    assert forgot.verdict == "reject"
    assert [bar.shown for bar in forgot.bars] == ["holds", "fails", "holds"]
    spoke = run(Models(0.3, chinese=True), tmp_path / "d")
    assert spoke.verdict == "reject"
    assert spoke.bars[2].shown == "fails"


def test_an_open_verdict_asks_for_another_round_up_to_the_cap(tmp_path: Path) -> None:
    models = Models(0.15, 0.15, 0.15)
    found = run(models, tmp_path, rounds=3)
    assert [look["verdict"] for look in found.looks] == ["undecided"] * 3
    assert models.trained == [7, 8, 9]  # a seed of its own for each
    assert found.bars[0].pairs.asked == 180
    settled = Models(0.15, 0.9, 0.9)
    assert [look["verdict"] for look in run(settled, tmp_path / "b", rounds=3).looks] == ["undecided", "admit"]
    once = Models(0.15)
    run(once, tmp_path / "c", rounds=3, train_anew=False)
    assert once.trained == [7]


def test_answers_that_are_there_are_not_asked_for_again(tmp_path: Path) -> None:
    first = Models(0.5)
    before = run(first, tmp_path)
    assert len(first.asked) == 6  # vertical, general and the data's own, of both models
    again = Models(0.0, 0.0)  # would say something else
    assert run(again, tmp_path).asked == before.asked
    assert again.asked == []
    (tmp_path / "round-0" / "general-trained.json").write_text("{")  # killed while it was written, on a poor disk
    run(again, tmp_path)
    assert again.asked == ["general questions, trained"]


def test_answers_are_kept_for_the_very_model_that_gave_them(tmp_path: Path) -> None:
    first, other = Models(0.5), Models(0.5)
    run(first, tmp_path)
    other.identity = lambda model: f"{model.parent} in bf16"
    run(other, tmp_path)
    assert len(other.asked) == 6


def test_questions_without_a_verdict_count_for_the_language_alone(tmp_path: Path) -> None:
    def mute(name: str) -> Judge:
        def some(said: Sequence[str], samples: Sequence[Sample]) -> list[Verdict]:
            return [
                Verdict(None, "it hung")
                if sample.id.startswith(name) and text == "oil"
                else Verdict(text == sample.answer)
                for text, sample in zip(said, samples, strict=True)
            ]

        return some

    found = run(Models(0.5), tmp_path / "a", judge=mute("v0-2"))
    assert [bar.pairs.asked for bar in found.bars] == [49, 60, 120]  # without v0-2 and v0-20 to v0-29
    assert [one.unjudged for one in found.asked if one.unjudged] == ["it hung"] * 11
    assert len(found.judged) == len(found.asked) - 11
    with pytest.raises(UserError, match=r"sft\.verifier: of no vertical question both answers have a verdict"):
        run(Models(1.0), tmp_path / "b", judge=mute("v"))


def test_the_datas_own_questions_decide_nothing(tmp_path: Path) -> None:
    found = run(Models(0.5), tmp_path)
    assert sum(one.probe == "own" for one in found.asked) == 1
    assert [bar.pairs.asked for bar in found.bars] == [60, 60, 120]


def test_probe_questions_are_held_out_have_answers_and_show_no_picture_twice() -> None:
    samples = [question(f"q{i}", f"task{i % 3}").model_copy(update={"images": [f"p{i // 2}"]}) for i in range(80)]
    samples += [question("train", split="train"), question("mute").model_copy(update={"answer": None})]
    held = probe.from_samples(samples, "x")
    assert {s.id for s in held} == {f"q{i}" for i in range(80)}
    blocks = probe.blocks(held, 12, 2, seed=3)
    assert [len(block) for block in blocks] == [12, 12]
    shown = [sha for block in blocks for s in block for sha in s.images]
    assert len(set(shown)) == len(shown)
    assert {s.task for s in blocks[0]} == {"task0", "task1", "task2"}
    assert blocks == probe.blocks(held, 12, 2, seed=3)
    with pytest.raises(UserError, match=r"x: 0 questions of split val with a reference answer among 30 samples; .* 20"):
        probe.from_samples([question(f"q{i}", split="train") for i in range(30)], "x")


RECIPE = """
name: t
admission: {assess: {tokens: 5000, questions: 20, general_questions: 20, own_questions: 4, gain: 0.4, margin: 0.5}}
images: {vertical: FOLDER, general: FOLDER}
"""


@pytest.fixture
def given(tmp_path: Path) -> tuple[Recipe, list[Sample], list[Sample], ImageStore]:
    """A folder's recipe, its data (train and val), a general set, and the store with their pictures."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(tmp_path)))
    store = ImageStore(tmp_path / "image-store")

    def shown(name: str, number: int, task: str, split: str) -> Sample:
        sha = store.put(Image.new("RGB", (32, 32), (number * 5 % 256, len(task) * 9, 80 if split == "val" else 200)))
        return question(name, task, split=split).model_copy(update={"images": [sha]})

    new = [shown(f"{s}{i}", i, "name", s) for s in ("train", "val") for i in range(24)]
    general = [shown(f"g{s}{i}", i, "colour", s) for s in ("train", "val") for i in range(24)]
    return load(path), new, general, store


def test_what_cannot_be_assessed_is_refused(given: tuple[Recipe, list[Sample], list[Sample], ImageStore]) -> None:
    recipe, new, general, store = given

    def gather(new: list[Sample], general: list[Sample]) -> stage_assess.Assessed:
        return stage_assess.gather(recipe, new, general, store, 0, "batch")

    with pytest.raises(UserError, match="batch: 24 samples, none of split train with messages"):
        gather(new[24:], general)
    with pytest.raises(UserError, match=r"batch: 4 questions of split val"):
        gather(new[:28], general)
    with pytest.raises(UserError, match=r"the general set: 0 questions"):
        gather(new, general[:24])
    store.path(new[3].images[0]).unlink()
    with pytest.raises(UserError, match=r"batch: 1 pictures are missing; the first: sample train3, .*png"):
        gather(new, general)


def test_the_corpus_is_asked_about_its_own_samples_only(
    given: tuple[Recipe, list[Sample], list[Sample], ImageStore],
) -> None:
    """An import under a recipe that names no folder: dashboard symbols would say nothing about it."""
    recipe, new, general, store = given
    recipe.images.vertical = stage_assess.IN_CAR
    found = stage_assess.gather(recipe, new, general, store, 0, "batch")
    assert {one.source for one in found.rounds[0]["vertical"]} == {"t"}
    assert any("own, of split val" in line for line in found.warnings)
    with pytest.raises(UserError, match=r"0 questions of split val.*admission\.assess\.probe names others"):
        stage_assess.gather(recipe, new[:24], general, store, 0, "batch")


def test_what_is_asked_about_is_not_trained_on(
    given: tuple[Recipe, list[Sample], list[Sample], ImageStore], tmp_path: Path
) -> None:
    recipe, new, general, store = given
    shown = {"images": [new[30].images[0], new[0].images[0]]}  # the picture of val6, and one of its own
    both = new[0].model_copy(update={**shown, "messages": [user("Which?", 2), assistant("oil")]})
    found = stage_assess.gather(recipe, [both, *new[1:]], [*general, general[30].model_copy(update={"split": "train"})],
                                store, 0, "batch")  # fmt: skip
    assert "train0" not in {one.id for one in found.batch}
    assert any("the new data: 1 samples have a picture that is asked about" in line for line in found.warnings)
    asked = {name for block in found.rounds for part in block.values() for one in part for name in one.images}
    assert not asked & {name for one in [*found.batch, *found.general] for name in one.images}
    (tmp_path / "probe").mkdir()
    write_samples(tmp_path / "probe" / "samples.parquet", new[:24])
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.replace("FOLDER", str(tmp_path)).replace("{tokens:", f"{{probe: {tmp_path / 'probe'}, tokens:")
    )
    with pytest.raises(UserError, match=r"admission.assess.probe: .*probe: 20 samples .*; the first: sample train"):
        stage_assess.gather(load(tmp_path / "recipe.yaml"), new, general, store, 0, "batch")


def test_labels_that_the_tree_does_not_have_count_for_none(
    given: tuple[Recipe, list[Sample], list[Sample], ImageStore],
) -> None:
    recipe, new, general, store = given
    tree = labels.load()
    known = Label(axis="domain", l1=tree.domain[0].name, l2=tree.domain[0].l2[0].name)
    strange = [Label(axis="domain", l1="Spaceships"), Label(axis="ability", l1=tree.ability[0].name, l2="Telepathy")]
    new = [one.model_copy(update={"labels": [known, *strange]}) for one in new]
    found = stage_assess.gather(recipe, new, general, store, 0, "batch")
    assert {label.l1 for one in found.batch for label in one.labels} == {known.l1}
    (line,) = [line for line in found.warnings if "label tree" in line]
    assert line.startswith("batch: 2 labels are not in the label tree")
    assert "domain: Spaceships (24 samples)" in line


def test_it_leaves_verdict_page_and_feedback(
    given: tuple[Recipe, list[Sample], list[Sample], ImageStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, new, general, store = given
    found = stage_assess.gather(recipe, new, general, store, 0, "batch <1>")
    assert any("own, of split val" in line for line in found.warnings)  # nobody vouches for these answers
    assert any("questions of the vertical probe would show" in line for line in found.warnings)
    models = Models(0.0)
    monkeypatch.setattr(stage_assess.short, "train", lambda *a: models.train(a[5], a[6]))
    monkeypatch.setattr(
        stage_assess.Asking,
        "__call__",
        lambda self, model, qs, what: models.ask(BASE if "base" in what else model, qs, what),
    )
    monkeypatch.setattr(stage_assess.Asking, "identity", lambda self, model: str(model))
    out = tmp_path / "out"
    told = stage_assess.assess(recipe, found, out, tmp_path / "scratch", 0)
    assert told == json.loads((out / "verdict.json").read_text())
    assert told["verdict"] == "reject"
    assert told["criteria"]["vertical"]["asked"] == 20
    assert told["batch"]["samples"] == 24
    wishes = feedback.read(out / "feedback.yaml").wishes
    assert [(wish.want, wish.task) for wish in wishes] == [("better", "name")]
    assert set(wishes[0].samples) <= {s.id for s in new[:24]}
    page = (out / "failures.html").read_text()
    assert "batch &lt;1&gt;" in page
    assert page.count("data:image/png") == 12  # of 20 failures; the others are in answers.jsonl
    assert len(re.findall(r"https?://", page)) == 0
    assert "default-src 'none'; style-src &#39;sha256-" in page or "default-src 'none'; style-src 'sha256-" in page
    assert len((out / "answers.jsonl").read_text().splitlines()) == 44


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("{assess: {gain: 0.1}}", "admission.assess.gain: has no effect: admission.assess.tokens is 0"),
        ("{assess: {tokens: 9000, train_anew: true}}", "train_anew: has no effect: admission.assess.rounds is 1"),
        ("{assess: {tokens: 100}}", "100 is less than one pack"),
        ("{assess: {tokens: 9000, margin: 0}}", "expected greater than 0"),
    ],
)
def test_options_that_cannot_be_are_told(options: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: t\nadmission: {options}\n")
    with pytest.raises(UserError, match=re.escape(fault)):
        load(path)


def test_pictures_are_found_in_all_stores(tmp_path: Path) -> None:
    mine, theirs = ImageStore(tmp_path / "a"), ImageStore(tmp_path / "b")
    one, two = (s.put(Image.new("RGB", (8, 8), (n, 0, 0))) for s, n in ((mine, 1), (theirs, 2)))
    both = Stores(mine, theirs)
    assert [both.get(sha).getpixel((0, 0)) for sha in (one, two)] == [(1, 0, 0), (2, 0, 0)]
    assert not both.path("0" * 64).exists()
    three = both.put(Image.new("RGB", (8, 8), (3, 0, 0)))
    assert mine.path(three).exists()
    write_samples(tmp_path / "b" / "samples.parquet", [])
