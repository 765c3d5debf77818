"""What a run directory has to release: its models, their evaluations and sets, as its finished stages say.

Nothing is made here, and the recipe is read as it lies in run.json, unparsed: a run of an older version can be released
as long as its files are those that its stages name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from open4ov.errors import UserError, nearest
from open4ov.run_dir import read_json
from open4ov.store import ImageStore

SFT = ("sft_knowledge", "sft_ability", "sft_preference")
MODELS = (*SFT, "rl", "dpo")
"""Stages that leave a `model/`, in the order in which each goes on from the one before"""


@dataclass(frozen=True)
class Set:
    """A set of a run: the stage that made it, its files below the run directory, and the format it is written in."""

    name: str
    title: str
    stage: str
    files: tuple[str, ...]
    format: str = "parquet"


SETS = (
    Set("sft_knowledge", "SFT-Knowledge", "sets", ("sets/knowledge/samples.parquet", "sets/knowledge/val.parquet")),
    Set("sft_ability", "SFT-Ability", "sets", ("sets/ability/samples.parquet", "sets/ability/val.parquet")),
    Set(
        "sft_preference",
        "SFT-Preference",
        "preference_set",
        ("preference_set/preference/samples.parquet", "preference_set/preference/val.parquet"),
    ),
    Set("rl_pool", "RL tasks", "rl_pool", ("rl_pool/pool.parquet",)),
    Set("dpo_pairs", "DPO pairs", "dpo", ("dpo/pairs.parquet",), "trl"),
)
"""In the order in which training reads them"""
KNOWN_LATER = {"dpo_pairs": ("dpo",), "rl_pool": ("rl", "dpo"), "sft_preference": ("sft_preference", "rl", "dpo")}
"""Sets that only these models were trained on; all were trained on the others"""


class Source:
    """A run directory. Raises UserError for a folder that is none."""

    def __init__(self, root: Path) -> None:
        record = read_json(root / "run.json")
        if record is None:
            damaged = "is damaged" if (root / "run.json").exists() else "is not there"
            raise UserError(f"{root}: is no run directory (run.json {damaged}); give what `open4ov run --out` wrote")
        recipe = record.get("recipe")
        if not isinstance(recipe, dict) or not isinstance(cast("dict[str, Any]", recipe).get("name"), str):
            raise UserError(f"{root / 'run.json'}: damaged: it names no recipe; run the recipe again")
        self.root, self.record = root, record
        self.recipe = cast("dict[str, Any]", recipe)
        self.images = ImageStore(root / "image-store")
        self.stages = dict(self._stages())

    def _stages(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted(self.root.glob("*/stage.json")):
            found = read_json(path)
            if found is None or not isinstance(found.get("files"), dict) or "digest" not in found:
                raise UserError(f"{path}: damaged; delete {path.parent}, and the run's command makes it again")
            yield path.parent.name, found

    @property
    def name(self) -> str:
        """The recipe's."""
        return str(self.recipe["name"])

    def option(self, key: str, default: Any = None) -> Any:
        """An option of the recipe by its dotted name; the default where this run's version had none of that name."""
        found: Any = self.recipe
        for part in key.split("."):
            if not isinstance(found, dict) or part not in found:
                return default
            found = cast("dict[str, Any]", found)[part]
        return found

    def model(self, wanted: str | None) -> str:
        """The stage whose model is released: the last of the paradigm, or the one named. Raises UserError with what is
        missing when it is not finished."""
        if wanted is not None and wanted not in MODELS:
            raise UserError(f"--model {wanted}: no stage that trains a model{nearest(wanted, MODELS)}")
        stage = wanted or MODELS[-1]
        if stage in self.stages:
            return stage
        there = [name for name in MODELS if name in self.stages]
        done = ", ".join(self.stages) or "none"
        how = f", or release an earlier model with --model {there[-1]}" if there else ""
        raise UserError(
            f"{self.root}: the run is not finished: it has no '{stage}' yet (finished stages: {done}). Run its recipe "
            f"on (open4ov run RECIPE --out {self.root}){how}"
        )

    def trained(self, stage: str) -> list[str]:
        """The finished models up to this one, in order."""
        return [name for name in MODELS[: MODELS.index(stage) + 1] if name in self.stages]

    def sets(self, stage: str) -> list[Set]:
        """The sets that this model and those before it were trained on, as far as the run has such a stage at all."""
        planned = {"sets", "preference_set", "rl_pool", *self.stages}
        if self.option("sft.schedule") == "single_stage":
            planned.discard("preference_set")
        return [one for one in SETS if stage in KNOWN_LATER.get(one.name, MODELS) and one.stage in planned]

    def missing(self, stage: str) -> list[str]:
        """What a whole release would have and this run has not: a line each."""
        lines: list[str] = []
        for one in self.sets(stage):
            if one.stage not in self.stages:
                lines.append(f"{one.title}: the stage '{one.stage}' is not finished")
        for name in ("base", stage):
            if f"evaluate_{name}" not in self.stages:
                lines.append(f"results: the stage 'evaluate_{name}' is not finished")
        return lines

    def results(self, stage: str) -> dict[str, Any] | None:
        """results.json of a model's evaluation; None when there is none. Raises UserError for one of another schema."""
        if f"evaluate_{stage}" not in self.stages:
            return None
        path = self.root / f"evaluate_{stage}" / "results.json"
        found = read_json(path)
        if found is None or not isinstance(found.get("suites"), dict) or found.get("schema") != 1:
            raise UserError(f"{path}: damaged, or of another version (schema {(found or {}).get('schema')}); run the "
                            f"recipe again as far as evaluate_{stage}")  # fmt: skip
        return found

    def json(self, name: str) -> dict[str, Any]:
        """A report of the run by its name below the run directory; empty when it has none."""
        return read_json(self.root / name) or {}

    def check(self, stage: str, names: Sequence[str]) -> None:
        """Raises UserError unless these files of a stage have the bytes that the stage left (SHA-256)."""
        told: Mapping[str, Any] = self.stages[stage]["files"]
        for name in names:
            path = self.root / stage / name
            if name not in told:
                raise UserError(f"{path}: is no file of the finished stage; delete {self.root / stage} and run again")
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
            if found != told[name]["sha256"]:
                raise UserError(
                    f"{path}: its bytes are not those that the stage left (SHA-256 {found[:12]}..., not "
                    f"{str(told[name]['sha256'])[:12]}...); delete {self.root / stage}, and the run's command makes it "
                    "again"
                )
