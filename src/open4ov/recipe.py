"""The typed recipe: every option of a run, with its unit, default and source in the paper.

One YAML file is one run. Unknown keys, wrong types and options without effect are errors that name the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError

from open4ov import recipe_rules, yaml_file
from open4ov.errors import UserError, nearest
from open4ov.recipe_admission import AdmissionSection
from open4ov.recipe_dpo import DpoSection
from open4ov.recipe_embedder import DEFAULT, EmbedderSection
from open4ov.recipe_executor import ExecutorSection
from open4ov.recipe_hygiene import HygieneSection
from open4ov.recipe_providers import BudgetSection, PriceSection, ProviderSection
from open4ov.recipe_rl import RlSection
from open4ov.recipe_section import Section
from open4ov.recipe_sft import SftSection, SftStage
from open4ov.yaml_file import Loc, dotted

__all__ = [
    "BudgetSection",
    "DpoSection",
    "PriceSection",
    "ProviderSection",
    "Recipe",
    "RlSection",
    "Section",
    "SftSection",
    "SftStage",
    "UserError",
    "load",
]


class ImagesSection(Section):
    """Where the pictures come from (paper §3.1)."""

    vertical: str = Field(
        default="corpus:in_car",
        min_length=1,
        description="`corpus:NAME` or a folder of images (with NAME.json annotations)",
    )
    per_symbol: int = Field(
        default=12, ge=1, description="renderings of each vertical symbol, when a corpus draws them"
    )
    general: str = Field(
        default="corpus:general", min_length=1, description="`corpus:general`, or a folder, for the SFT-Ability set"
    )
    general_count: int = Field(default=4000, ge=0, description="how many general pictures, or questions without one")
    general_questions: int = Field(default=1, ge=1, description="most questions about a picture that a corpus draws")
    max_pixels: int = Field(
        default=40_000_000, ge=1, le=170_000_000, description="larger images are refused and listed"
    )


class DataSection(Section):
    """Data construction (paper §2)."""

    labels: str | None = Field(default=None, description="YAML label tree; the shipped one when empty")
    feedback: str | None = Field(
        default=None,
        min_length=1,
        description="feedback file (YAML) of balance or assessment: what to make more, better or less of",
    )
    providers: dict[str, ProviderSection] = Field(default_factory=lambda: {"default": ProviderSection()})
    roles: dict[str, str] = Field(default_factory=dict, description="role -> provider name; 'default' otherwise")
    cache: str | None = Field(
        default=None, min_length=1, description="folder where answers of endpoints are kept; the run's own when empty"
    )
    budget: BudgetSection = Field(default_factory=BudgetSection)
    local_only: bool = Field(
        default=False, description="refuse every endpoint off this machine, but for those on local_hosts"
    )
    local_hosts: list[str] = Field(
        default_factory=list, description="names, addresses or networks (10.1.0.0/16) that local_only lets through"
    )
    match_general: bool = Field(
        default=False,
        description="label the general set as well, by the vertical's matching (§3.2.2): a question for each sample "
        "with a picture; what our own corpora draw is always labelled, by what was drawn",
    )
    top_l1: int = Field(default=3, ge=1, description="L1 labels kept above Others (§2.2.3)")
    top_topics: int = Field(default=5, ge=1, description="topics kept by fine matching (§2.2.3)")
    density_weights: dict[str, float] = Field(
        default_factory=lambda: {"subjects": 0.3, "space": 0.2, "ocr": 0.2, "knowledge": 0.3},
        description="weights of the four IDS dimensions (§2.2.4); normalised to sum 1",
    )
    density_scenarios: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="domain L1 name -> weights for images of that domain (the best-ranked one named here)",
    )
    density_evidence: int = Field(
        default=100, ge=0, description="images whose density is also measured from their pixels, to report agreement"
    )
    min_pairs: int = Field(default=2, ge=0, description="QA pairs for an image of IDS 0")
    max_pairs: int = Field(default=8, ge=1, description="QA pairs for an image of IDS 1")
    total_pairs: int | None = Field(
        default=None, ge=1, description="QA pairs of all images together, shared out by IDS; no total when empty"
    )
    topics_per_pair: int = Field(
        default=12, ge=1, description="L3 topics asked for a pair of a domain L2 and an ability L2 (§2.2.2)"
    )
    embedder: EmbedderSection = Field(
        default_factory=lambda: EmbedderSection(name=DEFAULT),
        description="of fine matching: package.module:function (N texts -> a float array [N, D]), open4ov, "
        "{directory: PATH} or {endpoint: {...}}",
    )
    languages: list[Literal["en", "zh"]] = Field(
        default_factory=lambda: list[Literal["en", "zh"]](("en", "zh")),
        min_length=1,
        description="languages of the synthesised questions",
    )
    language_per_image: bool = Field(
        default=False, description="one of the languages for each image (its annotation's `language`, or drawn)"
    )
    quorum: int = Field(default=2, ge=1, description="votes of three that keep a sample (§2.2.4)")
    inject_defects: float = Field(
        default=0.0, ge=0, le=1, description="share of wrong samples added to measure the judges"
    )
    hygiene: HygieneSection = Field(default_factory=HygieneSection)
    executor: ExecutorSection = Field(default_factory=ExecutorSection)
    chunk: int = Field(default=2048, ge=1, description="images that are worked on, and held in memory, together")


class EvaluateSection(Section):
    """What every model is asked (paper §6)."""

    items: int = Field(default=300, ge=1, description="items a suite")
    samples: int = Field(default=8, ge=1, description="responses an item for pass@k and diversity")
    sampled_items: int = Field(default=300, ge=1, description="items of the sampled suites (pass@k)")
    max_tokens: int = Field(default=64, ge=1, description="longest response, tokens")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="of matrix products while answering; auto: bf16 where the device is fast in it"
    )
    confidence: float = Field(default=0.95, gt=0, lt=1, description="level of the intervals")


class Recipe(Section):
    """A whole run: what `open4ov run` reads from a YAML file."""

    name: str = Field(min_length=1, description="what the run is called; a run directory belongs to one name")
    model: str = Field(
        default="nano", description="`nano` (the shipped base) or a Hugging Face directory of a Qwen3-VL"
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    threads: int | None = Field(default=None, ge=1, le=1024, description="torch threads; all cores when empty")
    images: ImagesSection = Field(default_factory=ImagesSection)
    data: DataSection = Field(default_factory=DataSection)
    admission: AdmissionSection = Field(default_factory=AdmissionSection)
    sft: SftSection = Field(default_factory=SftSection)
    rl: RlSection = Field(default_factory=RlSection)
    dpo: DpoSection = Field(default_factory=DpoSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `key.sub=value` overrides (values in YAML) laid over it.

    Raises UserError with one line for each fault, naming file, line and key: a missing file, broken YAML, an unknown
    key (with the nearest known one), a wrong type or range, values that contradict each other, and options that
    nothing reads in this run. An option of the file that an override has switched off (`--set rl.steps=0`) is no fault.
    """
    data, lines = yaml_file.read(path)
    overridden = [_override(data, text) for text in overrides]

    def where(loc: Loc) -> str:
        for depth in range(len(loc), 0, -1):
            if any(one[:depth] == loc[:depth] for one in overridden):
                return f"--set {dotted(loc)}"
            if loc[:depth] in lines:
                return f"{path}, line {lines[loc[:depth]]}: {dotted(loc)}"
        return f"{path}: {dotted(loc)}" if loc else str(path)

    unknown = [
        f"{where(loc)}: unknown key '{loc[-1]}'{nearest(str(loc[-1]), known)}" for loc, known in _unknown(data, Recipe)
    ]
    if unknown:
        raise UserError("\n".join(unknown))
    try:  # through JSON: strict about types, yet a list may fill a tuple
        recipe = Recipe.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise UserError("\n".join(f"{where(item['loc'])}: {_reason(dict(item))}" for item in error.errors())) from None
    faults = [f"{where(loc)}: {message}" for loc, message in recipe_rules.contradictions(recipe)]
    for loc, reason, switch in recipe_rules.idle(recipe):
        if switch not in overridden or loc in overridden:
            faults.append(f"{where(loc)}: has no effect: {reason}; remove it")
    if faults:
        raise UserError("\n".join(faults))
    return recipe


def _override(data: dict[str, Any], text: str) -> Loc:
    """Lays `key.sub=value` over the data and gives the key's place. Unknown keys are found later, with the file's."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {text}: expected key.sub=value, such as --set rl.steps=20")
    try:
        parsed = yaml_file.parse_value(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not valid YAML: {' '.join(str(error).split())}") from None
    target = data
    for depth, part in enumerate(parts[:-1]):
        below: object = target.setdefault(part, {})
        if below is None:
            below = target[part] = {}
        if not isinstance(below, dict):
            raise UserError(
                f"--set {text}: '{dotted(tuple(parts[: depth + 1]))}' is a single value and has no keys below it"
            )
        target = cast("dict[str, Any]", below)
    target[parts[-1]] = parsed
    return tuple(parts)


def _unknown(data: object, shape: Any, loc: Loc = ()) -> Iterable[tuple[Loc, list[str]]]:
    """The keys no model knows: (place, the known keys there)."""
    if isinstance(data, list) and get_origin(shape) is list:
        for place, one in enumerate(cast("list[object]", data)):
            yield from _unknown(one, get_args(shape)[0], (*loc, place))
    if not isinstance(data, dict):
        return
    entries = cast("dict[str, object]", data)
    if get_origin(shape) is dict:
        for key, value in entries.items():
            yield from _unknown(value, get_args(shape)[1], (*loc, key))
    elif get_origin(shape) is UnionType:  # a section or nothing
        for one in get_args(shape):
            yield from _unknown(cast("object", data), one, loc)
    elif isinstance(shape, type) and issubclass(shape, BaseModel):
        for key, value in entries.items():
            if key not in shape.model_fields:
                yield (*loc, key), list(shape.model_fields)
            else:
                yield from _unknown(value, shape.model_fields[key].annotation, (*loc, key))


def _reason(error: dict[str, Any]) -> str:
    if error["type"] == "missing":
        return "is missing; add it"
    got: object = error["input"]
    kind = (
        "nothing"
        if got is None
        else f"{json.dumps(got, ensure_ascii=False)} ({_KINDS.get(type(got), type(got).__name__)})"
    )
    message = error["msg"].removeprefix("Input should be ").removeprefix("a valid ").removeprefix("an ")
    message = message.replace("dictionary", "mapping (`key: value` lines)").replace(
        "object", "mapping (`key: value` lines)"
    )
    return f"expected {message}, got {kind}"


_KINDS: dict[type, str] = {
    bool: "true/false",
    int: "whole number",
    float: "number",
    str: "text",
    list: "list",
    dict: "mapping",
}
