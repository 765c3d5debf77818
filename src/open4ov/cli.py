"""The command line: parse, call, print. A fault the user can mend is one message on stderr and exit code 2."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from open4ov import (
    cli_ablate,
    cli_admission,
    cli_build,
    cli_eval,
    cli_labels,
    cli_loop,
    cli_plan,
    cli_report,
    cli_versions,
    cli_versus,
)
from open4ov import cli_documents as documents
from open4ov import cli_formats as formats
from open4ov import cli_release as release
from open4ov import cli_review as review
from open4ov import cli_serving as serving
from open4ov import cli_training as training
from open4ov.cli_serving import model_dir
from open4ov.errors import UserError, nearest

if TYPE_CHECKING:
    from open4ov.progress import Reporter
    from open4ov.recipe import Recipe

app = typer.Typer(
    help="Make a multimodal LLM an expert of a vertical domain without losing its general ability.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
nano = typer.Typer(help="The shipped base models, open4ov-nano and open4ov-nano-moe.", no_args_is_help=True)
data = typer.Typer(
    help="Sets of samples: in, out, looked at, reviewed, and where one comes from.", no_args_is_help=True
)
data.add_typer(cli_build.app)
data.add_typer(formats.app)
data.add_typer(documents.app)
data.add_typer(review.app)
data.add_typer(cli_versions.app)
app.add_typer(nano, name="nano")
app.add_typer(data, name="data")
app.add_typer(serving.app)
app.add_typer(training.app)
app.add_typer(cli_plan.app)
app.add_typer(cli_eval.app)
app.add_typer(release.app)
app.add_typer(cli_versus.app)
app.add_typer(cli_ablate.app)
app.add_typer(cli_admission.app, name="admit")
app.add_typer(cli_labels.app, name="labels")
app.add_typer(cli_report.app, name="report")


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="the YAML file of the run")],
    out: Annotated[Path, typer.Option(help="the run directory; the same command goes on where a run has stopped")],
    until: Annotated[str | None, typer.Option(help="go no further than this stage")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option")] = None,
    json_: Annotated[bool, typer.Option("--json", help="events as JSON lines on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="change nothing; say what would be done, what is missing, and what endpoints would cost"
        ),
    ] = False,
    retry_unanswered: Annotated[
        bool, typer.Option("--retry-unanswered", help="ask again what got no answer in a finished stage")
    ] = False,
    iterations: Annotated[
        int | None, typer.Option(metavar="N", help="rounds, each planned by what the one before it was weak in")
    ] = None,
    plan: Annotated[
        str | None, typer.Option(metavar="KIND", help="of the rounds: adaptive (the default), or fixed as a control")
    ] = None,
) -> None:
    """Run a recipe, from images to the report; under torchrun on several processes."""
    from open4ov import together
    from open4ov.loop.result import last_round
    from open4ov.progress import JsonLines, Quiet, Terminal
    from open4ov.recipe import load

    if json_ and quiet:
        raise UserError("--json and --quiet contradict each other; give one of them")
    reporter = JsonLines() if json_ else Quiet() if quiet else Terminal()
    chosen = load(recipe, set_ or ())
    kind = cli_loop.kind_of(iterations, plan, until, chosen)
    if dry_run:
        if retry_unanswered:
            raise UserError("--retry-unanswered has no effect with --dry-run, which sends nothing; give one of them")
        if kind and iterations is not None:
            cli_loop.dry_run(chosen, out, iterations, kind, json_)
        else:
            _dry_run(chosen, out, reporter, until, json_)
        return
    try:
        if kind and iterations is not None:
            speaks = cli_loop.go(chosen, out, iterations, kind, reporter, retry_unanswered)
        else:
            speaks = together.run(chosen, out, reporter, until, retry=retry_unanswered)
    except KeyboardInterrupt:
        print(f"open4ov: stopped; the same command goes on from here ({out})", file=sys.stderr)
        raise
    if speaks and until is None and not (json_ or quiet):
        _show_result(last_round(out))
        if kind:
            cli_loop.show(out)


@app.command()
def ask(
    model: Annotated[
        str,
        typer.Argument(metavar="DIR|URL", help="a run directory (its last model), a model's folder, or a server's /v1"),
    ],
    question: Annotated[str, typer.Argument(help="what to ask")],
    image: Annotated[list[Path] | None, typer.Option(help="an image file; may be given several times")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer, tokens")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the most likely token")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="of the sampling; another one each time if not given")] = None,
    quantize: Annotated[str | None, typer.Option(help="the decoder's weights: int8 (CPU) or fp8 (GPU)")] = None,
    adapter: Annotated[Path | None, typer.Option(metavar="FILE", help="a LoRA adapter to merge in")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="where it computes; auto: a CUDA card where there is one")
    ] = "auto",
    api_key_env: Annotated[str, typer.Option(help="the environment variable with the server's key")] = "OPENAI_API_KEY",
) -> None:
    """Ask a model, or a server, about images or without any."""
    from open4ov.images import open_image
    from open4ov.sample import user

    if not question.strip():
        raise UserError("the question is empty")
    try:
        question.encode()
    except UnicodeEncodeError:
        raise UserError("the question is not UTF-8 text") from None
    images = [open_image(path) for path in image or ()]
    seed = secrets.randbelow(2**31) if seed is None else seed
    if model.startswith(("http://", "https://")):
        if quantize is not None or adapter is not None or device != "auto":
            raise UserError(
                "--quantize, --adapter and --device have no effect on a server's model; give them to open4ov serve"
            )
        from open4ov.engine import remote

        key = os.environ.get(api_key_env, "")
        pieces = remote.stream(model, key, question, images, max_tokens=max_tokens, temperature=temperature, seed=seed)
    else:
        folder = model_dir(Path(model))

        from open4ov.engine import Request
        from open4ov.engine.loaded import loaded

        asked = [user(question, images=len(images))]
        request = Request(asked, images, max_tokens=max_tokens, temperature=temperature, seed=seed)
        pieces = loaded(folder, quantize, adapter, device).stream(request)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


@app.command()
def table(run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="a run directory with a report")]) -> None:
    """Print the evaluation table of a run."""
    from open4ov.loop.result import last_round
    from open4ov.report.table import to_text

    run_dir = last_round(run_dir)
    path = run_dir / "report" / "table.json"
    if not path.is_file():
        raise UserError(
            f"{run_dir}: has no report yet; run its recipe to the end first (open4ov run RECIPE --out {run_dir})"
        )
    print(to_text(path))


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="finished runs of one recipe (of rounds: the last), of several seeds"),
    ],
    other: Annotated[
        list[Path] | None, typer.Option("--against", metavar="DIR", help="a run to subtract; once for each seed")
    ] = None,
    model: Annotated[str | None, typer.Option(help="which model of the runs (sft_preference, if not given)")] = None,
    other_model: Annotated[
        str | None, typer.Option("--with", help="minus which model of the others (sft_knowledge, if not given)")
    ] = None,
) -> None:
    """Pool runs of several seeds into one table (Markdown).

    With --model and --with, the paired differences between two models of these runs; with --against, from those of
    other runs. With the folders of two evaluations (open4ov eval), the differences between these,
    first minus second.
    """
    from open4ov.evaluate import paired

    if any(paired.is_evaluation(folder) for folder in (*runs, *(other or ()))):
        _compare_evaluations(runs, other or [], bool(model or other_model))
        return
    from open4ov.evaluate.compare import against, pooled
    from open4ov.loop.result import last_round
    from open4ov.pipeline import MODELS
    from open4ov.report.table import build, difference_lines, to_markdown

    runs, other = [last_round(folder) for folder in runs], [last_round(folder) for folder in other or ()]
    if not other and bool(model) != bool(other_model):
        raise UserError("--model and --with name two models to compare; give both, or --against DIR too")
    subtracted = bool(other or model)
    model, other_model = model or "sft_preference", other_model or "sft_knowledge"
    for key, name in (("--model", model), ("--with", other_model)):
        if name not in ("base", *MODELS):
            raise UserError(f"{key} {name}: there is no such model{nearest(name, ('base', *MODELS))}")
    results = pooled(runs, ("base", *MODELS))
    if not results:
        raise UserError(f"{runs[0]}: nothing has been evaluated yet; run its recipe as far as evaluate_base")
    table = build(results)
    print(to_markdown(table))
    if subtracted:
        print(f"\n{model} of these minus {other_model} of {'those' if other else 'these'}, paired:\n")
        print(difference_lines(table, against(runs, model, other or runs, other_model, table["confidence"])))


def _compare_evaluations(first: list[Path], second: list[Path], models: bool) -> None:
    from open4ov.evaluate import paired

    folders = [*first, *second]
    if len(folders) != 2:
        raise UserError("give two evaluations' folders to compare: open4ov compare DIR DIR (or DIR --against DIR)")
    if models:
        raise UserError("--model and --with have no effect between evaluations, which are of one model each")
    print(paired.to_text(paired.compare(*folders)))


@nano.command("train")
def nano_train(
    out: Annotated[Path, typer.Option(help="where to write it; an interrupted training goes on from its checkpoint")],
    pictures: Annotated[int, typer.Option(min=0, help="labelled pictures that the vision tower sees first")] = 200_000,
    items: Annotated[int, typer.Option(min=1, help="conversations to train on after that")] = 200_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    start: Annotated[Path | None, typer.Option(help="train this model further instead of a new one")] = None,
) -> None:
    """Train the nano base model anew (hours on a CPU)."""
    from open4ov.corpora.nano.build import build
    from open4ov.corpora.nano.train import NanoTraining

    build(out, NanoTraining(pictures=pictures, items=items, seed=seed), _every_ten_seconds(), start)
    print(out)


@nano.command("upcycle")
def nano_upcycle(
    out: Annotated[Path, typer.Option(help="where to write it; an interrupted training goes on from its checkpoint")],
    start: Annotated[str, typer.Option(help="the dense model: a shipped one by name, or a folder")] = "nano",
    experts: Annotated[int, typer.Option(min=2, help="experts in each layer")] = 8,
    top_k: Annotated[int, typer.Option(min=1, help="experts that a token uses")] = 4,
    items: Annotated[int, typer.Option(min=1, help="conversations to train on")] = 60_000,
    seed: Annotated[int, typer.Option(min=0)] = 4,
) -> None:
    """Cut a nano base into experts and train it further (three quarters of an hour on a CPU)."""
    from open4ov.assets import base_dir
    from open4ov.corpora.nano.build import Upcycling, build_moe
    from open4ov.corpora.nano.train import UPCYCLED

    training = replace(UPCYCLED, items=items, seed=seed)
    build_moe(out, base_dir(start), Upcycling(experts, top_k), training, _every_ten_seconds())
    print(out)


def _every_ten_seconds() -> Callable[[dict[str, float]], None]:
    """Prints a training's figures, not more often."""
    last = 0.0

    def tell(figures: dict[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            print("  ".join(f"{name} {value:.6g}" for name, value in figures.items()), file=sys.stderr, flush=True)

    return tell


def _dry_run(recipe: Recipe, out: Path, reporter: Reporter, until: str | None, json_: bool) -> None:
    """Prints what a run would do and lack, and what data construction would ask, where all for that is there."""
    from open4ov import dry_run, pipeline
    from open4ov.mllm.estimate import to_text

    found = dry_run.look(recipe, out, until)
    print(json.dumps({"event": "dry_run", **found.data()}, ensure_ascii=False) if json_ else found.text(), flush=True)
    states = {step.stage: step.status for step in found.steps}
    if states.get("data") != "to make" or states.get("images") == "blocked" or not dry_run.asks(recipe):
        return
    asked = pipeline.estimate(recipe, out, reporter)
    print(
        json.dumps({"event": "estimate", **asked}, ensure_ascii=False) if json_ else "\n" + to_text(asked, recipe.data)
    )


def _show_result(root: Path) -> None:
    """The table of a finished run, its report, and three questions to ask its last model."""
    from open4ov.report.table import to_text

    report = root / "report"
    called = [sys.argv[0]]
    if (found := shutil.which("open4ov")) and Path(called[0]).exists() and Path(found).samefile(called[0]):
        called = ["open4ov"]
    elif Path(called[0]).name == "__main__.py":  # python -m open4ov, which torchrun starts
        called = [sys.executable, "-m", "open4ov"]
    print(to_text(report / "table.json"))
    print(f"\nreport: {report / 'report.html'}\n\nask the model:")
    for example in json.loads((report / "examples" / "examples.json").read_text())[:3]:
        image = str(report / "examples" / example["image"])
        print("  " + shlex.join([*called, "ask", str(root), "--image", image, example["question"]]))


def main() -> None:
    """Entry point: exit code 0, 2 for what the user can mend, 130 after Ctrl-C."""
    try:
        app()
    except UserError as error:
        print(f"open4ov: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
