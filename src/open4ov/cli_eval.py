"""`open4ov eval`: a model, or a server, on evaluation sets; parse, call, print."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from open4ov.errors import UserError

if TYPE_CHECKING:
    from open4ov.evaluate.answering import Answerer
    from open4ov.evaluate.judging import SetJudge
    from open4ov.evaluate.set_eval import Told

app = typer.Typer()


@app.command(name="eval")
def evaluate(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT", help="a model's folder, nano, a run directory (its last model), or an address http://.../v1"
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="general, vertical, text, reasoning, bias, more, one of their sets, or a set of --list; several times",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="an evaluation file (.tsv, .jsonl), or the folder of official files"),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--type",
            help="what a file of your own is: mcq, vqa, yes_no, number, anls, relaxed, contains, boxed, graded",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="another prompt: a Jinja template over question, options, hint and language")
    ] = None,
    image_dir: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="where files of image_path lie, beside the file's own folder"),
    ] = None,
    circular: Annotated[
        bool, typer.Option("--circular", help="ask a choice once in each rotation of its options; all must be right")
    ] = False,
    items: Annotated[int, typer.Option(min=1, help="items of each built-in set")] = 300,
    limit: Annotated[int | None, typer.Option(min=1, help="the first so many rows of a file only")] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="responses an item; above 1 drawn at temperature 1 (and of the set reasoning)")
    ] = 1,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="longest response; each set's own if not given")] = None,
    frames: Annotated[int, typer.Option(min=2, help="most frames of a video")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="of the built-in sets, and of samples")] = 0,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="level of the intervals")] = 0.95,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="answers, scores, figures; the same command goes on there")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="another evaluation's --out, to compare with, item by item")
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="the decoder's weights: int8 (CPU) or fp8 (GPU)")] = None,
    adapter: Annotated[Path | None, typer.Option(metavar="FILE", help="a LoRA adapter to merge in")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="where it computes; auto: a CUDA card where there is one")
    ] = "auto",
    model: Annotated[str | None, typer.Option(help="an address: what the server calls the model")] = None,
    api_key_env: Annotated[str, typer.Option(help="the environment variable with the server's key")] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="an address: questions open at once")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="an address: seconds until an answer must be there")] = 300.0,
    retries: Annotated[int, typer.Option(min=0, help="an address: further tries of a failed question")] = 4,
    max_pixels: Annotated[
        int, typer.Option(min=1024, help="an address: larger pictures are scaled down to so many")
    ] = 2048 * 2048,
    judge: Annotated[
        str | None, typer.Option(metavar="URL", help="the judge's address, for sets that need one")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="what the judge's server calls it")] = None,
    judge_api_key_env: Annotated[str, typer.Option(help="the variable with the judge's key")] = "OPENAI_API_KEY",
    judge_tokens: Annotated[int | None, typer.Option(min=1, help="most tokens that the judge may take")] = None,
    judge_money: Annotated[float | None, typer.Option(min=0, help="most money that the judge may take")] = None,
    judge_price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="the judge's price for a million tokens in and out")
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="vlmevalkit: have the real VLMEvalKit ask and score the same, and compare"),
    ] = None,
    harness_pictures: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="exact (default): VLMEvalKit sends pictures as we do; kit: as it does itself"),
    ] = None,
    must_agree: Annotated[
        bool, typer.Option("--must-agree", help="with --harness: fail if the verdict on any item differs")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="which sets there are, and whether their files are there")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="the figures as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Evaluate a model, or a server, on built-in sets, benchmarks' official files, or a file of your own."""
    from open4ov.evaluate import plan_eval, set_report

    if list_:
        rows = plan_eval.listing(data)
        print(json.dumps(rows, ensure_ascii=False, indent=1) if json_ else set_report.listing(rows))
        return
    if what is None:
        raise UserError("name what to evaluate: a model's folder, nano, a run directory, or an address; or give --list")
    remote = what.startswith(("http://", "https://"))
    chosen = None if device == "auto" else device
    _idle(remote, judge, {"--model": model, "--quantize": quantize, "--adapter": adapter, "--device": chosen},
          {"--judge-model": judge_model, "--judge-tokens": judge_tokens, "--judge-money": judge_money})  # fmt: skip
    if not remote:
        from open4ov.cli_serving import model_dir

        model_dir(Path(what))  # before questions are made for nobody
    if against is not None:
        from open4ov.evaluate.paired import is_evaluation

        if not is_evaluation(against):
            raise UserError(f"--against {against}: holds no evaluation (evaluation.json)")
    _harness_idle(harness, {"--harness-pictures": harness_pictures, "--must-agree": must_agree or None},
                  {"--circular": circular, "--samples": samples > 1, "--judge": judge})  # fmt: skip
    plan = plan_eval.plan(
        plan_eval.Wanted(
            suites=tuple(suite or ()),
            data=data,
            kind=kind,
            prompt=prompt,
            folders=tuple(image_dir or ()),
            circular=circular,
            items=items,
            limit=limit,
            samples=samples,
            max_tokens=max_tokens,
            frames=frames,
            seed=seed,
            confidence=confidence,
        )
    )
    if not remote:
        plan_eval.check_vertical(plan, Path(what))
    place = out or Path(f"eval-{re.sub(r'[^A-Za-z0-9._-]+', '-', what.rstrip('/').split('//')[-1])}")
    if harness is not None:
        from open4ov import cli_eval_harness

        options = cli_eval_harness.options(harness_pictures, items, seed, max_tokens, concurrency, retries, timeout)
        results, agreement = cli_eval_harness.check(
            plan,
            what,
            place,
            options,
            model,
            api_key_env,
            quantize,
            adapter,
            device,
            None if quiet or json_ else _progress(),
        )
        cli_eval_harness.show(results, agreement, place, json_)
        if against is not None:
            from open4ov.evaluate.paired import compare, to_text

            print("\n" + to_text(compare(place, against)), file=sys.stderr if json_ else sys.stdout)
        cli_eval_harness.judge(results, agreement, place, must_agree)
        return
    answerer = (
        _remote(what, model, api_key_env, concurrency, timeout, retries, max_pixels)
        if remote
        else _here(what, quantize, adapter, device)
    )
    found = _judge(judge, judge_model, judge_api_key_env, judge_tokens, judge_money, judge_price, place)

    from open4ov.evaluate.set_eval import evaluate as run

    try:
        results = run(plan, answerer, place, found, None if quiet or json_ else _progress())
    except KeyboardInterrupt:
        print(f"open4ov: stopped; the same command goes on from here ({place})", file=sys.stderr)
        raise
    if against is not None:
        from open4ov.evaluate.paired import compare, to_text

        compared = compare(place, against)
        results["against"] = compared.data()
    if json_:
        print(json.dumps(results, ensure_ascii=False, indent=1))
    else:
        print(set_report.to_text(results, place))
        if against is not None:
            print("\n" + to_text(compared))  # pyright: ignore[reportPossiblyUnboundVariable]
    if results["stopped"]:
        raise UserError(f"{results['stopped']}; {results['asked'] + results['kept']} answers are kept in {place}, and "
                        "the same command goes on from there")  # fmt: skip


def _idle(remote: bool, judge: str | None, given: dict[str, Any], judging: dict[str, Any]) -> None:
    """Refuses options that have no effect, or lack another."""
    for name in ("--quantize", "--adapter", "--device") if remote else ("--model",):
        if given[name] is not None:
            raise UserError(f"{name} has no effect with {'an address' if remote else 'a model in this process'}")
    if remote and given["--model"] is None:
        raise UserError("an address needs --model: what the server calls the model")
    if judge is None:
        for name, value in judging.items():
            if value is not None:
                raise UserError(f"{name} has no effect without --judge")
    elif judging["--judge-model"] is None:
        raise UserError("--judge needs --judge-model: what its server calls the judge")


def _harness_idle(harness: str | None, only_with: dict[str, Any], never_with: dict[str, Any]) -> None:
    """Refuses an unknown harness, options that need one, and those that it cannot follow."""
    if harness is None:
        for name, value in only_with.items():
            if value is not None:
                raise UserError(f"{name} has no effect without --harness vlmevalkit")
        return
    if harness != "vlmevalkit":
        raise UserError(f"--harness {harness}: there is no such harness; known: vlmevalkit")
    for name, value in never_with.items():
        if value:
            raise UserError(f"{name} cannot go with --harness: one greedy response an item, and no judge, are compared")


def _here(what: str, quantize: str | None, adapter: Path | None, device: str) -> Answerer:
    from open4ov.cli_serving import model_dir
    from open4ov.evaluate.answering import Here

    return Here(model_dir(Path(what)), quantize, adapter, device)


def _remote(
    url: str, model: str | None, key: str, concurrency: int, timeout: float, retries: int, max_pixels: int
) -> Answerer:
    from open4ov.evaluate.answering import Endpoint
    from open4ov.recipe_providers import ProviderSection

    checked(url, "WHAT")
    return Endpoint(
        ProviderSection(
            kind="openai",
            base_url=url,
            model=model,
            api_key_env=key,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            max_pixels=max_pixels,
        )
    )


def _judge(
    url: str | None,
    model: str | None,
    key: str,
    tokens: int | None,
    money: float | None,
    price: str | None,
    place: Path,
) -> SetJudge | None:
    if url is None:
        return None
    from open4ov.evaluate.judging import SetJudge
    from open4ov.recipe_providers import BudgetSection, PriceSection, ProviderSection

    checked(url, "--judge")
    costs = None
    if price is not None:
        found = re.fullmatch(r"\s*([0-9.]+)\s*,\s*([0-9.]+)\s*", price)
        if not found:
            raise UserError(f"--judge-price {price}: write IN,OUT, such as 2.5,10")
        costs = PriceSection(input=float(found[1]), output=float(found[2]))
    if money is not None and costs is None:
        raise UserError("--judge-money needs --judge-price IN,OUT (for a million tokens)")
    settings = ProviderSection(kind="openai", base_url=url, model=model, api_key_env=key, price=costs)
    return SetJudge(settings, BudgetSection(tokens=tokens, money=money), place)


def checked(url: str, option: str) -> None:
    """Raises UserError for what is no address."""
    from open4ov.recipe_providers import address_fault

    if fault := address_fault(url):
        raise UserError(f"{option}: {fault}")


def _progress() -> Told:
    """Lines on stderr, at most one in five seconds."""
    import time

    last = 0.0

    def told(what: str, done: int, total: int) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last >= 5:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    return told
