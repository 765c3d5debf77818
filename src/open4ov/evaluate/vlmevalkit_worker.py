"""Runs VLMEvalKit on prepared files; a script for an environment that has it (scripts/vlmeval_venv.sh), not for ours.

    python vlmevalkit_worker.py JOB.json       (or --try: only import the kit)

The job (written by `external.py`): `data`, a folder with NAME/NAME.tsv; `work`, another; `address`, an endpoint ending
in /v1; `model`; `pictures`, "exact" or "kit"; `concurrency`, `retries`, `timeout`; `sets`: [{"name", "class",
"max_tokens", "scores"}], the last one how the name of the kit's file of scores ends. What the kit writes lies in
`work/MODEL/`. Beside that this script writes `work/NAME.asked.jsonl`, {"index", "prompt", "read"}: what the kit asks of
each row, and the option that it reads out of the response of a choice, which its own files do not hold. Such a file
ends a set.

Two things are not left to the kit. Packages that it imports at its start and that asking an endpoint never calls
(torch, transformers, OpenCV, ...) need not be there: an empty stand-in takes the place of a missing one, and whoever
calls it gets an ImportError. And no connection is opened but to the endpoint: the kit would look for data sets on the
net.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import base64
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import pickletools
import sys
import types
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

MODEL = "open4ov"  # what the kit's files are called after
ROOT = "LMUData"  # the kit's variable, in this spelling
JUDGE = "exact_matching"  # the kit's word for: no judge
HERE = ("localhost", "127.0.0.1", "::1")
STRICT = False  # once the kit is imported, a stand-in that is called is a fault


class StandIn(type):
    """The class of everything in a stand-in: has any attribute, may be inherited from, decorates without effect."""

    def __getattr__(cls, name):
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return stand_in(f"{cls.__qualname__}.{name}")

    def __call__(cls, *arguments, **named):
        if "stands_in" not in vars(cls):
            return super().__call__(*arguments, **named)  # a class of the kit's that inherits from one
        if STRICT:
            raise ImportError(f"{cls.__qualname__}: the package is not installed in this environment; install it there")
        if len(arguments) == 1 and callable(arguments[0]) and not named:
            return arguments[0]
        return stand_in(f"{cls.__qualname__}()")

    def __or__(cls, other):
        return cls

    __ror__ = __or__

    def __getitem__(cls, item):
        return cls

    def __iter__(cls):
        return iter(())


def stand_in(name):
    made = StandIn(name.rpartition(".")[2], (), {"stands_in": True})
    made.__qualname__ = name
    return made


class Empty(types.ModuleType):
    """A module that stands in for one that is not installed."""

    __version__ = "0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(f"{self.__name__}.{name}")


class Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Asked last, for packages that nobody else found; only what the kit's own files import is replaced."""

    def __init__(self):
        self.names = set()

    def find_spec(self, fullname, path=None, target=None):
        top = fullname.partition(".")[0]
        if top == "vlmeval" or top in sys.stdlib_module_names or not _the_kit_asks():
            return None
        self.names.add(top)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return Empty(spec.name)

    def exec_module(self, module):
        pass


def _the_kit_asks():
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("importlib") and not frame.f_code.co_filename.startswith("<frozen"):
            return name.partition(".")[0] == "vlmeval"
        frame = frame.f_back
    return False


def shut_off(address):
    """No connection but to the endpoint's host, from now on."""
    host = urlsplit(address).hostname
    let = {host, *HERE}

    def watch(event, arguments):
        where = None
        if event == "socket.getaddrinfo" and arguments[0] is not None:
            where = _text(arguments[0])
        elif event == "socket.connect" and isinstance(arguments[1], tuple) and host in HERE:
            where = _text(arguments[1][0])  # of another host the address is not known beforehand, only its name
        if where is not None and where not in let:
            raise PermissionError(f"no connection to {where}: the evaluation runs offline")

    sys.addaudithook(watch)


def _text(host):
    return host.decode() if isinstance(host, bytes) else str(host)


def exact_api(api):
    """The kit's class for endpoints, with pictures sent as they are: it re-encodes them as JPEG of quality 75, and
    enlarges those with a side below 100 pixels, so that another picture would be asked about."""
    from PIL import Image

    class ExactAPI(api.LMDeployAPI):
        def prepare_itlist(self, inputs):
            parts = super().prepare_itlist(inputs)
            pictures = iter([one["value"] for one in inputs if one["type"] == "image"])
            for part in parts:
                if part["type"] == "image_url":
                    buffer = io.BytesIO()
                    Image.open(next(pictures)).save(buffer, "PNG")
                    part["image_url"]["url"] = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
            return parts

    return ExactAPI


def run(job):
    from vlmeval import api
    from vlmeval import run as kit

    global STRICT
    STRICT = True
    api.ExactAPI = exact_api(api)
    work = Path(job["work"])
    for one in job["sets"]:
        name, done = one["name"], work / f"{one['name']}.asked.jsonl"
        if done.exists():
            continue
        clear(work, name)
        # a folder for each: the kit keeps pictures by their rows' index, in one place for all sets of some names
        os.environ[ROOT] = str(Path(job["data"]) / name)
        config = {
            "model": {
                MODEL: {
                    "class": "ExactAPI" if job["pictures"] == "exact" else "LMDeployAPI",
                    "model": job["model"],
                    "api_base": f"{job['address'].rstrip('/')}/chat/completions",
                    "temperature": 0.0,
                    "max_tokens": one["max_tokens"],
                    "retry": job["retries"] + 1,
                    "wait": 1,
                    "timeout": job["timeout"],
                    "verbose": False,
                }
            },
            "data": {name: {"class": one["class"], "dataset": name}},
        }
        path = work / f"{name}.config.json"
        path.write_text(json.dumps(config), "utf-8")
        sys.argv = ["vlmeval", "--config", str(path), "--work-dir", str(work), "--judge", JUDGE, "--api-nproc",
                    str(job["concurrency"])]  # fmt: skip
        kit.main()  # which logs what goes wrong and ends well all the same
        if not list((work / MODEL).glob(f"{MODEL}_{name}{one['scores']}")):
            raise SystemExit(f"VLMEvalKit wrote no scores of {name}")
        tell(kit.build_dataset_from_config(config["data"], name), work, name)


def clear(work, name):
    """Leaves of a set that was not finished what was answered; a checkpoint that a kill has torn goes too."""
    for path in (work / MODEL).glob(f"{MODEL}_{name}*"):
        if path.name.endswith("_checkpoint.pkl") and whole(path):
            continue
        path.unlink()


def whole(path):
    """Whether a checkpoint of the kit is whole and holds something. Its operations are read, none is carried out."""
    try:
        operations = {operation.name for operation, _, _ in pickletools.genops(path.read_bytes())}
    except (ValueError, IndexError):
        print(f"{path.name}: torn, its answers are asked again", file=sys.stderr)
        return False
    return not operations <= {"PROTO", "FRAME", "NONE", "STOP"}


def tell(dataset, work, name):
    """Writes what was asked of each row, and what is read out of a choice's response."""
    from vlmeval.smp import load
    from vlmeval.utils.matching_util import can_infer

    answered = work / MODEL / f"{MODEL}_{name}.tsv"
    said = {}
    if answered.is_file():
        table = load(str(answered))
        said = dict(zip(table["index"], table["prediction"], strict=True))
    written = work / f"{name}.asked.tmp"
    with open(written, "w", encoding="utf-8") as file:
        for place in range(len(dataset.data)):
            row = dataset.data.iloc[place]
            parts = dataset.build_prompt(row)
            line: dict[str, str | None] = {
                "index": str(row["index"]),
                "prompt": "".join("<image>" if part["type"] == "image" else part["value"] for part in parts),
            }
            if dataset.TYPE == "MCQ" and row["index"] in said:
                options = {key: row[key] for key in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if row.get(key) == row.get(key, 0)}
                line["read"] = can_infer(str(said[row["index"]]), options) or None
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    written.rename(work / f"{name}.asked.jsonl")


def main():
    missing = Missing()
    sys.meta_path.append(missing)
    if sys.argv[1] == "--try":  # whether the environment has what it needs
        importlib.import_module("vlmeval.run")
        return
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    shut_off(job["address"])
    try:
        run(job)
    finally:
        versions = {"python": sys.version.split()[0], "stand-ins": sorted(missing.names)}
        try:
            versions["ms-vlmeval"] = version("ms-vlmeval")
        except PackageNotFoundError:  # installed from its source
            versions["ms-vlmeval"] = "unknown"
        (Path(job["work"]) / "versions.json").write_text(json.dumps(versions), "utf-8")


if __name__ == "__main__":
    os.environ.setdefault("PRED_FORMAT", "tsv")
    main()
