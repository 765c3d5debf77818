"""Rounds one after another: what a round was weak in is in the next one's plan, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rounds_made import (
    ABILITIES,
    COLOUR,
    COUNTING,
    LIGHTS,
    MEANING,
    NAMING,
    PLACES,
    SIGNS,
    go,
    install,
    recipe,
)
from typer.testing import CliRunner

from open4ov import pipeline
from open4ov.cli import app
from open4ov.errors import UserError
from open4ov.loop import plan as plans
from open4ov.loop import result, rounds
from open4ov.loop.rounds import run
from open4ov.progress import Quiet
from open4ov.run_dir import read_json
from open4ov.store import read_samples


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch.setattr)


class Heard(Quiet):
    """Remembers which stages ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.notes: list[str] = []

    def started(self, stage: str, position: int, stages: int) -> None:
        self.ran.append(stage)

    def note(self, stage: str, text: str) -> None:
        self.notes.append(text)


def read(root: Path, file: str) -> Any:
    found = read_json(root / file)
    assert found is not None, file
    return found


def contents(root: Path) -> dict[str, bytes]:
    """All files but for times, memory, versions of packages and locks."""
    found: dict[str, bytes] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name not in (".lock", "run.json"):
            told = path.read_bytes()
            if path.name == "stage.json":
                record = json.loads(told)
                told = json.dumps([record[key] for key in ("key", "digest", "inputs")]).encode()
            found[path.relative_to(root).as_posix()] = told
    return found


# --------------------------------------------------------------------------------------------------- what is planned


def test_what_a_round_was_weak_in_chooses_the_next_data(tmp_path: Path) -> None:
    go(tmp_path)
    looked = read(tmp_path, "round-1/weaknesses/weaknesses.json")
    right = {(row["domain"], row["ability"]): row["right"]["right"] for row in looked["places"]}
    assert looked["level"] == "l2"
    assert right == PLACES
    assert {row["ability"]: (row["before"], row["after"]) for row in looked["abilities"]} == ABILITIES
    plan = read(tmp_path, "round-2/plan.json")
    shares = {(row["domain"], row["ability"]): row["share"] for row in plan["topics"]}
    order = sorted(shares, key=lambda place: -shares[place])
    assert order == [(SIGNS, NAMING), (LIGHTS, NAMING), (SIGNS, MEANING), (LIGHTS, MEANING)], "the weakest first"
    assert sum(shares.values()) == pytest.approx(1)
    assert {row["without"] for row in plan["topics"]} == {0.25}
    abilities = {row["ability"]: row["share"] for row in plan["abilities"]}
    assert abilities[COUNTING] > 0.5 > abilities[COLOUR]
    assert plan["pairs"] == 4 * 40 + 2 * 3
    made = Counter(
        f"{label.l1} ~ {label.l2}"
        for one in read_samples(tmp_path / "round-2" / "data" / "samples.parquet")
        for label in one.labels
        if label.axis == "ability"
    )
    assert made[NAMING] > made[MEANING], "the stage data has read the feedback file of the plan"
    told = read(tmp_path, "round-2/run.json")["recipe"]
    assert told["data"]["total_pairs"] == 166
    assert told["sft"]["ability"]["blend"] == pytest.approx(abilities)
    assert told["sft"]["knowledge"]["replay"] == plan["replay"]["share"] > 0.4, "general ability was lost"


def test_the_questions_are_held_out_and_no_tests(tmp_path: Path) -> None:
    go(tmp_path, 1)
    taught = {s.id for s in read_samples(tmp_path / "round-1" / "sets" / "knowledge" / "samples.parquet")}
    asked = read_samples(tmp_path / "round-1" / "development" / "vertical.parquet")
    assert asked
    assert taught.isdisjoint(one.id for one in asked)
    assert {one.split for one in asked} == {"val"}
    assert read(tmp_path, "round-1/weaknesses/stage.json")["inputs"].keys() == {"data", "sets", "development", "dpo"}, (
        "no evaluation is among what a plan is made from"
    )


def test_the_plan_of_the_round_after_the_last_waits_to_be_read(tmp_path: Path) -> None:
    go(tmp_path, 1)
    assert {path.name for path in (tmp_path / "round-2").iterdir()} == {"plan.json", "plan.md", "feedback.yaml"}
    assert result.last_round(tmp_path) == tmp_path / "round-1"


def test_a_fixed_plan_has_the_same_pairs_even(tmp_path: Path) -> None:
    for kind in ("adaptive", "fixed"):
        go(tmp_path / kind, 2, kind)
    told = {kind: read(tmp_path / kind, "rounds.json") for kind in ("adaptive", "fixed")}
    costs = {kind: [one["cost"]["pairs"] for one in told[kind]["rounds"]] for kind in told}
    assert costs["adaptive"] == costs["fixed"] == [166, 166]
    fixed = read(tmp_path / "fixed", "round-2/run.json")["recipe"]
    assert (fixed["data"]["feedback"], fixed["sft"]["ability"]["blend"]) == (None, "fixed")
    assert fixed["data"]["total_pairs"] == 166
    assert fixed["sft"]["knowledge"]["replay"] == 0.4
    assert set(told["fixed"]["last_minus_first"]) == {"general", "vertical", "text"}
    assert "| 2 | 166 |" in (tmp_path / "fixed" / "rounds.md").read_text()


def test_rounds_start_from_the_base_or_from_the_last_model(tmp_path: Path) -> None:
    go(tmp_path / "base", 3)
    assert read(tmp_path / "base", "round-3/run.json")["recipe"]["model"] == "nano"
    go(tmp_path / "last", 3, loop={"start": "last"})
    told = read(tmp_path / "last", "round-3/run.json")["recipe"]["model"]
    assert told == str(tmp_path / "last" / "round-2" / "dpo" / "model")


def test_the_pictures_of_all_rounds_lie_once(tmp_path: Path) -> None:
    go(tmp_path)
    for number in (1, 2):
        store = tmp_path / f"round-{number}" / "image-store"
        assert store.is_symlink()
        assert store.resolve() == tmp_path / "image-store"
    assert len(list((tmp_path / "image-store").rglob("*.png"))) >= 6 * 40


# --------------------------------------------------------------------------------------------------- going on


def test_the_same_command_does_nothing_again_and_one_more_round_goes_on(tmp_path: Path) -> None:
    go(tmp_path)
    before, heard = contents(tmp_path), Heard()
    go(tmp_path, reporter=heard)
    assert heard.ran == []
    assert contents(tmp_path) == before
    go(tmp_path, 3, reporter=heard)
    assert len(heard.ran) == 8, "the stages of round 3 alone"
    assert len(read(tmp_path, "rounds.json")["rounds"]) == 3


def test_two_loops_leave_the_same_bytes_and_one_may_be_moved(tmp_path: Path) -> None:
    for name in ("a", "b"):
        go(tmp_path / name, loop={"start": "last"})
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    differ = {name for name in first | second if first.get(name) != second.get(name)}
    assert differ == set()
    shutil.move(tmp_path / "a", tmp_path / "c")
    heard = Heard()
    go(tmp_path / "c", reporter=heard, loop={"start": "last"})
    assert heard.ran == [], "keys hold no path below the loop's folder"


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "number"), [("data", 1), ("sets", 2), ("dpo", 2), ("plan", 0)])
def test_a_kill_loses_nothing(stage: str, number: int, tmp_path: Path) -> None:
    made = Path(__file__).with_name("rounds_made.py")
    paths = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(made), str(tmp_path / "killed"), "2", stage, str(number)]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, check=False, capture_output=True, text=True
    )
    assert ended.returncode == -9, ended.stderr
    heard = Heard()
    go(tmp_path / "killed", reporter=heard)
    assert len(heard.ran) < 16 or number == 1, "what was finished is not done again"
    go(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


# --------------------------------------------------------------------------------------------------- plans by hand


def edit(root: Path, number: int = 2) -> Path:
    path = root / f"round-{number}" / "plan.json"
    told = json.loads(path.read_text())
    for row, share in zip(told["topics"], (0.7, 0.1, 0.1, 0.1), strict=True):
        row["share"] = share
    told["replay"]["share"] = 0.9
    path.write_text(json.dumps(told))
    return path


def test_an_edited_plan_is_followed(tmp_path: Path) -> None:
    go(tmp_path, 1)
    path, heard = edit(tmp_path), Heard()
    before = path.read_bytes()
    go(tmp_path, 2, reporter=heard)
    assert path.read_bytes() == before
    assert any("edited by hand" in note for note in heard.notes)
    assert "edited by hand" in path.with_name("plan.md").read_text()
    assert read(tmp_path, "round-2/run.json")["recipe"]["sft"]["knowledge"]["replay"] == 0.9
    rows = read(tmp_path, "round-2/weaknesses/weaknesses.json")["places"]
    assert max(rows, key=lambda row: row["made"])["ability"] == json.loads(before)["topics"][0]["ability"]
    edit(tmp_path).write_text(path.read_text().replace("0.7", "0.6"))
    with pytest.raises(UserError, match=r"round-2/plan.json, line 1: topics: the shares sum to 0.9"):
        go(tmp_path, 2)


def test_an_edited_plan_of_another_round_1_is_not_overwritten(tmp_path: Path) -> None:
    go(tmp_path, 1)
    path = tmp_path / "round-2" / "plan.json"
    told = json.loads(path.read_text())
    told["made"]["origin"] = "another"
    path.write_text(json.dumps(told))
    go(tmp_path, 1)  # as it was written: made anew
    assert plans.read(path)[0].made != told["made"]
    told["pairs"] = 100
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"round-2/plan.json: was edited by hand, but round 1 has been made anew"):
        go(tmp_path, 1)


# --------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("count", [0, -3])
def test_less_than_one_round_is_none(count: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--iterations {count}: there is no such number of rounds"):
        run(recipe(), tmp_path / "out", count, "adaptive", Quiet())
    assert not (tmp_path / "out").exists()


def test_a_run_without_rounds_and_rounds_are_told_apart(tmp_path: Path) -> None:
    pipeline.run(recipe(), tmp_path / "run", Quiet(), stages=pipeline.graph(recipe()))
    with pytest.raises(UserError, match=r"run: holds a run without rounds \(run.json\)"):
        go(tmp_path / "run", 1)
    go(tmp_path / "loop", 1)
    with pytest.raises(UserError, match=r"loop: holds rounds \(loop.json\); give --iterations"):
        pipeline.run(recipe(), tmp_path / "loop", Quiet(), stages=pipeline.graph(recipe()))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"other: holds no rounds"):
        go(tmp_path / "other", 1)


def test_a_recipe_changed_between_rounds_is_refused(tmp_path: Path) -> None:
    go(tmp_path, 1)
    with pytest.raises(UserError, match=r"loop.json: .*another recipe: sft.knowledge.replay was 0.4, is 0.2\b"):
        go(tmp_path, 2, sft={"knowledge": {"replay": 0.2}})
    with pytest.raises(UserError, match=r"loop.json: .*seed was 3, is 4"):
        go(tmp_path, 2, seed=4)
    with pytest.raises(UserError, match=r"loop.json: .*loop.floor was 0.3, is 0.5"):
        go(tmp_path, 2, loop={"floor": 0.5})
    with pytest.raises(UserError, match=r"loop.json: plan: .*--plan adaptive, not fixed"):
        go(tmp_path, 2, "fixed")
    with pytest.raises(UserError, match=r"loop.json: name: holds rounds of the recipe 'toy'"):
        go(tmp_path, 2, name="another")
    (tmp_path / "loop.json").write_text("{")
    with pytest.raises(UserError, match=r"loop.json: damaged"):
        go(tmp_path, 2)


def test_data_without_questions_are_found_out_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loop: SFT-Knowledge: 0 questions of split val .*sft.held_out"):
        go(tmp_path, 1, name="all trained on")
    assert not (tmp_path / "round-1" / "sft_knowledge").exists()


def test_a_probe_must_not_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file"):
        go(tmp_path / "a", 1, loop={"probe": str(tmp_path / "none")})
    assert not (tmp_path / "a").exists()
    go(tmp_path / "b", 1)
    known = tmp_path / "b" / "round-1" / "data"
    with pytest.raises(UserError, match=r"loop.probe: .*the run is trained on pictures of \d+ of its questions"):
        go(tmp_path / "c", 1, loop={"probe": str(known)})


# --------------------------------------------------------------------------------------------------- command line


def command(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_command_line(tmp_path: Path) -> None:
    told = tmp_path / "r.yaml"
    told.write_text("name: toy\nseed: 3\nthreads: 1\nsft: {knowledge: {replay: 0.4}}\n")
    out = tmp_path / "out"
    for options, message in (
        (("--plan", "fixed"), "--plan has no effect without --iterations"),
        (("--iterations", "0"), "--iterations 0"),
        (("--iterations", "2", "--until", "data"), "--until has no effect with --iterations"),
        (("--iterations", "2", "--plan", "even"), "--plan even: there is no such kind"),
        (
            ("--iterations", "2", "--plan", "fixed", "--set", "loop.floor=0.2"),
            "loop.floor: has no effect with --plan fixed, which leans on nothing",
        ),
        (
            ("--iterations", "2", "--plan", "fixed", "--set", "loop={step: 0.1, learnable: 0.4, questions: 30}"),
            "loop.learnable, loop.step: have no effect with --plan fixed",
        ),
        (("--set", "loop.floor=0.5"), "loop.floor: has no effect without --iterations"),
    ):
        refused = command("run", told, "--out", out, *options)
        assert isinstance(refused.exception, UserError), options
        assert message in str(refused.exception)
    assert not out.exists()
    ahead = command("run", told, "--out", out, "--iterations", "2", "--dry-run")
    assert "round 2: planned when round 1 is finished" in ahead.output
    done = command("run", told, "--out", out, "--iterations", "2", "--quiet")
    assert done.exit_code == 0, done.exception
    after = command("run", told, "--out", out, "--iterations", "2", "--dry-run", "--json")
    statuses = [json.loads(line)["stages"] for line in after.output.splitlines()]
    assert {step["status"] for stages in statuses for step in stages} == {"finished"}
    fixed = tmp_path / "fixed"
    assert command("run", told, "--out", fixed, "--iterations", "2", "--plan", "fixed", "--quiet").exit_code == 0
    compared = command("compare", out, "--against", fixed, "--model", "dpo", "--with", "dpo")
    assert compared.exit_code == 0, compared.exception
    assert "dpo of these minus dpo of those, paired" in compared.output


def test_stages_of_a_round_are_a_runs_and_two_more() -> None:
    names = list(rounds.graph(recipe(), recipe(), Path("x"), 1, None).stages)
    assert names.index("development") < names.index("sft_knowledge"), "before any training"
    assert names[-1] == "weaknesses"
