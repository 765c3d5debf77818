"""From the folders of runs to the table: figures, verdicts, costs, what is missing, what is said under it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from open4ov.ablate import plan as planning
from open4ov.ablate.claims import read
from open4ov.ablate.figures import accuracy, of_run, refused_answerable, spent
from open4ov.ablate.outcome import Report, report
from open4ov.ablate.plan import Plan
from open4ov.ablate.table import BEGIN, END, check_place, put, to_markdown
from open4ov.errors import UserError
from open4ov.evaluate.scores import DERIVED, ROWS, Answer, write_answers
from open4ov.store import write_json

SHIPPED = Path(__file__).parents[2] / "recipes" / "claims.yaml"
SUITES = [name for name in ROWS if name not in ("reasoning_pass_k", "diversity", "length", *DERIVED)]


def answer(suite: str, *responses: str, number: int = 0) -> Answer:
    count = len(responses)
    return Answer(
        f"{suite}/{number}",
        suite,
        "t",
        "en",
        "q",
        "",
        ["x"],
        "exact",
        list(responses),
        [False] * count,
        [3] * count,
        [],
    )


def run(place: Path, seed: int, model: str, answers: list[Answer], responses: int = 64) -> None:
    """A run directory with what the table reads of it."""
    for stage in ("rl", f"evaluate_{model}", "sft_knowledge"):
        (place / stage).mkdir(parents=True)
    write_json(place / "run.json", {"recipe": {"name": "in-car-nano"}})
    write_answers(place / f"evaluate_{model}" / "answers.parquet", answers)
    write_json(
        place / f"evaluate_{model}" / "results.json", {"seed": seed, "items": 2, "samples": 2, "confidence": 0.95}
    )
    point = {"entropy": 1.0 + seed, "pass_rate": 0.5, "length": 9.0, "dead": 0.25, "dead_trained": 0.125}
    (place / "rl" / "curve.json").write_text(json.dumps([point, point]))
    write_json(place / "rl" / "summary.json", {"responses": responses})
    write_json(place / "rl" / "stage.json", {"seconds": 120.0})
    write_json(place / "sft_knowledge" / "summary.json", {"tokens": 700_000})
    write_json(place / "sft_knowledge" / "stage.json", {"seconds": 60.0})


def said(tokens: int, right: bool = False) -> list[Answer]:
    """Two answers a suite; reasoning took so many tokens, and one of its two responses is right or none."""
    answers = [answer(suite, "x", "x", number=n) for suite in SUITES for n in range(2)]
    return [
        replace(one, right=[right, False], tokens=[tokens] * 2) if one.suite == "reasoning" else one for one in answers
    ]


@pytest.fixture(scope="module")
def lengths() -> Plan:
    """The claim that a length reward shortens answers, three seeds."""
    return planning.plan(read(SHIPPED), Path("unused"), only=["length", "gate"], seeds=[0, 1, 2])


def moved(plan: Plan, out: Path) -> Plan:
    runs = [replace(one, place=planning.place_of(out, one.arm.seed, one.arm.name)) for one in plan.runs]
    return replace(plan, out=out, runs=tuple(runs))


def made(
    plan: Plan, out: Path, *, shorter: int = 1, worse: bool = False, responses: int = 64, seeds: int = 3
) -> Report:
    for seed in range(seeds):
        run(out / f"seed-{seed}" / "recipe", seed, "rl", said(10 - shorter), responses)
        run(out / f"seed-{seed}" / "any_length", seed, "rl", said(10, right=worse))
    return report(moved(plan, out), {})


def test_a_claim_holds_when_all_that_is_asked_of_it_does(lengths: Plan, tmp_path: Path) -> None:
    found = made(lengths, tmp_path)
    one, gate = found.outcomes if found.outcomes[0].name == "length" else found.outcomes[::-1]
    assert (one.name, one.verdict, one.reason, one.seeds) == ("length", "holds", "", (0, 1, 2))
    assert [(f.row, f.verdict) for f in one.findings] == [
        ("length", "holds"),
        ("reasoning", "holds"),
        ("reasoning_greedy", "holds"),
    ]
    assert (one.findings[0].value, one.findings[0].low, one.findings[0].high) == (-1.0, -1.0, -1.0)
    assert one.cost["recipe"] == {"tokens": 700_000, "responses": 64, "rl_steps": 2, "dpo_pairs": 0, "seconds": 180}
    assert gate.verdict == "not run"
    text = to_markdown(found, "- command: x")
    assert text.startswith("- command: x\n\n| claim |")
    three = "holds, not by Holm's method"  # three seeds are few
    assert f"| **holds** | length: lower | -1.00 | -1.00 to -1.00 | {three} | 3 | 3.0 / 3.0 min, 700k / 700k" in text
    assert f"| reasoning, pass@1: not lower by 2.0 | +0.0 | +0.0 to +0.0 | {three} |" in text
    assert "3 tests were made: one in 20 comes out by chance." in text
    assert "**gate**: A short training tells data that help from data that harm | §3.2.2 |" in text
    assert "| `recipe` | 0.0 | 0.0 |" in text
    record: dict[str, Any] = json.loads(json.dumps(found.data()))
    assert record["arms"]["any_length"]["length"] == 10
    assert [one["verdict"] for one in record["claims"]].count("holds") == 1


def test_a_claim_does_not_hold_when_one_condition_does_not(lengths: Plan, tmp_path: Path) -> None:
    """Shorter, and half of the answers that were right are not any more."""
    (one,) = [one for one in made(lengths, tmp_path, worse=True).outcomes if one.name == "length"]
    assert one.verdict == "does not hold"
    assert (one.findings[1].value, one.findings[1].verdict) == (-0.5, "does not hold")


def test_unequal_budgets_decide_nothing(lengths: Plan, tmp_path: Path) -> None:
    found = made(lengths, tmp_path, responses=80)
    (one,) = [one for one in found.outcomes if one.name == "length"]
    assert (one.verdict, one.reason) == ("undecided", "unequal budgets: responses 80 against 64")
    assert "- **length**: unequal budgets: responses 80 against 64" in to_markdown(found)


def test_budgets_that_are_alike_in_the_mean_alone_decide_nothing(lengths: Plan, tmp_path: Path) -> None:
    for seed, responses in enumerate((48, 64, 80)):
        run(tmp_path / f"seed-{seed}" / "recipe", seed, "rl", said(9), responses)
        run(tmp_path / f"seed-{seed}" / "any_length", seed, "rl", said(10), 64)
    (one,) = [one for one in report(moved(lengths, tmp_path), {}).outcomes if one.name == "length"]
    assert one.verdict == "undecided"
    assert one.reason == "unequal budgets: seed 0: responses 48 against 64; seed 2: responses 80 against 64"


def test_what_is_missing_is_said(lengths: Plan, tmp_path: Path) -> None:
    found = made(lengths, tmp_path / "two", seeds=2)
    (one,) = [one for one in found.outcomes if one.name == "length"]
    assert (one.verdict, one.seeds) == ("undecided", (0, 1))
    assert one.reason == (
        "recipe has not been run with seed 2; any_length has not been run with seed 2; 2 seeds, and 3 are needed"
    )
    assert any(note.startswith("recipe, seed 0: was made by other options than these, from ") for note in found.notes)
    none = report(moved(lengths, tmp_path / "none"), {("recipe", 0): "no room\non the disk"})
    (one,) = [one for one in none.outcomes if one.name == "length"]
    assert one.verdict == "not run"
    assert one.reason.startswith("recipe failed with seed 0 (no room); any_length has not been run with seed 0")
    assert "## " not in to_markdown(none)


def test_decisions_that_would_not_outlive_so_many_tests_are_named(lengths: Plan, tmp_path: Path) -> None:
    found = made(lengths, tmp_path)
    sure = replace(found, adjusted=dict.fromkeys(found.adjusted, 0.01))
    assert "All that is decided stays so by Holm's method" in to_markdown(sure)
    shaky = replace(found, adjusted={**sure.adjusted, ("length", "length"): 0.2})
    text = to_markdown(shaky)
    assert "By Holm's method over all of this table these would be undecided: length (length, p 0.2)." in text
    assert "| holds, not by Holm's method | 3 |" in text


# --------------------------------------------------------------------------------------------------- figures


def test_figures_of_a_run(tmp_path: Path) -> None:
    answers = [
        answer("naming", "a car", "I cannot see a picture, please send the image."),
        answer("arithmetic", "7"),
        answer("missing_image", "There is no picture."),  # right, and not counted
        answer("context", "没有看到图"),
    ]
    assert refused_answerable(answers) == pytest.approx(2 / 4)
    run(tmp_path, 0, "rl", answers, responses=640)
    point = {"length": 10.0, "dead_trained": 0.25, "rolled": 8}
    curve = [{**point, "entropy": float(i), "pass_rate": 0.1 * i, "dead": i % 2} for i in range(10)]
    (tmp_path / "rl" / "curve.json").write_text(json.dumps(curve))
    found = of_run(tmp_path, "rl", ["sft_knowledge", "rl", "evaluate_rl"])
    assert found["entropy"] == pytest.approx(8.5)
    assert found["dead"] == pytest.approx(0.5)
    assert (found["dead_trained"], found["rollout_length"]) == (0.25, 10)
    assert found["refused_answerable"] == pytest.approx(0.5)
    assert "tokens_per_point" not in found, "nothing is known of what was gained"
    assert spent(tmp_path, ["rl"])["tokens"] == 0, "a stage that is none of the run's took nothing"


def test_accuracy_is_set_against_what_was_sampled(tmp_path: Path) -> None:
    """Before RL one of four answers about reasoning is right, after it three; 2000 responses were sampled."""
    asked = [answer("reasoning", "x", "x", number=n) for n in range(2)]
    before, after = (
        [replace(one, right=right) for one, right in zip(asked, rights, strict=True)]
        for rights in ([[True, False], [False, False]], [[True, True], [True, False]])
    )
    assert accuracy(before) == 0.25
    run(tmp_path, 0, "rl", [*after, answer("naming", "a car")], responses=2000)
    (tmp_path / "evaluate_sft_preference").mkdir()
    write_answers(tmp_path / "evaluate_sft_preference" / "answers.parquet", before)
    found = of_run(tmp_path, "rl", ["rl", "evaluate_rl"])
    assert found["per_thousand"] == pytest.approx(0.75 / 2)
    assert found["gain_per_thousand"] == pytest.approx(0.5 / 2)


def test_a_point_of_the_vertical_has_a_price(tmp_path: Path) -> None:
    """Of four questions in each language one is right before, and three are after: 50 points for 700,000 tokens."""
    asked = [answer(suite, "x", number=n) for suite in ("in_car_en", "in_car_zh") for n in range(4)]
    for model, right in (("base", 1), ("rl", 3)):
        told = [replace(one, right=[int(one.id[-1]) < right]) for one in asked]
        if model == "rl":
            run(tmp_path, 0, "rl", told)
        else:
            (tmp_path / "evaluate_base").mkdir()
            write_answers(tmp_path / "evaluate_base" / "answers.parquet", told)
    found = of_run(tmp_path, "rl", ["sft_knowledge", "rl", "evaluate_rl"])
    assert (found["tokens_per_point"], found["seconds_per_point"]) == (14_000, pytest.approx(3.6))


# --------------------------------------------------------------------------------------------------- markers


@pytest.mark.parametrize("name", ["", "rl"])
def test_a_table_takes_the_place_of_the_one_before_and_of_nothing_else(tmp_path: Path, name: str) -> None:
    document = tmp_path / "results.md"
    into = f"{document}#{name}" if name else str(document)
    begin, end = (mark.format(f" {name}" if name else "") for mark in (BEGIN, END))
    other = f"{BEGIN.format(' sft')}\nother\n{END.format(' sft')}\n"
    document.write_text(f"# Results\n\n{begin}\n\nold\n\n{end}\n\n{other}## More\nno newline at the end")
    put(into, "new\n")
    once = document.read_text()
    assert once == f"# Results\n\n{begin}\n\nnew\n\n{end}\n\n{other}## More\nno newline at the end"
    put(into, "new\n")
    assert document.read_text() == once
    for text in ("", other, f"{begin}\n", f"{end}\n{begin}\n", f"{begin}\n{begin}\n{end}\n"):
        document.write_text(text)
        with pytest.raises(UserError, match="needs the lines"):
            check_place(into)
