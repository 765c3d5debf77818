"""The typed recipe: every option of a run, with its unit, default and source in the paper.

One YAML file is one run. Unknown keys, wrong types and options without effect are errors that name the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import Field

from open4ov import recipe_rules, typed_yaml, yaml_file
from open4ov.errors import UserError
from open4ov.recipe_admission import AdmissionSection
from open4ov.recipe_dpo import DpoSection
from open4ov.recipe_embedder import DEFAULT, EmbedderSection
from open4ov.recipe_executor import ExecutorSection
from open4ov.recipe_hygiene import HygieneSection
from open4ov.recipe_images import ImagesSection
from open4ov.recipe_labels import LabelsSection
from open4ov.recipe_loop import LoopSection
from open4ov.recipe_parallel import ParallelSection
from open4ov.recipe_providers import BudgetSection, PriceSection, ProviderSection
from open4ov.recipe_rl import RlSection
from open4ov.recipe_section import Section
from open4ov.recipe_sft import SftSection, SftStage
from open4ov.yaml_file import Loc, dotted

__all__ = [
    "BudgetSection",
    "DpoSection",
    "ImagesSection",
    "LabelsSection",
    "ParallelSection",
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


class DataSection(Section):
    """Data construction (paper §2)."""

    labels: str | LabelsSection | None = Field(
        default=None, description="YAML label tree; or labels to add to the shipped one; the shipped one when empty"
    )
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
    admit_all: bool = Field(
        default=False,
        description="every sample stays, known defects too, whatever judges and verification say: to compare with",
    )
    hygiene: HygieneSection = Field(default_factory=HygieneSection)
    executor: ExecutorSection = Field(default_factory=ExecutorSection)
    chunk: int = Field(default=2048, ge=1, description="images that are worked on, and held in memory, together")


EQUIVALENCE = "open4ov.evaluate.diversity:equivalent"


class EvaluateSection(Section):
    """What every model is asked (paper §6)."""

    items: int = Field(default=300, ge=1, description="items a suite")
    min_items: int = Field(
        default=20,
        ge=1,
        description="fewest held-out questions about your own pictures, by language; fewer: error",
    )
    samples: int = Field(default=8, ge=1, description="responses an item for pass@k and diversity")
    sampled_items: int = Field(default=300, ge=1, description="items of the sampled suites (pass@k)")
    max_tokens: int = Field(default=64, ge=1, description="longest response, tokens")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="of matrix products while answering; auto: bf16 where the device is fast in it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where there is one")
    weights: Literal["same", "int8", "fp8"] = Field(
        default="same",
        description="of the models that answer: as they were trained, or an 8-bit copy of the decoder's (paper §5.2): "
        "int8 on a CPU, fp8 on a GPU",
    )
    confidence: float = Field(default=0.95, gt=0, lt=1, description="level of the intervals")
    equivalence: str = Field(
        default=EQUIVALENCE,
        description="package.module:function (two responses -> whether they say the same), for distinct and utility",
    )


class Recipe(Section):
    """A whole run: what `open4ov run` reads from a YAML file."""

    name: str = Field(min_length=1, description="what the run is called; a run directory belongs to one name")
    model: str = Field(
        default="nano", description="`nano` (the shipped base) or a Hugging Face directory of a Qwen3-VL"
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="torch threads; all cores when empty; with two to four, work that falls into parts (drawing, data "
        "construction without endpoints, evaluation) is done in as many processes of one thread each",
    )
    images: ImagesSection = Field(default_factory=ImagesSection)
    data: DataSection = Field(default_factory=DataSection)
    admission: AdmissionSection = Field(default_factory=AdmissionSection)
    sft: SftSection = Field(default_factory=SftSection)
    rl: RlSection = Field(default_factory=RlSection)
    dpo: DpoSection = Field(default_factory=DpoSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    loop: LoopSection = Field(default_factory=LoopSection)
    parallel: ParallelSection = Field(default_factory=ParallelSection)


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

    recipe = typed_yaml.parse(data, Recipe, where)
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
