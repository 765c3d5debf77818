"""`open4ov admit mastery`: grade samples by how often a model answers them rightly; parse, call, print."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from open4ov.errors import UserError, nearest
from open4ov.recipe_mastery import MasterySection, MasteryWeights, contradictions
from open4ov.yaml_file import dotted

GRADED, REPORT, TABLE = "graded.parquet", "report.json", "report.txt"


def mastery(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="an import, a run directory, or a samples.parquet")],
    model: Annotated[Path, typer.Option(metavar="DIR", help="a run directory (its last model), or a model's folder")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where to write; the same command goes on there")],
    rollouts: Annotated[int, typer.Option(min=1, help="responses a sample")] = 4,
    most_rollouts: Annotated[
        int | None, typer.Option(min=1, help="where undecided, ask for --rollouts more until so many")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="with --most-rollouts: probability of its level from which on one is decided", show_default="0.9"
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="most samples to roll out; the others take their topic's pass rate")
    ] = None,
    mastered_at: Annotated[float, typer.Option(help="pass rate from which on a sample is mastered")] = 0.9,
    unmastered_at: Annotated[float, typer.Option(help="pass rate up to which it is unmastered")] = 0.1,
    temperature: Annotated[float, typer.Option(help="of the sampling, above 0")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest response; one that is cut off is wrong")] = 64,
    boxed: Annotated[
        Literal["auto", "always", "never"], typer.Option(help="ask for the answer in \\boxed{}; auto: where needed")
    ] = "auto",
    open_answers: Annotated[
        bool, typer.Option("--open-answers", help="samples without a short answer too: compared with their response")
    ] = False,
    verifier: Annotated[
        str, typer.Option(help="package.module:function (response, answer, aliases) -> bool")
    ] = "open4ov.answers:agrees",
    verifier_seconds: Annotated[float, typer.Option(help="for one response; then there is no verdict")] = 10.0,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="LEVEL=NUMBER", help="of mastered, partial, unmastered or ungraded, for the report"),
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="the --out of a grading by an earlier model: some mastered ones keep theirs"),
    ] = None,
    iteration: Annotated[
        int | None,
        typer.Option(min=1, help="with --earlier: which regrading it is, hence whose turn", show_default="1"),
    ] = None,
    mastered_again: Annotated[
        float | None,
        typer.Option(help="with --earlier: share of the mastered samples that are asked again", show_default="0.5"),
    ] = None,
    book: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder of the rollouts, for several gradings; else --out")
    ] = None,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"],
        typer.Option(help="of matrix products; auto: bf16 where the device is fast in it, else fp32"),
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: cuda where there is one")] = "auto",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_: Annotated[bool, typer.Option("--json", help="the report as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no table")] = False,
) -> None:
    """Grade samples as mastered, partial or unmastered by a model's own responses.

    Writes graded.parquet, report.json and report.txt, and the responses into rollouts.sqlite; what is there is not
    asked for again.
    """
    _refuse_idle("--earlier", earlier, {"--iteration": iteration, "--mastered-again": mastered_again})
    _refuse_idle("--most-rollouts", most_rollouts, {"--confidence": confidence})
    options = _options(
        rollouts=rollouts,
        most_rollouts=most_rollouts,
        confidence=0.9 if confidence is None else confidence,
        samples=samples or sys.maxsize,
        mastered_at=mastered_at,
        unmastered_at=unmastered_at,
        temperature=temperature,
        max_tokens=max_tokens,
        boxed=boxed,
        open_answers=open_answers,
        verifier_seconds=verifier_seconds,
        mastered_again=0.5 if mastered_again is None else mastered_again,
        weights=_weights(weight or ()),
    )
    from open4ov.cli_serving import model_dir
    from open4ov.formats.convert import located

    began = time.monotonic()
    path, store = located(data)
    folder = model_dir(model)
    before_path = (earlier / GRADED if earlier.is_dir() else earlier) if earlier else None
    if before_path is not None and not before_path.is_file():
        raise UserError(f"--earlier {earlier}: has no {GRADED}; name the --out of a finished grading")

    import torch

    from open4ov import training
    from open4ov.admission import mastery_report
    from open4ov.admission.mastery import examine
    from open4ov.admission.regrade import with_earlier
    from open4ov.engine import Engine
    from open4ov.model import Processor, Qwen3VL
    from open4ov.progress import Quiet, Terminal
    from open4ov.rollout_book import Book
    from open4ov.rollouts import digest
    from open4ov.run_dir import alone, writing
    from open4ov.store import read_samples, write_json, write_samples
    from open4ov.verifier import Verifier

    reporter = Quiet() if quiet or json_ else Terminal()
    with alone(out), Verifier(verifier, verifier_seconds, "--verifier") as judge:
        found = read_samples(path)
        if not found:
            raise UserError(f"{path}: holds no samples")
        before = read_samples(before_path) if before_path else []
        found = with_earlier(found, before)
        place = training.device(device, "--device")
        half = training.kind(precision, place) == "bf16"
        subject = Qwen3VL.from_pretrained(folder).to(place)
        engine = Engine(subject, Processor.from_pretrained(folder), autocast=torch.bfloat16 if half else None)
        name, kept = digest(engine), Book(book or out)
        reporter.started("mastery", 1, 1)
        examined = examine(
            found,
            engine,
            store.get,
            options,
            judge,
            seed,
            kept,
            name,
            iteration=(1 if iteration is None else iteration) if before else 0,
            progress=lambda said, done, total: reporter.progress("mastery", said, done, total),
        )
        figures = mastery_report.report(examined, options.weights, before)
        text = mastery_report.table(figures)
        seconds = time.monotonic() - began
        cost = mastery_report.cost_figures(examined.cost, kept.cost(name), seconds)
        figures = {
            "model": name,
            "seed": seed,
            "precision": "bf16" if half else "fp32",
            "options": _said(options),
            **figures,
            "cost": cost,
        }
        with writing(out):
            write_samples(out / GRADED, examined.samples)
            write_json(out / REPORT, figures)
            (out / TABLE).write_text(text, encoding="utf-8")
        kept.close()
        reporter.finished("mastery", seconds, 0)
        reporter.close()
    if json_:
        print(json.dumps(figures, ensure_ascii=False))
    elif not quiet:
        print(text, end="")
        print(_costs(cost))


def _refuse_idle(switch: str, given: object, others: dict[str, object]) -> None:
    """Raises UserError for an option that nothing reads without another one."""
    for name, value in others.items():
        if given is None and value is not None:
            raise UserError(f"{name}: has no effect without {switch}; give that too, or leave it out")


def _options(**values: object) -> MasterySection:
    """Raises UserError, naming the option as it is written on the command line."""
    from pydantic import ValidationError

    try:
        options = MasterySection.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{dotted(first['loc']).replace('_', '-')}: {first['msg']}") from None
    for loc, message in contradictions(options):
        told = message.replace("admission.mastery.", "--").replace("_", "-")
        raise UserError(f"--{str(loc[-1]).replace('_', '-')}: {told}")
    return options


def _weights(given: list[str] | tuple[()]) -> MasteryWeights:
    values: dict[str, float] = {}
    for text in given:
        level, equals, number = text.partition("=")
        if level not in MasteryWeights.model_fields:
            raise UserError(f"--weight {text}: there is no such level{nearest(level, MasteryWeights.model_fields)}")
        try:
            values[level] = float(number)
        except ValueError:
            equals = ""
        if not equals or not 0 <= values.get(level, -1.0) < float("inf"):
            raise UserError(f"--weight {text}: write LEVEL=NUMBER with a number of 0 or more, such as mastered=0.25")
    return MasteryWeights(**values)


def _said(options: MasterySection) -> dict[str, object]:
    told = options.model_dump(mode="json")
    return {**told, "samples": None if options.samples == sys.maxsize else options.samples}


def _costs(cost: dict[str, dict[str, float]]) -> str:
    now = cost["now"]
    return (
        f"\n{now['rollouts']} responses sampled in {now['seconds']:.1f} s, {now['found']} found in the book; "
        f"{now['prompt_tokens']} prompt tokens ({now['computed_tokens']} computed), {now['response_tokens']} response "
        f"tokens, {now['images']} pictures encoded"
    )
