"""`open4ov plan`, `open4ov cluster`: how a training would be spread over a cluster, and the files to start it with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from open4ov.errors import UserError

if TYPE_CHECKING:
    from open4ov.parallel.plan_check import Checked
    from open4ov.parallel.plan_job import StageKind

app = typer.Typer()
AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep")


@app.command()
def plan(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="a recipe, whose stage, packs and mesh are taken")] = None,
    model: Annotated[str | None, typer.Option(help="a size such as qwen3-vl-8b, or a folder with config.json")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="devices in all; the recipe's mesh, if it says so")] = None,
    hardware: Annotated[str, typer.Option(help="h100, h200, a100, b200, cpu, or a name in --hardware-file")] = "h100",
    hardware_file: Annotated[Path | None, typer.Option(help="devices of your own, as hardware.yaml has them")] = None,
    stage: Annotated[str, typer.Option(help="sft, rl or dpo")] = "sft",
    tokens: Annotated[int | None, typer.Option(min=64, help="tokens of a pack")] = None,
    packs: Annotated[int | None, typer.Option(min=1, help="packs of a step, over all ranks")] = None,
    document: Annotated[int, typer.Option(min=1, help="tokens of a document")] = 2048,
    visual: Annotated[float, typer.Option(min=0, max=0.95, help="share of tokens that stand for pictures")] = 0.5,
    picture: Annotated[str, typer.Option(help="pixels of a picture, width x height")] = "1024x768",
    predicted: Annotated[float, typer.Option(min=0.001, max=1, help="share of tokens that are predicted")] = 0.25,
    freeze_vision: Annotated[bool, typer.Option("--freeze-vision", help="the tower is not trained")] = False,
    imbalance: Annotated[float, typer.Option(min=1, help="rows of the busiest rank of experts, over the mean")] = 1.2,
    total_tokens: Annotated[float | None, typer.Option(min=1, help="of the training, for hours and cost")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="of a device for an hour, in any currency")] = None,
    fix: Annotated[list[str] | None, typer.Option(metavar="AXIS=N", help="the size of an axis (search)")] = None,
    keep: Annotated[int, typer.Option(min=1, help="how many plans to show")] = 5,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override the recipe")] = None,
    write: Annotated[Path | None, typer.Option(help="write the best plan's sections into this file (YAML)")] = None,
    check: Annotated[bool, typer.Option("--check", help="build the ranks' parts and compare, byte by byte")] = False,
    json_: Annotated[bool, typer.Option("--json", help="for a program")] = False,
) -> None:
    """How a training is best spread over devices: memory, traffic, time, MFU; or whether a recipe's mesh fits."""
    from open4ov.parallel import plan_ask, plan_report, plan_write

    _idle(context, of_recipe=recipe is not None)
    asked = plan_ask.Asked(
        model=model,
        gpus=gpus,
        hardware=hardware,
        hardware_file=hardware_file,
        stage=_stage(stage),
        tokens=tokens,
        packs=packs,
        document=document,
        visual=visual,
        picture=picture,
        predicted=predicted,
        freeze_vision=freeze_vision,
        imbalance=imbalance,
        fixed=_fixed(fix or []),
        keep=keep,
    )
    if recipe is not None:
        plans = plan_ask.of_recipe(recipe, set_ or (), asked)
        for note in plans.notes:
            typer.echo(f"note: {note}", err=True)
        told = {name: plan_report.data(one) for name, one in plans.plans.items()}
        if not json_:
            print(plan_report.table(plans.plans), end="\n\n")
            for name, one in plans.plans.items():
                verdict = "" if one.fits else f"\n{plan_report.missing(one)}"
                print(f"== {name}: {plan_report.heading(one)}\n{plan_report.detail(one, price=price)}{verdict}\n")
            if plans.rollouts:
                print(plan_report.rollout_text(plans.rollouts, plans.updates))
            print(plan_report.conventions(asked.device()))
        checked = plan_ask.checked(plans.plans) if check else {}
        _finish(told, checked, json_, all(one.fits for one in plans.plans.values()))
        return
    found, notes = plan_ask.searched(asked)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if write and found.best:
        plan_write.write(found.best[0], write)
    checked = plan_ask.checked({stage: found.best[0]}) if check and found.best else {}
    if not json_:
        print(plan_report.text(found, total_tokens, price))
        if write and found.best:
            print(f"\nwritten: {write}")
    if write and not found.best:
        typer.echo(f"nothing fits, so {write} is left as it is", err=True)
    _finish(plan_report.found_data(found), checked, json_, bool(found.best))


def _finish(told: dict[str, Any], checked: Mapping[str, list[Checked]], json_: bool, fits: bool) -> None:
    """Prints what was checked, and ends with 1 where a plan does not fit or is not what is built."""
    from open4ov.parallel import plan_ask, plan_report

    if json_:
        print(json.dumps({**told, **({"check": plan_ask.check_data(checked)} if checked else {})}, ensure_ascii=False))
    elif checked:
        print("Built by the training's code on a fake process group of the full size:")
        print(plan_report.check_text(checked))
    if not fits or not plan_ask.all_exact(checked):
        raise typer.Exit(1)


def _idle(context: typer.Context, of_recipe: bool) -> None:
    """Raises UserError for an option that was given and would do nothing."""
    given = _given(context)

    def refuse(name: str, why: str) -> None:
        if name in given:
            raise UserError(f"--{name.rstrip('_').replace('_', '-')}: {why}")

    if of_recipe:
        refuse("stage", "the stages are the recipe's own, and all are planned; leave it out")
        refuse("fix", "the mesh is the recipe's; change it with --set parallel.AXIS=N, or search without a recipe")
        refuse("keep", "a recipe has one plan for each training; it is of a search, with --model and no recipe")
        refuse("write", "a recipe's mesh is checked, not searched for; search with --model and --gpus to write one")
        refuse("freeze_vision", "what is frozen is the recipe's; change it with --set")
        refuse("total_tokens", "is of a search, with --model and no recipe; leave it out")
        refuse("price", "is of a search, with --model, --total-tokens and no recipe; leave it out")
        return
    refuse("set_", "overrides a recipe's options, and no recipe was given")
    if "total_tokens" not in given:
        refuse("price", "a cost needs --total-tokens as well")
    if context.params["stage"] != "sft":
        refuse("freeze_vision", "RL and DPO are planned with a frozen tower anyway; leave it out")
    if context.params["json_"]:
        refuse("total_tokens", "hours and cost are in the text only; leave out --json, or take tokens_per_second")


def _given(context: typer.Context) -> set[str]:
    """The options that stand on the command line."""
    return {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


def _stage(name: str) -> StageKind:
    from open4ov.errors import nearest

    if name not in ("sft", "rl", "dpo"):
        raise UserError(f"--stage {name}: there is no such stage{nearest(name, ('sft', 'rl', 'dpo'))}")
    return name


def _fixed(texts: list[str]) -> dict[str, int]:
    from open4ov.errors import nearest

    found: dict[str, int] = {}
    for text in texts:
        axis, _, size = text.partition("=")
        if axis not in AXES:
            raise UserError(f"--fix {text}: no axis is called '{axis}'{nearest(axis, AXES)}")
        if not size.isdigit() or int(size) < 1:
            raise UserError(f"--fix {text}: expected a whole number, such as --fix {axis}=2")
        found[axis] = int(size)
    return found


@app.command()
def cluster(
    context: typer.Context,
    recipe: Annotated[Path, typer.Option(help="the YAML file of the run")],
    out: Annotated[Path, typer.Option(help="where the files go")],
    kind: Annotated[str, typer.Option(help="slurm, jobset or raycluster")] = "slurm",
    gpus: Annotated[int | None, typer.Option(min=1, help="devices, where parallel.dp_shard is -1")] = None,
    node: Annotated[int, typer.Option(min=1, help="devices of a node (slurm, jobset)")] = 8,
    image: Annotated[str, typer.Option(help="container image (jobset, raycluster)")] = "open4ov:latest",
    run_dir: Annotated[str, typer.Option(help="the run directory, on a file system that all nodes share")] = "out",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option")] = None,
) -> None:
    """Write the files that start a recipe on a cluster: Slurm, Kubernetes JobSet or RayCluster."""
    from open4ov.errors import nearest
    from open4ov.parallel.cluster import KINDS, by_hand, render, unknown
    from open4ov.recipe import load

    if kind not in KINDS:
        raise UserError(f"--kind {kind}: there is no such kind{nearest(kind, KINDS)}")
    for name in ("image",) if kind == "slurm" else ("gpus", "node") if kind == "raycluster" else ():
        if name in _given(context):
            why = "Slurm starts what is installed on its nodes" if kind == "slurm" else "data construction uses no GPU"
            raise UserError(f"--{name}: {why}; leave it out with --kind {kind}")
    for path in render(recipe, set_ or (), out, kind, gpus, node, image, run_dir):
        print(path)
    chosen = load(recipe, set_ or ())
    notes = [unknown(chosen), by_hand(chosen)] if kind != "raycluster" else []
    for note in filter(None, notes):
        typer.echo(f"note: {note}", err=True)
