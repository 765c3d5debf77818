"""`python -m bench.ablations_rl`: its arms, what this version does not know of them, and its own figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import ablation_choices, ablations_rl
from bench.ablation_figures import false_refusals, of_run, paired
from bench.ablations import RECIPE
from bench.ablations_rl import ABLATIONS, ARMS, ROWS, ROWS_OF_ALL, START, needed, table, take, told_to, unknown
from open4ov import pipeline
from open4ov.errors import UserError
from open4ov.evaluate.scores import GROUPS, Answer, write_answers
from open4ov.evaluate.scores import ROWS as KNOWN_ROWS
from open4ov.recipe import RlSection, load
from open4ov.rl import admit
from open4ov.rl.rewards import combine, exact
from open4ov.sample import Sample
from open4ov.store import read_samples


def test_every_arm_is_run_after_what_it_is_like() -> None:
    chosen = [one for ablations in ABLATIONS.values() for one in ablations]
    names = needed(chosen)
    assert set(names) == set(ARMS)
    for place, name in enumerate(names):
        like = ARMS[name].like
        assert like is None or like in names[:place]
    assert {row for rows in (*ROWS.values(), ROWS_OF_ALL) for row in rows} <= KNOWN_ROWS.keys() | GROUPS.keys()


def test_what_the_arms_share_are_stages_up_to_their_beginning() -> None:
    stages = {stage.name for stage in pipeline.graph(load(RECIPE)).needed("evaluate_sft_preference")}
    assert set(START) == stages


def test_arms_with_unknown_options_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARMS, "odd", replace(ARMS["recipe"], overrides=("rl.no_such_option=1",)))
    found = unknown(["recipe", "pass_1", "odd"], ["seed=3"])
    assert list(found) == ["odd"]
    assert "no_such_option" in found["odd"]
    monkeypatch.setitem(ARMS, "wrong", replace(ARMS["recipe"], overrides=("rl.pass_k=900",)))
    with pytest.raises(UserError, match="arm wrong"):
        unknown(["wrong"], [])


def test_a_run_that_has_not_come_so_far_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished stage sft_preference"):
        take(tmp_path, 0, tmp_path / "out")
    (tmp_path / "run" / "sft_preference").mkdir(parents=True)
    (tmp_path / "run" / "sft_preference" / "stage.json").write_text("{}")
    take(tmp_path / "run", 4, tmp_path / "out")
    assert (tmp_path / "out" / "seed-4" / "start" / "sft_preference" / "stage.json").exists()


def answer(suite: str, *responses: str) -> Answer:
    count = len(responses)
    return Answer("a", suite, "t", "en", "q", "", ["x"], "exact", list(responses), [False] * count, [3] * count, [])


def test_figures_of_a_run(tmp_path: Path) -> None:
    answers = [
        answer("naming", "a car", "I cannot see a picture, please send the image."),
        answer("arithmetic", "7"),
        answer("missing_image", "There is no picture."),  # right, and not counted
        answer("context", "没有看到图"),
    ]
    assert false_refusals(answers) == pytest.approx(2 / 4)
    (tmp_path / "rl").mkdir()
    (tmp_path / "evaluate_rl").mkdir()
    write_answers(tmp_path / "evaluate_rl" / "answers.parquet", answers)
    point = {"length": 10.0, "dead_trained": 0.25, "rolled": 8}
    curve = [{**point, "entropy": float(i), "pass_rate": 0.1 * i, "dead": i % 2} for i in range(10)]
    (tmp_path / "rl" / "curve.json").write_text(json.dumps(curve))
    (tmp_path / "rl" / "summary.json").write_text(json.dumps({"responses": 640}))
    found = of_run(tmp_path, "rl")
    assert found["entropy"] == pytest.approx(8.5)
    assert found["dead"] == pytest.approx(0.5)
    assert found["dead_trained"] == pytest.approx(0.25)
    assert found["rollouts"] == 640
    assert found["false_refusals"] == pytest.approx(0.5)


def test_accuracy_is_set_against_what_was_sampled(tmp_path: Path) -> None:
    """Before RL one of four answers about reasoning is right, after it three; 2000 responses were sampled."""
    curve_of(tmp_path, {"responses": 2000})
    asked = [replace(answer("reasoning", "x", "x"), id=str(n)) for n in range(2)]
    for model, rights in (("sft_preference", [[True, False], [False, False]]), ("rl", [[True, True], [True, False]])):
        told = [replace(one, right=right) for one, right in zip(asked, rights, strict=True)]
        (tmp_path / f"evaluate_{model}").mkdir()
        write_answers(tmp_path / f"evaluate_{model}" / "answers.parquet", [*told, answer("naming", "a car")])
    found = of_run(tmp_path, "rl")
    assert found["per_thousand"] == pytest.approx(0.75 / 2)
    assert found["gain_per_thousand"] == pytest.approx(0.5 / 2)
    curve_of(tmp_path, {})
    with pytest.raises(KeyError):
        of_run(tmp_path, "rl")


def curve_of(run: Path, summary: dict[str, int]) -> None:
    point = {"entropy": 1.0, "pass_rate": 0.5, "length": 9.0, "dead": 0.25, "dead_trained": 0.0}
    (run / "rl").mkdir(exist_ok=True)
    (run / "rl" / "curve.json").write_text(json.dumps([point]))
    (run / "rl" / "summary.json").write_text(json.dumps(summary))


def test_the_table_pairs_by_question_and_by_seed(tmp_path: Path) -> None:
    """Of two seeds: the arm gives one right answer more than its control in each, and its entropy is 0.5 higher."""
    asked = {*ROWS_OF_ALL, *(part for group in GROUPS.values() for part in group.of)}
    suites = sorted(asked & KNOWN_ROWS.keys() - {"reasoning_pass_k", "diversity", "length"})
    for seed in (0, 1):
        for arm, right in (("recipe", True), ("any_length", False)):
            run = tmp_path / f"seed-{seed}" / arm
            (run / "rl").mkdir(parents=True)
            (run / "evaluate_rl").mkdir()
            (run / "run.json").write_text("{}")
            said = [replace(answer(suite, "x", "x"), id=f"{suite}/{n}") for suite in suites for n in range(2)]
            said = [replace(one, right=[right and one.suite == "reasoning", False]) for one in said]
            write_answers(run / "evaluate_rl" / "answers.parquet", said)
            settings = {"seed": seed, "items": 2, "samples": 2, "confidence": 0.95}
            (run / "evaluate_rl" / "results.json").write_text(json.dumps(settings))
            point = {"entropy": 1.0 + seed + right / 2, "pass_rate": 0.5, "length": 9.0}
            point |= {"dead": 0.25, "dead_trained": 0.125}
            (run / "rl" / "curve.json").write_text(json.dumps([point]))
            (run / "rl" / "summary.json").write_text(json.dumps({"responses": 64}))
    text = table({"length": ABLATIONS["length"]}, [0, 1], tmp_path)
    question = "length reward against none"
    assert f"| {question} | reasoning | +50.0 | +50.0 to +50.0 |" in text
    assert f"| {question} | general | +0.0 | +0.0 to +0.0 |" in text
    assert f"| {question} | entropy, by seed | +0.5 | +0.5 to +0.5 |" in text
    assert "| recipe | 2 | 0.25 | 0.125 | 0.5 | 9 | 64 | 7.812 |  | 0 |" in text  # in the order of FIGURES


def test_paired_by_seed_with_students_interval() -> None:
    """Differences 1, 2, 3: mean 2, standard deviation 1, t(2) = 4.303: 2 +- 4.303 / sqrt(3)."""
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0)
    assert found.high - found.mean == pytest.approx(4.303 / math.sqrt(3), rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert paired([1.0], [0.5]).high == math.inf
    with pytest.raises(ValueError, match="cannot be paired"):
        paired([1.0, 2.0], [1.0])


def test_multiple_choice_is_opened_by_one_arm_and_kept_by_the_other(tmp_path: Path) -> None:
    """What the source's validation makes of the set that both arms name, with the options of each."""
    folder = tmp_path / "sets"
    ablation_choices.write(folder, 40)
    given = read_samples(folder / "samples.parquet")
    assert len(given) >= 30
    nothing = admit.Tools(exact, lambda kept: (kept, []), lambda kept: (kept, []), None, lambda sample: None)
    found: dict[str, list[Sample]] = {}
    for arm in ("cloze", "letters"):
        section = load(RECIPE, told_to(arm, folder)).rl.pool
        source = admit.Given(section.sources[0], given, lambda sha: None)
        admitted = admit.admit(source, section, nothing, 0, set())
        assert admitted.refused == ""
        found[arm] = admitted.samples
        assert all(("\nA. " in sample.messages[0].text) == (arm == "letters") for sample in found[arm])
    assert len(found["cloze"]) == len(found["letters"]) == len(given)
    assert all((one.answer or "").isdigit() for one in found["cloze"])
    assert all((one.answer or "") in "ABCD" for one in found["letters"])
    before = (folder / "samples.parquet").read_bytes()
    ablation_choices.write(folder, 40)
    assert (folder / "samples.parquet").read_bytes() == before


def test_arms_of_an_ablation_differ_in_what_it_is_named_for() -> None:
    """Diversity and cloze by one option each; without weights, every right response counts alike."""
    diverse, uniform = (load(RECIPE, told_to(arm, Path("sets"))).rl for arm in ("diverse", "uniform"))
    assert _apart(diverse, uniform) == {"diversity"}
    assert _apart(*(load(RECIPE, told_to(arm, Path("sets"))).rl for arm in ("cloze", "letters"))) == {"pool"}
    assert (diverse.diversity.floor, uniform.diversity.floor) == (0.1, 1)
    correct, apart = torch.tensor([[1.0, 1, 0, 0], [0.2, 0.9, 0.4, 0.7]], dtype=torch.float64)
    weighed = [
        combine(correct, torch.zeros(4), length_weight=rl.length_weight, diversity=apart, floor=rl.diversity.floor)
        for rl in (diverse, uniform)
    ]
    torch.testing.assert_close(weighed[1], correct - correct.mean())
    assert not torch.equal(weighed[0], weighed[1])


def _apart(one: RlSection, other: RlSection) -> set[str]:
    """The options of `rl` that are not the same."""
    mine, theirs = one.model_dump(), other.model_dump()
    return {name for name in mine if mine[name] != theirs[name]}


def test_an_arm_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARMS, "odd", replace(ARMS["start"], overrides=("rl.no_such_option=1",)))
    with pytest.raises(RuntimeError, match=r"odd, seed 2.*no_such_option"):
        ablations_rl.run_arm("odd", 2, tmp_path, 1, ())
