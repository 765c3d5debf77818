"""The suites of a folder's vertical: which pictures are held out, what is asked, and when there is too little of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4ov import pipeline
from open4ov.errors import UserError
from open4ov.evaluate import held_out, plan_eval, suites
from open4ov.evaluate.scores import ROWS, Answer, differences, summarise
from open4ov.recipe import EvaluateSection, Recipe
from open4ov.report.table import build
from open4ov.sample import Sample, assistant, user
from open4ov.store import ImageStore, read_samples, write_samples

TASKS = ("naming", "meaning")


def sample(picture: str, task: str = "naming", language: str = "en", split: str = "test", **fields: Any) -> Sample:
    fields = {"answer": f"{task} of {picture}", **fields}
    return Sample.model_validate(
        {
            "id": f"{picture}/{task}/{language}",
            "source": "folder",
            "task": task,
            "language": language,
            "split": split,
            "images": [picture],
            "messages": [user("What?", images=1), assistant(fields["answer"] or "x")],
            **fields,
        }
    )


def held(count: int) -> list[Sample]:
    return [sample(f"{n:02d}", task) for n in range(count) for task in TASKS]


def trained(count: int) -> list[Sample]:
    return [sample(f"t{n:02d}", split="train") for n in range(count)]


def run(tmp_path: Path, samples: list[Sample], general: list[Sample] | None = None, **options: Any) -> Any:
    data, out = tmp_path / "data", tmp_path / "held_out"
    data.mkdir(parents=True)
    out.mkdir()
    write_samples(data / "samples.parquet", samples)
    write_samples(data / "general.parquet", general or [])
    recipe = Recipe.model_validate(
        {
            "name": "a",
            "images": {"vertical": "stones"},
            "data": {"hygiene": {"test": 0.2}},
            "evaluate": {"min_items": 4, **options},
        }
    )
    notes: list[str] = []
    stage = SimpleNamespace(recipe=recipe, out=out, inputs={"data": data}, seed=3, note=notes.append)
    held_out.run(stage)  # pyright: ignore[reportArgumentType]
    return SimpleNamespace(asked=read_samples(out / "samples.parquet"), notes=notes, out=out)


def test_only_held_out_pictures_are_asked_and_each_once_before_any_comes_again(tmp_path: Path) -> None:
    told = run(tmp_path, [*held(6), *trained(5)])
    assert {one.split for one in told.asked} == {"test"}
    pictures = [one.images[0] for one in told.asked]
    assert len(set(pictures[:6])) == 6
    assert len(pictures) == len({one.id for one in told.asked}) == 12
    assert Counter(one.task for one in told.asked[:6]) == {"naming": 3, "meaning": 3}
    record = json.loads((told.out / "held_out.json").read_text())
    assert record == {
        "en": {"questions": 12, "pictures": 6, "tasks": {"meaning": 6, "naming": 6}}, "left_out": {},
    }  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from("xyz"), min_size=1), min_size=1), st.integers()
)
def test_every_question_comes_once_and_the_first_are_spread_over_pictures(has: dict[str, set[str]], seed: int) -> None:
    every = [sample(picture, task) for picture, tasks in has.items() for task in tasks]
    order = held_out.in_turn(every, "en", seed)
    assert sorted(one.id for one in order) == sorted(one.id for one in every)
    assert len({one.images[0] for one in order[: len(has)]}) == len(has)
    assert [one.id for one in order] == [one.id for one in held_out.in_turn(every[::-1], "en", seed)]


def test_nothing_trained_on_is_asked(tmp_path: Path) -> None:
    both = sample("00", "meaning", split="train")  # the same picture, on the other side
    general = [sample("01", "colour", split="val")]
    told = run(tmp_path, [*(one for one in held(6) if one.id != both.id), both], general)
    assert {one.images[0] for one in told.asked} == {"02", "03", "04", "05"}
    assert told.notes == ["3 held-out questions have a picture that is trained on, and are not asked"]


def test_too_few_questions_are_an_error_that_names_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        run(tmp_path, [*held(1), *trained(30)])
    text = str(told.value)
    assert "2 in en about 1 pictures, where evaluate.min_items is 4" in text
    assert "2 samples are of split test" in text
    for advice in ("Bring more pictures", "data.hygiene.test (now 0.2)", "evaluate.min_items"):
        assert advice in text
    with pytest.raises(UserError, match="0 in en about 0 pictures, 0 in zh"):
        run(tmp_path / "none", trained(30))


def test_a_language_that_nothing_is_asked_in_is_no_error_and_one_with_too_few_is(tmp_path: Path) -> None:
    assert len(run(tmp_path / "one", held(6)).asked) == 12
    with pytest.raises(UserError, match="1 in zh about 1 pictures"):
        run(tmp_path / "two", [*held(6), sample("00", "naming", "zh")])


def test_what_has_no_reference_is_left_out_and_counted(tmp_path: Path) -> None:
    told = run(tmp_path, [*held(4), sample("09", answer=None), sample("08", messages=[])])
    left_out = json.loads((told.out / "held_out.json").read_text())["left_out"]
    assert left_out == {"no reference answer": 1, "no picture, or no question with an answer at the end": 1}


def test_rules_are_the_annotations_or_by_the_length_of_the_answer(tmp_path: Path) -> None:
    scene = {"qa": [{"question": "What?", "answer": "x", "rule": "verbatim"}]}
    long, chinese = "It pumps the blood around.", "它推动血液流遍全身各处。"
    told = run(
        tmp_path,
        [
            sample("00", extra={"annotation": {"qa": 0}}, scene=scene),
            sample("01", "meaning", answer=long),
            sample("02", "meaning", answer="It filters the blood well."),
            sample("03", answer="heart"),
            sample("03", "meaning", "zh", answer=chinese),
            sample("04", "meaning", "zh", answer="心脏"),
            *(sample(f"1{n}", "naming", "zh") for n in range(4)),
        ],
    )
    about = {one.id: one.extra["asked"] for one in told.asked}
    assert about["00/naming/en"] == {"rule": "verbatim", "others": []}
    assert about["01/meaning/en"] == {"rule": "sentence", "others": ["It filters the blood well."]}
    assert about["03/naming/en"]["rule"] == "exact"
    assert about["03/meaning/zh"] == {"rule": "sentence", "others": ["心脏"]}
    assert about["04/meaning/zh"]["rule"] == "exact"


def test_the_stage_stands_between_data_and_what_is_trained() -> None:
    def stages(**images: Any) -> list[str]:
        hygiene = {"hygiene": {"test": images.pop("test", 0.1)}}
        return list(pipeline.graph(Recipe.model_validate({"name": "a", "images": images, "data": hygiene})).stages)

    own = stages(vertical="stones")
    assert own[:3] == ["images", "data", "held_out"]
    assert "held_out" not in stages(vertical="stones", test=0.0)
    assert "held_out" not in stages()
    graph = pipeline.graph(
        Recipe.model_validate({"name": "a", "images": {"vertical": "x"}, "data": {"hygiene": {"test": 0.1}}})
    )
    assert graph.stages["evaluate_base"].inputs == ("held_out",)
    assert graph.stages["evaluate_rl"].inputs[:2] == ("held_out", "rl")


def test_the_folders_questions_take_the_place_of_the_shipped_vertical(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    shas = [store.put(Image.new("RGB", (32, 32), (40 * n, 90, 90))) for n in range(4)]
    told = run(tmp_path, [sample(sha, task) for sha in shas for task in TASKS])
    own = suites.Own(told.out, "digest", store.root)
    asked = suites.questions(3, 2, 1, own)
    mine = [one for one in asked if one.suite == "vertical_en"]
    assert [one.text for one in mine] == ["What?"] * 3
    assert all(one.images[0].size == (32, 32) for one in mine)
    assert not {one.suite for one in asked} & {"in_car_en", "in_car_zh"}
    assert {one.suite for one in asked} >= {"missing_image", "context_turns", "naming", "reasoning"}
    assert suites.questions(3, 2, 1, own) is asked
    without = {one.suite for one in suites.questions(3, 2, 1, suites.Own(None, "", store.root))}
    assert not without & {"vertical_en", "in_car_en"}


def test_a_folder_of_which_nothing_is_held_out_is_not_asked_about_and_the_run_says_so(tmp_path: Path) -> None:
    notes: list[str] = []
    recipe = Recipe.model_validate({"name": "a", "images": {"vertical": "stones"}})
    stage = SimpleNamespace(recipe=recipe, inputs={}, images=ImageStore(tmp_path), note=notes.append)
    own = suites._own(stage)  # pyright: ignore[reportArgumentType, reportPrivateUsage]
    assert own is not None
    assert own.folder is None
    assert notes == ["nothing of the vertical is asked: data.hygiene.test is 0, so that no picture is held out"]
    assert recipe.images.called == "stones"


def answers(right: int) -> list[Answer]:
    def one(suite: str, n: int, ok: bool) -> Answer:
        return Answer(f"{suite}/{n}", suite, suite, "en", "?", "", ["x"], "exact", ["x"], [ok], [2], [], shortest=2)

    named = ("naming", "arithmetic", "instruction", "vertical_en", "vertical_zh", "reasoning_greedy")
    return [one(suite, n, n < right) for suite in named for n in range(4)]


def test_the_tables_name_the_folders_vertical_and_keep_their_order() -> None:
    found = summarise(answers(3), 0.95, vertical="stones")
    titles = [row["title"] for row in found["suites"].values()]
    assert titles[:6] == [
        "naming",
        "arithmetic",
        "instruction",
        "stones, English",
        "stones, Chinese",
        "reasoning, greedy",
    ]
    assert found["groups"]["vertical"]["of"] == ["vertical_en", "vertical_zh"]
    assert found["groups"]["vertical"]["score"] == 0.75
    assert set(found["suites"]) - {"vertical_en", "vertical_zh"} <= set(ROWS)
    compared = differences(answers(3), answers(1), 0.95)
    assert compared["vertical"]["score"] == compared["vertical_zh"]["score"] == 0.5
    section = EvaluateSection().model_dump(include={"items", "samples", "confidence"})
    table = build({"base": {"schema": 1, "seed": 0, **section, **found, "differences": {}}})
    names = [row["name"] for row in table["rows"]]
    assert names.index("text") == names.index("vertical_en") - 1
    assert names.index("vertical") == names.index("reasoning_greedy") - 1


def test_another_verticals_built_in_questions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out" / "samples.parquet").touch()
    vertical = plan_eval.plan(plan_eval.Wanted(suites=("vertical",), items=2))
    for model in (tmp_path, tmp_path / "sft_knowledge" / "model"):
        with pytest.raises(UserError, match="was trained on a folder's pictures; ask what it holds out"):
            plan_eval.check_vertical(vertical, model)
        plan_eval.check_vertical(plan_eval.plan(plan_eval.Wanted(suites=("counting",), items=2)), model)
    plan_eval.check_vertical(vertical, tmp_path.parent)
