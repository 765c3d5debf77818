"""The external check: the real VLMEvalKit asks the same endpoint the same questions, and its scores stand beside ours.

    open4ov eval DIR --harness vlmevalkit            (paper §6.1: figures are measured with VLMEvalKit)

The kit runs in an environment of its own, which `scripts/vlmeval_venv.sh` makes, as a process of its own
(`vlmevalkit_worker.py`): offline, without a judge, at temperature 0, with the same longest response. A model's folder
is served by `open4ov serve` meanwhile (`external_process.py`). In the evaluation's folder:

    vlmevalkit/suites/      the built-in questions as TSVs, which ours and theirs are read from
    vlmevalkit/data/        each set as the kit reads it; vlmevalkit/work/: all that the kit writes; *.log
    agreement.json          schema "open4ov.agreement/1": harness, model, sets.NAME, not_compared, differences

The same command again asks nothing that has an answer, ours or theirs, as long as model, questions and settings are the
same.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from open4ov.commit import commit
from open4ov.errors import UserError
from open4ov.evaluate import external_results as results
from open4ov.evaluate.answer_book import AnswerBook, Entry
from open4ov.evaluate.answering import Answerer
from open4ov.evaluate.built_in import BuiltIn
from open4ov.evaluate.external_process import MODEL, Served, end_of, process
from open4ov.evaluate.external_sets import KitSet, built_in_files, export, kit_sets, numbered, suite_of
from open4ov.evaluate.file_suite import FileSuite
from open4ov.evaluate.item import Item
from open4ov.evaluate.set_eval import Plan, Told, evaluate
from open4ov.run_dir import alone, hash_json, read_json
from open4ov.writing import write_json

SCHEMA = "open4ov.agreement/1"
PYTHON = "OPEN4OV_VLMEVAL_PYTHON"
WORKER = Path(__file__).with_name("vlmevalkit_worker.py")
_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Of our environment the kit gets no more: keys and proxies of the user's are none of its business"""


@dataclass(frozen=True)
class Options:
    """`pictures`: exact, as ours are sent; kit, as the kit sends them by itself (JPEG, small ones enlarged)."""

    pictures: Literal["exact", "kit"] = "exact"
    items: int = 300
    seed: int = 0
    max_tokens: int | None = None
    concurrency: int = 16
    retries: int = 4
    timeout: float = 300.0


def find_python() -> Path:
    """The interpreter of VLMEvalKit's environment: OPEN4OV_VLMEVAL_PYTHON, or that of `.venv-vlmeval` here.

    Raises UserError without one.
    """
    python = Path(os.environ.get(PYTHON) or ".venv-vlmeval/bin/python")
    if not python.is_file():
        raise UserError(
            f"{python}: no interpreter with VLMEvalKit; name one in {PYTHON}, or make an environment: "
            "scripts/vlmeval_venv.sh .venv-vlmeval"
        )
    return python.absolute()


def harness_plan(plan: Plan, out: Path, options: Options) -> Plan:
    """The plan with its built-in sets as files that both can read (`mcq`, `yes_no`, `vqa`). Raises UserError."""
    built_in = [suite.name for suite in plan.suites if isinstance(suite, BuiltIn)]
    files: list[FileSuite] = [suite for suite in plan.suites if isinstance(suite, FileSuite)]
    if built_in:
        made = built_in_files(built_in, options.items, options.seed, out / "vlmevalkit" / "suites")
        files += [suite_of(kind, path, max_tokens=options.max_tokens) for kind, path in made.items()]
    return replace(plan, suites=files, groups={}, rotated=False)


def check(
    plan: Plan, answerer: Answerer, served: Served, out: Path, options: Options, told: Told | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluates here and with the kit. Gives `evaluation.json` and `agreement.json`, which it has written.

    `plan`: of `harness_plan`; `answerer`: asks `served`. Raises UserError when nothing can be
    compared, there is no kit, or it fails.
    """
    python = find_python()
    sets, left = kit_sets([suite for suite in plan.suites if isinstance(suite, FileSuite)])
    if not sets:
        raise UserError(
            "--harness: nothing can be compared (" + "; ".join(f"{n}: {why}" for n, why in left.items()) + ")"
        )
    place = out / "vlmevalkit"
    with alone(place):
        evaluation = evaluate(plan, answerer, out, None, told)
        if evaluation["stopped"]:
            return evaluation, {}
        ours = _ours(sets, answerer.identity, out)
        for one in sets:
            if not ours[one.name]:
                left[one.suite.name] = "no item with a picture has an answer, and VLMEvalKit leaves out what has none"
        sets = [one for one in sets if ours[one.name]]
        _ask_the_kit(python, sets, ours, answerer.identity, served, place, options, told)
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "harness": {"name": "vlmevalkit", **(read_json(place / "work" / "versions.json") or {})},
            "commit": commit(),
            "model": answerer.identity,
            "pictures": options.pictures,
            "sets": {},
            "not_compared": left,
            "differences": [],
        }
        for one in sets:
            theirs = results.read(one, place / "work", MODEL)
            figures, differences = results.compare(one, ours[one.name], theirs, options.pictures)
            found["sets"][one.suite.name] = figures
            found["differences"] += results.as_data(differences)
        found["agrees"] = agrees(found)
        write_json(out / "agreement.json", found)
    return evaluation, found


def agrees(found: Mapping[str, Any]) -> bool:
    """Whether both have a verdict of every item, and the same one."""
    return all(
        row["same_verdict"] == row["items"] and not row["only_ours"] and not row["only_theirs"]
        for row in found["sets"].values()
    )


def _ours(sets: Sequence[KitSet], identity: str, out: Path) -> dict[str, dict[str, tuple[Item, Entry]]]:
    """Our answers by the kit's name of the set and its number of the item."""
    book = AnswerBook(out)
    try:
        held = book.entries()
    finally:
        book.close()
    found: dict[str, dict[str, tuple[Item, Entry]]] = {}
    for one in sets:
        found[one.name] = {}
        for number, item in numbered(one.suite):
            key = item.key(identity)
            if (kept := held.get(key)) is not None:
                said = list(zip(kept.responses, kept.tokens, kept.finish, strict=True))
                found[one.name][number] = item, Entry.of(item, key, identity, said)
    return found


def _ask_the_kit(
    python: Path,
    sets: Sequence[KitSet],
    ours: Mapping[str, Mapping[str, tuple[Item, Entry]]],
    identity: str,
    served: Served,
    place: Path,
    options: Options,
    told: Told | None,
) -> None:
    """Runs the worker, unless it has done all of this before."""
    settings: dict[str, Any] = {
        "work": str((place / "work").absolute()),
        "data": str((place / "data").absolute()),
        "model": served.model,
        "pictures": options.pictures,
        "sets": [
            {
                "name": one.name,
                "class": one.kind.class_name,
                "max_tokens": next(item.max_tokens for item, _ in ours[one.name].values()),
                "scores": one.kind.scores,
            }
            for one in sets
        ],
    }
    # what decides the kit's answers; the port and the key are others each time
    asked = {name: [item.key(identity) for item, _ in items.values()] for name, items in ours.items()}
    key = hash_json([settings, asked, _exported_as(sets)])
    if (read_json(place / "work" / "key.json") or {}).get("key") != key:
        for folder in ("work", "data"):
            shutil.rmtree(
                place / folder, ignore_errors=True
            )  # the kit would take older pictures and scores for its own
        for one in sets:
            if told is not None:
                told(f"{one.suite.name} for VLMEvalKit", 0, one.suite.count)
            export(one, place / "data" / one.name / f"{one.name}.tsv")
        (place / "work").mkdir()
        write_json(place / "work" / "key.json", {"key": key})
    if _finished(place, sets) == len(sets) and (place / "work" / "versions.json").exists():
        return
    job = place / "work" / "job.json"
    write_json(job, {**settings, "address": served.address, "concurrency": options.concurrency,
                     "retries": options.retries, "timeout": options.timeout})  # fmt: skip
    log = place / "vlmevalkit.log"
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {
        "HOME": str((place / "work").absolute()),  # for what the kit and its packages keep in the user's folder
        "LMDEPLOY_API_KEY": served.key,
        "PRED_FORMAT": "tsv",
        "EVAL_FORMAT": "json",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "*",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    with process([str(python), "-P", str(WORKER), str(job)], environment, log) as kit:
        _wait(kit, lambda: None if told is None else told("VLMEvalKit, sets", _finished(place, sets), len(sets)))
        if kit.returncode:
            raise UserError(f"VLMEvalKit failed (exit code {kit.returncode}); the end of {log}:\n{end_of(log)}\n"
                            "What it was answered is kept; the same command goes on from there")  # fmt: skip


def _exported_as(sets: Sequence[KitSet]) -> list[list[str]]:
    """What of the files is not in the keys of their items: answers and options as the kit gets them."""
    return [[*item.answers, *item.options.values(), item.category] for one in sets for _, item in numbered(one.suite)]


def _finished(place: Path, sets: Sequence[KitSet]) -> int:
    return sum((place / "work" / f"{one.name}.asked.jsonl").exists() for one in sets)


def _wait(process: subprocess.Popen[bytes], look: Callable[[], None]) -> None:
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
            look()
            return
        look()


def to_json(evaluation: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Both for `--json`."""
    return json.dumps({**evaluation, "agreement": found}, ensure_ascii=False, indent=1)
