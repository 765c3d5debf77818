"""Which stages arms have in common, and how what one has made comes to another. The graph is a small one of the tests'
own, but for the shipped claims, whose shared stages were once written down by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from open4ov.ablate import plan as planning
from open4ov.ablate.claims import read
from open4ov.ablate.plan import Plan, Run, counted
from open4ov.ablate.sharing import adopt, begun
from open4ov.errors import UserError
from open4ov.graph import Graph, Stage, StageRun
from open4ov.pipeline import run as run_recipe
from open4ov.progress import Quiet
from open4ov.recipe import Recipe

SHIPPED = Path(__file__).parents[2] / "recipes" / "claims.yaml"
DATA = {"images", "data", "evaluate_base"}
COMMON = {*DATA, "sets", "preference_set"}
START = {*COMMON, "sft_knowledge", "sft_ability", "sft_preference"} | {
    f"evaluate_sft_{stage}" for stage in ("knowledge", "ability", "preference")
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """One seed of the shipped claims without those that need a prepared set."""
    claims = read(SHIPPED)
    only = [name for name, claim in claims.told.claims.items() if not claim.not_run and name != "cloze"]
    return planning.plan(claims, tmp_path_factory.mktemp("plan") / "out", only=only, seeds=[0])


@pytest.mark.parametrize(
    ("arm", "other", "shared"),
    [
        ("random_mix", "curriculum", COMMON),
        ("single_stage", "curriculum", COMMON - {"preference_set"}),
        ("mastery_200k", "curriculum", COMMON - {"preference_set"}),
        ("fixed", "curriculum", DATA),
        ("deficit", "fixed", {*DATA, "sets", "sft_knowledge", "evaluate_sft_knowledge"}),
        ("pass_1", "start", START),
        ("screened", "start", START),
        ("dpo", "recipe", {*START, "rl_pool", "rl", "evaluate_rl"}),
        ("int8_model", "as_trained", {*COMMON, "sft_knowledge", "sft_ability", "sft_preference"} - {"evaluate_base"}),
    ],
)
def test_arms_share_the_stages_that_are_equal_and_no_others(
    shipped: Plan, arm: str, other: str, shared: set[str]
) -> None:
    one, two = shipped.of(arm, 0).identities, shipped.of(other, 0).identities
    assert {stage for stage in one if one[stage] == two.get(stage)} == shared


def test_stages_are_counted_once_for_all_runs_that_share_them(shipped: Plan) -> None:
    found = counted(shipped)
    every = {identity for run in shipped.runs for identity in run.identities.values()}
    assert found.stages == sum(len(run.identities) for run in shipped.runs)
    assert (found.missing, found.finished) == (len(every), 0)
    assert found.missing < found.stages / 3, "most stages are shared"


# ----------------------------------------------------------------------------------------------- a small graph


def small(notes: Path) -> Graph:
    """draw -> train -> tell, and tell reads `evaluate`, train `sft`; each notes that it ran."""

    def work(run: StageRun) -> None:
        with notes.open("a") as file:
            file.write(run.stage + "\n")
        text = "".join((folder / "told").read_text() for folder in run.inputs.values())
        (run.out / "deep").mkdir()
        (run.out / "deep" / "more").write_text("deep")
        (run.out / "told").write_text(f"{text}{run.stage} {run.seed}\n")

    def config(section: str) -> Any:
        return lambda recipe: getattr(recipe, section).model_dump(mode="json") if section else {}

    return Graph(
        [
            Stage("draw", (), config(""), work),
            Stage("train", ("draw",), config("sft"), work),
            Stage("evaluate_base", ("train",), config("evaluate"), work),
        ]
    )


def test_what_a_neighbour_has_made_is_linked_and_not_made_again(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    graph, recipe = small(notes), Recipe(name="small")
    first, second = tmp_path / "seed-0" / "first", tmp_path / "seed-0" / "second"
    run_recipe(recipe, first, Quiet(), stages=graph)
    other = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"items": 7})})
    assert begun(tmp_path / "seed-0") == [first]
    assert adopt(graph, other, second, begun(tmp_path / "seed-0"), "evaluate_base") == ["draw", "train"]
    for name in ("draw/told", "train/told", "train/deep/more", "train/stage.json"):
        assert (second / name).samefile(first / name), "no byte is there twice"
    run_recipe(other, second, Quiet(), stages=graph)
    assert notes.read_text().split() == ["draw", "train", "evaluate_base", "evaluate_base"]
    assert adopt(graph, other, second, begun(tmp_path / "seed-0"), "evaluate_base") == []


def test_what_has_other_options_or_another_seed_is_not_linked(tmp_path: Path) -> None:
    graph, recipe = small(tmp_path / "notes"), Recipe(name="small")
    first = tmp_path / "first"
    run_recipe(recipe, first, Quiet(), stages=graph)
    trained = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"grad_clip": 0.5})})
    assert adopt(graph, trained, tmp_path / "a", [first], "evaluate_base") == ["draw"], "what comes after differs too"
    assert adopt(graph, recipe.model_copy(update={"seed": 1}), tmp_path / "b", [first], "evaluate_base") == []
    (first / "draw" / "told").unlink()
    assert adopt(graph, recipe, tmp_path / "c", [first], "evaluate_base") == [], "a damaged stage is none"


def test_a_stage_of_other_options_gives_way_and_half_a_link_is_none(tmp_path: Path) -> None:
    graph, recipe = small(tmp_path / "notes"), Recipe(name="small")
    first, second = tmp_path / "first", tmp_path / "second"
    run_recipe(recipe, first, Quiet(), stages=graph)
    run_recipe(recipe.model_copy(update={"seed": 1}), second, Quiet(), stages=graph)
    (second / ".work" / "draw.linked").mkdir(parents=True)  # of a process that was killed
    (second / ".work" / "draw.linked" / "old").touch()
    assert adopt(graph, recipe, second, [first], "evaluate_base") == ["draw", "train", "evaluate_base"]
    assert sorted(path.name for path in (second / "draw").iterdir()) == ["deep", "stage.json", "told"]
    assert (second / "evaluate_base" / "told").read_text() == (first / "evaluate_base" / "told").read_text()


def test_another_recipes_folder_is_refused(tmp_path: Path) -> None:
    graph, recipe = small(tmp_path / "notes"), Recipe(name="small")
    run_recipe(recipe, tmp_path / "first", Quiet(), stages=graph)
    run_recipe(Recipe(name="other"), tmp_path / "other", Quiet(), stages=graph)
    with pytest.raises(UserError, match="holds a run of the recipe 'other'"):
        adopt(graph, recipe, tmp_path / "other", [tmp_path / "first"], "evaluate_base")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UserError, match="no run directory, yet not empty"):
        adopt(graph, recipe, tmp_path / "mine", [tmp_path / "first"], "evaluate_base")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_is_there_is_counted_wherever_it_lies(tmp_path: Path) -> None:
    """Two arms of one graph: the first is finished, the second shares two stages with it."""
    graph, recipe = small(tmp_path / "notes"), Recipe(name="small")
    other = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"items": 7})})
    claims = read(SHIPPED)
    runs: list[Run] = []
    for name, one in (("first", recipe), ("second", other)):
        arm = planning.Arm(name, 0, "base", (), one)
        runs.append(Run(arm, tmp_path / name, graph, graph.identities(graph.needed(None), one)))
    plan = Plan(claims, {}, tmp_path, (0,), tuple(runs))
    assert (counted(plan).missing, counted(plan).shared, counted(plan).finished) == (4, 2, 0)
    run_recipe(recipe, tmp_path / "elsewhere", Quiet(), stages=graph)
    assert counted(plan).finished == 0
    assert (counted(plan, [tmp_path / "elsewhere"]).finished, counted(plan, [tmp_path / "elsewhere"]).missing) == (3, 1)
