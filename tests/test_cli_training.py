"""`open4ov rl` and `open4ov dpo`: a stage of a run with what it is made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open4ov import cli_training, pipeline
from open4ov.errors import UserError
from open4ov.graph import Graph, Stage, StageRun
from open4ov.progress import Reporter
from open4ov.recipe import Recipe

RECIPE = "name: small\nrl: {steps: 2, prompts: 4}\ndpo: {pairs: 8}\n"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, Path, str | None]]:
    """What the pipeline is asked for. Its graph has stages that write their own names."""
    real, calls = pipeline.run, list[tuple[Recipe, Path, "str | None"]]()

    def work(run: StageRun) -> None:
        (run.out / "name").write_text(run.stage)

    def small() -> Graph:
        names = ("data", "sft_preference", "rl", "dpo")
        config: Callable[[Recipe], dict[str, Any]] = lambda recipe: {"rl": recipe.rl.model_dump(mode="json")}  # noqa: E731
        return Graph([Stage(name, names[:place], config, work) for place, name in enumerate(names)])

    def run(recipe: Recipe, root: Path, reporter: Reporter, until: str | None = None, retry: bool = False) -> object:
        calls.append((recipe, root, until))
        return real(recipe, root, reporter, until, stages=small(), retry=retry)

    monkeypatch.setattr(pipeline, "run", run)
    return calls


def call(*arguments: str | Path) -> Any:
    found = CliRunner().invoke(cli_training.app, [str(one) for one in arguments])
    if isinstance(found.exception, UserError):
        raise found.exception
    return found


@pytest.mark.parametrize("stage", ["rl", "dpo"])
def test_a_stage_brings_up_what_it_needs(asked: list[Any], tmp_path: Path, stage: str) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    given = (stage, "--recipe", tmp_path / "r.yaml", "--out", tmp_path / "out", "--set", "rl.group=4")
    done = call(*given, "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'out' / stage / 'model'}\n"
    ((recipe, root, until),) = asked
    assert (recipe.rl.steps, recipe.rl.group, root, until) == (2, 4, tmp_path / "out", stage)
    finished = {path.parent.name for path in (tmp_path / "out").glob("*/stage.json")}
    assert finished == {"data", "sft_preference", "rl", "dpo"} - ({"dpo"} if stage == "rl" else set())
    told = [json.loads(line) for line in call(*given, "--json").stdout.splitlines()]
    assert {event["event"] for event in told} == {"skipped"}


def test_bad_words_are_told(asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    given = ("--recipe", tmp_path / "r.yaml", "--out", tmp_path / "out")
    with pytest.raises(UserError, match="--json and --quiet contradict each other"):
        call("rl", *given, "--json", "--quiet")
    with pytest.raises(UserError, match=r"--set rl\.grup: unknown key 'grup'; did you mean 'group'"):
        call("rl", *given, "--set", "rl.grup=8")
    with pytest.raises(UserError, match=r"rl\.pass_k: 9 responses cannot be drawn from a group of 8"):
        call("dpo", *given, "--set", "rl.pass_k=9")
    with pytest.raises(UserError, match="--stage preferense: there is no such stage"):
        call("sft", *given, "--stage", "preferense")
    assert not asked


def test_all_three_are_commands() -> None:
    help_ = CliRunner().invoke(cli_training.app, ["--help"]).stdout
    assert all(f" {name} " in help_ for name in ("sft", "rl", "dpo"))
