"""The command `open4ov versus`; parse, call, print."""

from __future__ import annotations

import getpass
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from open4ov.cli_serving import model_dir
from open4ov.errors import UserError

if TYPE_CHECKING:
    from open4ov.evaluate.versus.pairs import Pair
    from open4ov.recipe import DataSection

app = typer.Typer()


@app.command()
def versus(
    a: Annotated[Path, typer.Argument(metavar="A", help="a run (its last model), RUN/STAGE, or a model's folder")],
    b: Annotated[Path, typer.Argument(metavar="B", help="the other one")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="the comparison's folder; the same command goes on there")],
    questions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="samples to ask about (an import, a run, a stage); else open4ov's own"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="questions")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="of the questions and of the sides")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer, tokens")] = 128,
    judge: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE", help="a model judges: its role `versus` under data.roles; else people, in a page"
        ),
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="a model judges: an OpenAI-compatible /v1")] = None,
    judge_model: Annotated[str | None, typer.Option(help="the name by which --judge-url knows it")] = None,
    api_key_env: Annotated[str, typer.Option(help="the environment variable with its key")] = "OPENAI_API_KEY",
    max_judge_tokens: Annotated[
        int | None, typer.Option(min=1, help="most tokens that --judge-url may take, over all starts")
    ] = None,
    both_orders: Annotated[
        bool, typer.Option("--both-orders", help="a model is asked with the answers in either order; else a tie")
    ] = False,
    reviewer: Annotated[
        str | None, typer.Option(help="whose verdicts they are (the user's name, if not given)")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the page; 0: any that is free")] = 8301,
    result: Annotated[bool, typer.Option("--result", help="judge nothing; print how it stands")] = False,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="level of the interval")] = 0.95,
    json_: Annotated[bool, typer.Option("--json", help="the figures as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Compare two checkpoints blind: the same questions, sides hidden and swapped, judged by people or by a model."""
    from open4ov.evaluate.versus import pairs as comparison
    from open4ov.evaluate.versus import questions as asking
    from open4ov.evaluate.versus import result as standing
    from open4ov.evaluate.versus import verdicts
    from open4ov.run_dir import alone
    from open4ov.store import write_json

    section = _judge(judge, judge_url, judge_model, api_key_env, max_judge_tokens)
    if section is None and both_orders:
        raise UserError("--both-orders has no effect on people; give a judge (--judge or --judge-url), or leave it out")

    def tell(text: str) -> None:
        if not (quiet or json_):
            print(f"open4ov: {text}", file=sys.stderr, flush=True)

    models: dict[comparison.Model, Path] = {"a": _model(a), "b": _model(b)}
    named = {str(a): models["a"], str(b): models["b"]} if questions is None else {}
    held = asking.held_out_of(named)  # a comparison that cannot be made leaves no folder
    with alone(out):
        asked = asking.of_set(questions, count, seed) if questions else asking.built_in(count, seed, held)
        pairs = comparison.build(models, asked, out, seed=seed, max_tokens=max_tokens, tell=tell)
        place = out / comparison.VERDICTS
        faults: list[str] = []
        if not result:
            who = reviewer or (getpass.getuser() if section is None else _named(section))
            said = verdicts.Judge(place, who)
            if section is None:
                _page(pairs, said, out, port)
            else:
                from open4ov.evaluate.versus.judge import judge as judged

                faults = judged(pairs, out, said, section, both_orders=both_orders, tell=tell)
        found = standing.result(pairs, verdicts.read(place), confidence)
        write_json(out / "result.json", found)
    print(json.dumps(found, ensure_ascii=False) if json_ else standing.text(found))
    if faults:
        print(
            f"open4ov: {len(faults)} pairs got no usable verdict ({faults[0]}); the same command asks again",
            file=sys.stderr,
        )


def _model(path: Path) -> Path:
    """A stage's model, a run's last, or a folder's."""
    return path / "model" if (path / "model" / "config.json").is_file() else model_dir(path)


def _judge(recipe: Path | None, url: str | None, model: str | None, key: str, tokens: int | None) -> DataSection | None:
    """Who judges; None for people. Raises UserError for options that contradict each other."""
    if recipe is None and url is None:
        if model is not None or tokens is not None:
            raise UserError("--judge-model and --max-judge-tokens have no effect without --judge-url")
        return None
    if recipe is not None and (url is not None or model is not None or tokens is not None):
        raise UserError("--judge and --judge-url contradict each other; give one of them")
    from open4ov.recipe import BudgetSection, DataSection, ProviderSection, load
    from open4ov.recipe_providers import contradictions

    if recipe is not None:
        return load(recipe).data
    if model is None:
        raise UserError("--judge-url needs --judge-model, the name by which the endpoint knows it")
    provider = ProviderSection(kind="openai", base_url=url, model=model, api_key_env=key)
    section = DataSection(providers={"judge": provider}, roles={"versus": "judge"}, budget=BudgetSection(tokens=tokens))
    if fault := next(contradictions(section), None):
        raise UserError(f"--judge-url: {fault[1]}")
    return section


def _named(section: DataSection) -> str:
    """The file's name of a model that judges."""
    name = section.roles.get("versus") or section.roles.get("default") or "default"
    provider = section.providers.get(name)
    return re.sub(r"[^\w.-]", "_", (provider.model if provider else None) or name).lstrip(".")[:64] or "judge"


def _page(pairs: list[Pair], said: Any, out: Path, port: int) -> None:
    import socket

    import uvicorn

    from open4ov.evaluate.versus.server import create_app
    from open4ov.store import ImageStore

    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:
        raise UserError(f"--port {port}: is taken, or may not be used; give another, or 0 for any") from None
    app = create_app(pairs, said, ImageStore(out / "image-store"))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    still = sum(not pair.identical and pair.id not in said.verdicts for pair in pairs)
    what = "pair" if still == 1 else "pairs"
    print(
        f"open4ov: {still} {what} to judge at http://127.0.0.1:{taken.getsockname()[1]}/; verdicts in {said.path}; "
        "Ctrl-C ends it and prints the result",
        file=sys.stderr,
    )
    try:
        server.run([taken])
    except KeyboardInterrupt:
        return
