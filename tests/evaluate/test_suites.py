"""A whole evaluation of a tiny model as a pipeline stage, and the figures made from known answers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from open4ov.evaluate import items, suites
from open4ov.evaluate.scores import GROUPS, ROWS, Answer, differences, per_item, read_answers, summarise, write_answers
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import EvaluateSection
from open4ov.store import ImageStore

SECTION = EvaluateSection(items=5, sampled_items=3, samples=3, max_tokens=4)


def answer(suite: str, index: int, right: list[bool], responses: list[str] | None = None, tokens: int = 3) -> Answer:
    said = responses or ["x"] * len(right)
    lengths = [tokens] * len(right)
    return Answer(f"{suite}/{index}", suite, suite, "en", "?", "", ["x"], "exact", said, right, lengths, [])


def stage(tmp_path: Path, tiny_dir: Path, name: str, inputs: dict[str, Path]) -> Any:
    out = tmp_path / f"evaluate_{name}"
    out.mkdir()
    recipe = SimpleNamespace(evaluate=SECTION, model=str(tiny_dir))
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
    assert any(each.pictures for each in answers)

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
    single = set(ROWS) - {"reasoning", "reasoning_pass_k", "diversity", "length"}
    assert counted == {**dict.fromkeys(single, 20), "reasoning": 10}


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
    assert per_item(answers) == {"naming": {"naming/1": 0.5}}
