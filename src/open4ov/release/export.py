"""`open4ov export RUN`: a folder that can be published.

    model/          weights, tokenizer and image settings in Hugging Face layout, with the model card
    data/           the training sets as Parquet, a folder and a card each, and a card over all
    recipe.yaml     the run's options, without addresses and folders of the machine it ran on
    release.json    what was released, from which stage, and what is missing
    SHA256SUMS      for `sha256sum -c`

It is written beside its place and renamed when it is whole. The same command again finds it finished and writes
nothing; a folder with anything else is left alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from open4ov.errors import UserError
from open4ov.graph import VERSION
from open4ov.model.config import Config
from open4ov.model.files import read_json as read_object
from open4ov.release import data, data_card, licences, model_card
from open4ov.release.model_card import Told
from open4ov.release.source import Source
from open4ov.release.weights import write_weights
from open4ov.run_dir import beside, hash_json, locked, read_json
from open4ov.store import ImageError, write_json

RECORD, SUMS, RECIPE = "release.json", "SHA256SUMS", "recipe.yaml"
Tell = Callable[[str], None]
_WEIGHTS = re.compile(r"model/(config\.json|.*\.safetensors(\.index\.json)?)")


def export(root: Path, out: Path, told: Told, *, model: str | None, with_data: bool, tell: Tell) -> dict[str, Any]:
    """Writes the release of a run to the folder `out`; gives its release.json, and `made`: whether it was written now.

    Raises UserError for a run that has no such model yet, files that changed since their stage, and an `out` that holds
    something else.
    """
    source = Source(root)
    with locked(root):  # so that no stage is made anew meanwhile
        stage = source.model(model)
        facts = _facts(source, stage, told, with_data)
        if (found := _there(out, facts)) is not None:
            tell("is up to date: nothing is written")
            return {**found, "made": False}
        with beside(out) as part:
            try:
                record = _write(source, stage, part, told, with_data, tell)
            except ImageError as error:
                raise UserError(str(error)) from None
            write_json(part / RECORD, {**record, "facts": facts})
            _sums(part, tell)
        return {**record, "facts": facts, "made": True}


def _facts(source: Source, stage: str, told: Told, with_data: bool) -> dict[str, Any]:
    """All that decides a release."""
    of = {f"evaluate_{name}" for name in ("base", stage)} | set(source.trained(stage))
    of |= {one.stage for one in source.sets(stage)} if with_data else set()
    return {
        "schema": 1,
        "open4ov": VERSION,
        "recipe": hash_json(source.record),
        "stage": stage,
        "stages": {name: source.stages[name]["digest"] for name in sorted(of) if name in source.stages},
        "name": told.name,
        "precision": told.precision,
        "licence": told.licence,
        "base_model": told.base_model,
        "base_licence": licences.of_base(str(source.option("model", "")))[0],
        "data": with_data,
    }


def _there(out: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a finished release of the same facts whose files are whole; None for a free place. Raises UserError
    for anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    found = read_json(out / RECORD)
    if found is None or "facts" not in found:
        raise UserError(f"{out}: is there already, and is no release of open4ov; give another --out")
    if found["facts"] != facts:
        differs = sorted(key for key in facts if found["facts"].get(key) != facts[key])
        raise UserError(
            f"{out}: holds another release ({found.get('name')}, of '{found.get('stage')}'; other: "
            f"{', '.join(differs)}); give another --out, or delete it"
        )
    for line in (out / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if not (out / name).is_file() or _sha256(out / name) != digest:
            raise UserError(f"{out / name}: is missing, or not as it was released; delete {out}, and export again")
    return found


def _write(source: Source, stage: str, out: Path, told: Told, with_data: bool, tell: Tell) -> dict[str, Any]:
    given, target = source.root / stage / "model", out / "model"
    tell(f"the model of '{stage}' is checked against what the stage left")
    names = sorted(name for name in source.stages[stage]["files"] if name.startswith("model/"))
    source.check(stage, names)
    target.mkdir()
    tell(f"weights are written as {told.precision}")
    weights = write_weights(given, target, told.precision)
    for name in names:
        if not _WEIGHTS.fullmatch(name):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.root / stage / name, out / name)
    gaps = source.missing(stage)
    sets: list[data.Released] | None = None
    if with_data:
        (out / "data").mkdir()
        sets, empty = data.write_sets(source, stage, out / "data", told.name, tell)
        gaps = [*gaps, *empty]
        card = data_card.text(source, told.name, sets, gaps)
        (out / "data" / "README.md").write_text(card, encoding="utf-8")
    else:
        gaps = [line for line in gaps if line.startswith("results")]
    experts = bool(Config.from_dict(read_object(given / "config.json"), str(given / "config.json")).text.num_experts)
    card = model_card.text(source, stage, told, sets, experts)
    (target / "README.md").write_text(card, encoding="utf-8")
    head = "# The options of the run. Addresses and absolute paths are cut to `...`: fill them in to run it again.\n"
    said = yaml.safe_dump(without_places(source.recipe), sort_keys=False, allow_unicode=True)
    (out / RECIPE).write_text(head + said, encoding="utf-8")
    return {
        "name": told.name,
        "stage": stage,
        "precision": told.precision,
        "weights": {"tensors": weights.tensors, "quantised": weights.quantised, "bytes": weights.bytes},
        "sets": {one.set.name: one.figures() for one in sets or ()},
        "missing": gaps,
    }


def without_places(value: Any) -> Any:
    """A recipe without what tells of the machine it ran on: addresses become `...`, absolute paths `.../NAME`."""
    if isinstance(value, dict):
        return {key: without_places(one) for key, one in cast("dict[str, Any]", value).items() if key != "local_hosts"}
    if isinstance(value, list):
        return [without_places(one) for one in cast("list[Any]", value)]
    if isinstance(value, str):
        if "://" in value:
            return "..."
        if value.startswith(("/", "~")) or re.match(r"[A-Za-z]:\\", value):
            return ".../" + re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _sums(out: Path, tell: Tell) -> None:
    tell("checksums are written")
    lines = [f"{_sha256(path)}  {name}\n" for name, path in _files(out)]
    (out / SUMS).write_text("".join(lines), encoding="utf-8")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    found = ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return iter(sorted(item for item in found if item[0] != SUMS))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def summary(record: dict[str, Any], out: Path) -> str:
    """What was released, for people."""
    weights = record["weights"]
    bits = f", {weights['quantised']} of them in 8 bits" if weights["quantised"] else ""
    lines = [
        f"{out}: {record['name']}, the model of '{record['stage']}' in {record['precision']}: "
        f"{weights['tensors']} tensors{bits}, {weights['bytes'] / 2**20:.1f} MiB"
    ]
    lines += [
        f"  data/{name}: {about['samples']:,} samples, {about['images']:,} images"
        + "".join(f"; {count} left out: {reason}" for reason, count in about["left_out"].items())
        for name, about in record["sets"].items()
    ]
    return "\n".join(lines)
