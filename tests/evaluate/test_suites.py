"""A whole evaluation of a tiny model as a pipeline stage, and the figures made from known answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from open4ov import keys
from open4ov.engine.int8 import available
from open4ov.errors import UserError
from open4ov.evaluate import items, suites
from open4ov.evaluate.scores import (
    DERIVED,
    GROUPS,
    ROWS,
    Answer,
    differences,
    per_item,
    read_answers,
    summarise,
    write_answers,
)
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import EvaluateSection, ImagesSection, Recipe
from open4ov.store import ImageStore

OLD = {*items.GENERAL, *items.TEXT, "in_car_en", "in_car_zh", "reasoning", "reasoning_greedy", "missing_image",
       "mismatch", "context", "absent"}  # fmt: skip
DIGEST, PIXELS = "7f65ab47f3e0eb5e", "301f072299070be3"
SECTION = EvaluateSection(items=5, sampled_items=3, samples=3, max_tokens=4)


def answer(suite: str, index: int, right: list[bool], responses: list[str] | None = None, tokens: int = 3) -> Answer:
    said = responses or ["x"] * len(right)
    lengths = [tokens] * len(right)
    return Answer(f"{suite}/{index}", suite, suite, "en", "?", "", ["x"], "exact", said, right, lengths, [])


def stage(tmp_path: Path, tiny_dir: Path, name: str, inputs: dict[str, Path]) -> Any:
    out = tmp_path / f"evaluate_{name}"
    out.mkdir()
    recipe = SimpleNamespace(evaluate=SECTION, model=str(tiny_dir), images=ImagesSection())
    logged: list[dict[str, Any]] = []
    return SimpleNamespace(
        recipe=recipe,
        out=out,
        inputs=inputs,
        images=ImageStore(tmp_path / "images"),
        seed=0,
        progress=lambda *_: None,
        log=logged.append,
    )


def test_stage_writes_every_suite_and_differences(tmp_path: Path, tiny_dir: Path) -> None:
    base = stage(tmp_path, tiny_dir, "base", {})
    suites.run(base, "base")
    results = json.loads((base.out / "results.json").read_text())
    assert list(results["suites"]) == list(ROWS)
    assert list(results["groups"]) == list(GROUPS)
    assert results["differences"] == {}
    assert sum(results["lengths"]["counts"]) == SECTION.sampled_items * SECTION.samples
    answers = read_answers(base.out / "answers.parquet")
    assert len({each.id for each in answers}) == len(answers)
    assert all(len(each.responses) == (3 if each.suite == "reasoning" else 1) for each in answers)
    assert all(base.images.path(sha).exists() for each in answers for sha in each.pictures)
    asked = suites.questions(SECTION.items, SECTION.sampled_items, 0)
    assert [len(each.pictures) for each in answers] == [len(each.images) for each in asked], "each one's are kept"
    assert base.images.get(answers[0].pictures[0]).tobytes() == asked[0].images[0].tobytes()

    model = tmp_path / "other"
    Qwen3VL(Qwen3VL.from_pretrained(tiny_dir).config, seed=5).save_pretrained(model / "model")
    Processor.from_pretrained(tiny_dir).save_pretrained(model / "model")
    other = stage(tmp_path, tiny_dir, "rl", {"rl": model, "evaluate_base": base.out})
    suites.run(other, "rl")
    compared = json.loads((other.out / "results.json").read_text())["differences"]
    assert set(compared["base"]) == set(ROWS) | set(GROUPS)


def test_the_same_evaluation_twice_gives_the_same_bytes(tmp_path: Path, tiny_dir: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        suites.run(stage(tmp_path / place, tiny_dir, "base", {}), "base")
    for name in ("results.json", "answers.parquet", "summary.json"):
        one, two = ((tmp_path / place / "evaluate_base" / name).read_bytes() for place in ("one", "two"))
        assert one == two


def test_every_suite_has_its_items() -> None:
    counted = Counter(question.suite for question in suites.questions(20, 10, 1))
    half = {"context_turns", "missing_image_zh", "mismatch_zh", "context_zh", "absent_zh"}
    single = set(ROWS) - {"reasoning", "reasoning_pass_k", "diversity", "length", *DERIVED} - half
    assert counted == {**dict.fromkeys(single, 20), **dict.fromkeys(half, 10), "reasoning": 10}


def test_reference_answers_are_right_by_their_own_rules() -> None:
    from open4ov.evaluate.metrics import RULES

    for question in suites.questions(20, 20, 1):
        if question.rule in ("refusal", "denial"):
            continue
        said = f"\\boxed{{{question.answers[0]}}}" if question.rule == "boxed" else question.answers[0]
        assert RULES[question.rule](said, question.answers, question.others), question


def test_vertical_asks_every_task_and_covers_symbols() -> None:
    asked = items.vertical("en", 150, 0)
    assert len({question.id for question in asked}) == 150
    shares = Counter(question.task for question in asked).values()
    assert len(shares) == 5
    assert all(abs(count - 30) <= 3 for count in shares)
    assert {question.language for question in items.vertical("zh", 10, 0)} == {"zh"}


def test_rows_from_known_answers() -> None:
    answers = [answer("naming", i, [i < 3]) for i in range(4)]
    answers += [
        answer("reasoning", 0, [True, False], ["\\boxed{1}", "\\boxed{2}"], tokens=4),
        answer("reasoning", 1, [False, False], ["\\boxed{3}", "\\boxed{3}"], tokens=8),
    ]
    suites_ = summarise(answers, 0.95)["suites"]
    scores = {name: row["score"] for name, row in suites_.items()}
    assert scores == {
        "naming": 0.75, "reasoning": 0.25, "reasoning_pass_k": 0.5, "diversity": 1.5, "length": 6.0,
        "false_refusal": 0.0,
    }  # fmt: skip
    assert suites_["naming"]["low"] == pytest.approx(0.3006, abs=1e-4)  # Wilson, 3 of 4
    lengths = summarise(answers, 0.95)["lengths"]
    assert lengths["counts"] == [0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert lengths["mean"] == 6.0


def test_groups_are_plain_means() -> None:
    answers = [answer("in_car_en", i, [i < 4]) for i in range(4)] + [answer("in_car_zh", i, [i < 1]) for i in range(2)]
    groups = summarise(answers, 0.95)["groups"]
    assert {name: row["score"] for name, row in groups.items()} == {"vertical": 0.75}


def test_differences_pair_by_question() -> None:
    mine = [answer("naming", i, [True]) for i in range(4)]
    theirs = [answer("naming", i, [i % 2 == 0]) for i in reversed(range(4))]
    assert differences(mine, theirs, 0.95)["naming"]["score"] == 0.5
    with pytest.raises(ValueError, match="different questions"):
        differences(mine, theirs[:3], 0.95)


def test_answers_survive_the_file(tmp_path: Path) -> None:
    answers = [replace(answer("naming", 1, [True, False]), pictures=["ab"], earlier="user: 你好")]
    write_answers(tmp_path / "answers.parquet", answers)
    assert read_answers(tmp_path / "answers.parquet") == answers
    assert per_item(answers) == {"naming": {"naming/1": 0.5}, "false_refusal": {"naming/1": 0.0}}


def test_diversity_of_known_answers() -> None:
    one = answer("reasoning", 0, [True, True, False, False], ["\\boxed{7}", "\\boxed{7}", "\\boxed{8}", "\\boxed{9}"])
    other = answer("reasoning", 1, [True] * 4, ["\\boxed{3}"] * 4)
    figures = summarise([one, other, answer("naming", 0, [True])], 0.95)["diversity"]
    weights = 1 + 0.8 + 0.64 + 0.512
    assert figures["utility"]["score"] == pytest.approx(1 / weights, abs=1e-6)  # a right answer counts once
    assert figures["answer_entropy"]["score"] == pytest.approx((1.5 + 0) / 2, abs=1e-6)
    assert (figures["answer_entropy"]["unit"], figures["self_similarity"]["better"]) == ("bits", "lower")
    assert figures["self_similarity"]["items"] == 2


def test_what_is_equivalent_is_the_recipes() -> None:
    answers = [answer("reasoning", n, [True, True], ["one", "two"]) for n in range(3)]
    assert summarise(answers, 0.95)["suites"]["diversity"]["score"] == 2
    assert summarise(answers, 0.95, lambda left, right: True)["suites"]["diversity"]["score"] == 1
    assert summarise([answer("naming", 0, [True])], 0.95)["diversity"] == {}


def all_alike(left: str, right: str) -> bool:
    return True


def test_a_named_equivalence_is_used_and_recorded(tmp_path: Path, tiny_dir: Path) -> None:
    base = stage(tmp_path, tiny_dir, "base", {})
    base.recipe.evaluate = SECTION.model_copy(update={"equivalence": f"{__name__}:all_alike"})
    suites.run(base, "base")
    results = json.loads((base.out / "results.json").read_text())
    assert results["equivalence"] == f"{__name__}:all_alike"
    assert results["suites"]["diversity"]["score"] == 1
    assert set(results["diversity"]) == {"utility", "answer_entropy", "self_similarity"}
    base.recipe.evaluate = SECTION.model_copy(update={"equivalence": "nowhere:nothing"})
    with pytest.raises(UserError, match=r"evaluate\.equivalence"):
        suites.run(base, "base")


@pytest.mark.skipif(not available(), reason="no FBGEMM for int8 here")
def test_an_8_bit_copy_is_asked_the_same_and_recorded(tmp_path: Path, tiny_dir: Path) -> None:
    found: dict[str, dict[str, Any]] = {}
    for weights in ("same", "int8"):
        (tmp_path / weights).mkdir()
        base = stage(tmp_path / weights, tiny_dir, "base", {})
        base.recipe.evaluate = SECTION.model_copy(update={"weights": weights, "precision": "fp32"})
        suites.run(base, "base")
        results = json.loads((base.out / "results.json").read_text())
        assert results.get("weights") == (None if weights == "same" else weights)
        found[weights] = {each.id: each.responses for each in read_answers(base.out / "answers.parquet")}
    assert found["same"].keys() == found["int8"].keys()
    assert found["same"] != found["int8"], "other weights, other words (of a random model)"


def test_evaluations_from_before_the_choice_of_weights_and_device_keep_their_keys() -> None:
    same, other = (Recipe(name="x", evaluate=EvaluateSection(weights=weights)) for weights in ("same", "int8"))
    assert not {"weights", "device"} & keys.evaluation(same)["evaluate"].keys()
    cpu = Recipe(name="x", evaluate=EvaluateSection(device="cpu"))
    assert keys.evaluation(cpu)["evaluate"]["device"] == "cpu"
    if available():
        assert keys.evaluation(other)["evaluate"]["weights"] == "int8"


def test_the_questions_of_the_older_suites_are_the_same_as_ever() -> None:
    """Tables of earlier runs were made with them."""
    asked = [question for question in suites.questions(20, 10, 1) if question.suite in OLD]
    told = [(q.id, q.text, q.answers, q.rule, [m.role for m in q.messages]) for q in asked]
    digest = hashlib.sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()
    pixels = hashlib.sha256(b"".join(image.tobytes() for q in asked for image in q.images)).hexdigest()
    assert (len(asked), digest[:16], pixels[:16]) == (330, DIGEST, PIXELS)


def test_false_refusals_leaks_and_verbosity_of_known_answers() -> None:
    said = replace(answer("naming", 0, [False], ["There is no picture."], tokens=6), shortest=2)
    right = replace(answer("naming", 1, [True], ["a cat"], tokens=2), shortest=3)
    guessed = replace(answer("missing_image", 0, [False], ["red"]), blind=[True])
    honest = replace(answer("missing_image", 1, [True], ["I see no picture."]), blind=[False])
    rows = summarise([said, right, guessed, honest], 0.95)["suites"]
    assert (rows["false_refusal"]["score"], rows["false_refusal"]["items"]) == (0.5, 2)
    assert (rows["language_only"]["score"], rows["language_only"]["items"]) == (0.5, 2)
    assert (rows["verbosity"]["score"], rows["verbosity"]["unit"]) == (2.0, "tokens")  # 4 and, as none is shorter, 0
    assert {rows[name]["better"] for name in DERIVED} == {"lower"}


def test_an_older_file_is_read_and_compared(tmp_path: Path) -> None:
    new = [replace(answer("naming", n, [True]), shortest=1) for n in range(3)]
    write_answers(tmp_path / "new.parquet", new)
    assert read_answers(tmp_path / "new.parquet") == new
    table = pq.read_table(tmp_path / "new.parquet").drop_columns(["blind", "shortest"])
    pq.write_table(table, tmp_path / "old.parquet")
    old = read_answers(tmp_path / "old.parquet")
    assert old == [replace(one, shortest=None) for one in new]
    assert "verbosity" not in summarise(old, 0.95)["suites"]
    assert set(differences(new, old, 0.95)) == {"naming", "false_refusal"}


def test_a_stage_tells_what_is_right_without_a_picture(tmp_path: Path, tiny_dir: Path) -> None:
    base = stage(tmp_path, tiny_dir, "base", {})
    suites.run(base, "base")
    found = read_answers(base.out / "answers.parquet")
    assert all(bool(one.blind) == one.suite.startswith("missing_image") for one in found)
    assert all((one.shortest or 0) >= 2 for one in found if one.suite in ("naming", "in_car_zh", "arithmetic"))
    assert all(one.shortest is None for one in found if one.suite in ("missing_image", "reasoning", "context"))
