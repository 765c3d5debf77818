"""`open4ov ablate`: two arms, two seeds, a tiny random model and real runs; killed, and given again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open4ov.ablate import table
from open4ov.cli import app

RECIPE = """name: tiny
images: {per_symbol: 1, general_count: 40}
admission:
  mastery: {rollouts: 0}
sft:
  pack_tokens: 1024
  knowledge: {tokens: 4000}
  ability: {tokens: 4000}
  preference: {tokens: 4000}
rl: {steps: 0}
dpo: {pairs: 0}
evaluate: {items: 2, samples: 2, sampled_items: 2, max_tokens: 4}
"""
CLAIMS = """name: small
recipe: tiny.yaml
seeds: [0, 1]
set: {threads: 1}
arms:
  plain: {model: sft_knowledge, set: {sft.schedule: single_stage}}
  mixed: {model: sft_knowledge, set: {sft.schedule: random_mix}}
  base: {model: base, set: {sft.schedule: single_stage}}
claims:
  order:
    claim: One order | beats another
    section: §3
    arm: plain
    control: mixed
    better: [vertical]
    kept: {general: 2}
    equal: [tokens]
  trained:
    claim: Training helps
    section: §1
    arm: plain
    control: base
    better: [vertical]
    unequal: the base is not trained
  trees:
    claim: Trees help
    section: §2
    not_run: no trees here
    measured_by: a walk in the forest
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_dir: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE + f"model: {tiny_dir}\n")
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    return tmp_path


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "open4ov.cli", "ablate", "claims.yaml", "--out", "out", "--jobs", "2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(folder: Path) -> dict[str, float]:
    """Stage folders with the time at which each was made."""
    return {
        path.parent.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.glob("out/seed-*/*/*/stage.json")
    }


ASKED = """name: asked
recipe: tiny.yaml
seeds: [0, 1]
set: {threads: 1}
arms:
  short: {model: base, set: {evaluate.max_tokens: 2}}
  long: {model: base}
  same: {model: base, like: short}
claims:
  longer:
    claim: Longer answers are better
    section: §6
    arm: long
    control: short
    better: [general, length]
    unequal: nothing is trained
  same:
    claim: The same is no worse
    section: §6
    arm: same
    control: short
    kept: {general: 2}
    equal: [tokens]
"""


def said_by(*options: str) -> str:
    """What the command prints, in this process."""
    found = CliRunner().invoke(app, ["ablate", "claims.yaml", "--out", "out", *options])
    assert found.exit_code == 0, found.exception
    return found.stdout


@pytest.mark.slow
def test_two_arms_and_two_seeds_killed_and_given_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations alone, which take a second each: of three arms one asks for what another has made."""
    (folder / "claims.yaml").write_text(ASKED)
    killed = start(folder, "--quiet")
    while not finished(folder):
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = finished(folder)
    assert len(before) < 6
    again = start(folder)
    said, told = again.communicate()
    assert again.returncode == 0, told
    after = finished(folder)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before, "nothing that was finished is made again"
    for seed in (0, 1):
        short, same = (folder / "out" / f"seed-{seed}" / arm / "evaluate_base" for arm in ("short", "same"))
        assert (short / "answers.parquet").samefile(same / "answers.parquet"), "made once, and linked"
        assert f"seed {seed}: same: all 1 stages are there, 1 linked from other runs" in told
    assert "| general ability: not lower by 2.0 | +0.0 | +0.0 to +0.0 | undecided |" in said
    record = json.loads((folder / "out" / "claims.json").read_text())
    few = "2 seeds, and 3 are needed"
    nothing = "unequal budgets: neither spent any tokens, or its record is damaged"
    assert [one["reason"] for one in record["claims"]] == [few, f"{few}; {nothing}"]
    length = record["claims"][0]["conditions"][1]
    assert length["row"] == "length"
    assert length["value"] > 0, "and longer they are"
    assert record["claims"][1]["conditions"][0]["value"] == 0

    monkeypatch.chdir(folder)
    table = json.loads(said_by("--table", "--json", "--only", "longer"))
    assert table["claims"] == record["claims"][:1]
    assert finished(folder) == after
    other = said_by("--table", "--only", "longer", "--set", "evaluate.items=3")
    note = "short, seed 0: was made by other options than these, from evaluate_base on: evaluate.items was 2, is 3"
    assert note in other
    counted = json.loads(said_by("--dry-run", "--json", "--seeds", "0,1,2"))
    assert counted["arms"] == ["short", "long", "same"]
    assert {name: counted[name] for name in ("runs", "stages", "shared", "finished", "missing", "untimed")} == {
        "runs": 9,
        "stages": 9,
        "shared": 3,
        "finished": 4,
        "missing": 2,
        "untimed": 0,
    }
    assert counted["seconds"] > 0


@pytest.mark.slow
def test_claims_are_checked_by_runs_that_a_kill_does_not_lose(folder: Path) -> None:
    killed = start(folder, "--quiet")
    while not any(name.endswith("/images") for name in finished(folder)):
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = finished(folder)
    begin, end = table.BEGIN.format(""), table.END.format("")
    (folder / "results.md").write_text(f"above\n{begin}\nformer\n{end}\nbelow\n")
    again = start(folder, "--into", "results.md")
    said, told = again.communicate()
    assert again.returncode == 0, told
    after = finished(folder)
    assert {name: after[name] for name in before} == before, "nothing that was finished is made again"
    for seed in (0, 1):
        for stage in ("data", "sets", "evaluate_base"):
            names = [folder / "out" / f"seed-{seed}" / arm / stage / "stage.json" for arm in ("plain", "mixed")]
            assert names[0].samefile(names[1]), "made once, and linked"
        assert "all 1 stages are there, 1 linked from other runs" in told
    document = (folder / "results.md").read_text()
    assert document.startswith(f"above\n{begin}\n")
    assert document.endswith(f"{end}\nbelow\n")
    assert "former" not in document
    assert (folder / "out" / "claims.md").read_text().strip() in document
    assert (
        r"| **order**: One order \| beats another (`plain` − `mixed`) | §3 | **undecided** | vertical: higher |" in said
    )
    assert "2 seeds, and 3 are needed" in said
    assert "budgets are not alike: the base is not trained" in said
    assert "| **trees**: Trees help | §2 | no trees here | a walk in the forest |" in said
    record: dict[str, Any] = json.loads((folder / "out" / "claims.json").read_text())
    assert [(one["name"], one["verdict"], one["seeds"]) for one in record["claims"]] == [
        ("order", "undecided", [0, 1]),
        ("trained", "undecided", [0, 1]),
        ("trees", "not run", []),
    ]
    tokens = {name: cost["tokens"] for name, cost in record["claims"][0]["cost"].items()}
    assert 8_000 < tokens["plain"] < 16_000
    assert record["claims"][1]["cost"]["base"]["tokens"] == 0
    assert record["arms"].keys() == {"plain", "mixed", "base"}


def test_a_run_that_fails_is_told_and_stops_no_other(folder: Path) -> None:
    """Of seed 1 the folder of an arm holds something else."""
    (folder / "claims.yaml").write_text(ASKED)
    other = folder / "out" / "seed-1" / "same"
    other.mkdir(parents=True)
    (other / "notes.txt").write_text("mine")
    process = start(folder, "--only", "same")
    said, told = process.communicate()
    assert process.returncode == 2
    assert "1 runs failed; the same command tries them again:\n  same, seed 1:" in told
    assert "notes.txt" in told
    assert "Traceback" not in told
    assert "same failed with seed 1" in said
    assert (other / "notes.txt").read_text() == "mine"
    record = json.loads((folder / "out" / "claims.json").read_text())
    assert record["claims"][0]["seeds"] == [0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--only", "odrer"], "--only odrer: no claim is called so; did you mean 'order'"),
        (["--seeds", "0,x"], "--seeds 0,x: expected whole numbers"),
        (["--seeds", "1,1"], "--seeds 1,1: expected whole numbers, each once"),
        (["--list", "--table"], "--list, --dry-run and --table exclude one another"),
        (
            ["--list", "--seeds", "0"],
            "--out and --seeds have no effect with --list, which runs nothing; leave them out, or --list",
        ),
        (
            ["--list", "--scale", "1", "--set", "evaluate.items=3", "--jobs", "1"],
            "--out, --jobs, --scale and --set have no effect with --list",
        ),
        (["--list", "--into", "results.md"], "--out and --into have no effect with --list"),
        (["--dry-run", "--jobs", "1"], "--jobs has no effect with --dry-run, which counts and trains nothing"),
        (["--dry-run", "--into", "results.md"], "--into has no effect with --dry-run"),
        (["--table", "--jobs", "1"], "--jobs has no effect with --table, which runs nothing and links no stages"),
        (["--table", "--from", "."], "--from has no effect with --table"),
        (["--into", "nothing.md"], "--into nothing.md: cannot be read"),
        (["--into", "claims.yaml"], "needs the lines `<!-- claims: begin -->` and"),
        (["--from", "."], "--from .: is no run directory"),
        (["--set", "evaluate.items"], "--set evaluate.items: expected key.sub=value"),
        (["--set", "evaluate.itms=3"], "arms.plain: makes no recipe of"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], told: str
) -> None:
    monkeypatch.chdir(folder)
    found = CliRunner().invoke(app, ["ablate", "claims.yaml", "--out", "out", *options])
    assert found.exit_code
    assert told in str(found.exception)
    assert not list(folder.glob("out/seed-*"))


def test_what_is_claimed_is_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = CliRunner().invoke(app, ["ablate", "claims.yaml", "--list"]).stdout
    assert "order  §3\n  One order | beats another\n  plain against mixed: vertical, general not worse by 2\n" in said
    assert "not run: no trees here (measured by a walk in the forest)" in said
    assert not (folder / "out").exists()
    of_one = CliRunner().invoke(app, ["ablate", "claims.yaml", "--list", "--only", "trees"]).stdout
    assert of_one.startswith("trees  §2\n")
    assert "order" not in of_one
