"""Which evaluation sets there are, how each is asked and how it is scored: `benchmarks.yaml` as typed models.

Every row of the paper's Tables 1 and 2 has an entry, whether it can be run here or not. The data do not ship: who has
the official file names its folder. What a file is, its entry or the user says (`--suite`, `--type`), never its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.sandbox
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from open4ov.errors import UserError, nearest

FILE = Path(__file__).with_name("benchmarks.yaml")

Type = Literal["mcq", "vqa", "yes_no", "number", "anls", "relaxed", "contains", "boxed", "graded", "rubric"]
"""How a set is asked and scored, where its entry says nothing else: `types` of the YAML file."""
RuleName = Literal[
    "choice",
    "exact",
    "yes_no",
    "number",
    "anls",
    "relaxed",
    "contains",
    "boxed",
    "maths",
    "mathvista",
    "judge",
    "verbatim",
    "literal",
    "sentence",
    "refusal",
    "denial",
]


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(_Described):
    """How the questions of a set are put and scored."""

    prompt: str = Field(min_length=1, description="name of a prompt under `prompts`")
    rule: RuleName = Field(description="scoring rule (scoring.py)")
    metric: str = Field(min_length=1, description="what the score is called")
    max_tokens: int = Field(ge=1, description="longest response, tokens")


class Benchmark(Asked):
    """One evaluation set."""

    title: str = Field(min_length=1)
    row: str = Field(default="", description="the paper's name of it, in Table 1 or 2; empty: in neither")
    table: Literal[1, 2] | None = None
    ability: str = Field(default="", description="the paper's category")
    file: str = Field(default="", description="name of the official file, in the folder that the user gives")
    split: str = Field(default="", description="which part of the official data the file holds")
    media: Literal["image", "images", "video", "text"] = "image"
    type: Type
    columns: tuple[str, ...] = Field(default=(), description="columns that the file must have")
    fields: Mapping[str, str | tuple[str, ...]] = Field(
        default_factory=dict, description="our name of a column -> the file's; several for options in a fixed order"
    )
    where: Mapping[str, str] = Field(default_factory=dict, description="only rows with these values are asked")
    shuffle: bool = Field(default=False, description="options are put in an order drawn from the row's own index")
    circular: Literal["no", "file"] = Field(
        default="no", description="file: rows whose index is equal modulo a million are one question, rotated"
    )
    places: Literal["before", "numbered", "in_turn"] = Field(
        default="before", description="pictures stand before the text, at <image 1>, or at each <image> in turn"
    )
    average: Literal["items", "category", "hallusion"] = Field(
        default="items", description="mean of all items; of the categories' means; HallusionBench's three accuracies"
    )
    cluster: str = Field(default="image", description="what items are not independent within: image, or a column")
    licence: str = ""
    source: str = ""
    differs: str = Field(default="", description="where our way differs from the official one")
    not_run: str = Field(default="", description="why it cannot be run here")

    @property
    def judged(self) -> bool:
        """Whether a judge scores it."""
        return self.rule == "judge"

    @model_validator(mode="after")
    def _whole(self) -> Benchmark:
        if (self.table is None) != (not self.row):
            raise ValueError("table and row go together")
        if self.table and not (self.licence and self.source and self.split and self.ability):
            raise ValueError("an entry of the paper's tables needs ability, split, licence and source")
        return self


class Registry(_Described):
    """All of `benchmarks.yaml`. `prompts`: Jinja templates over question, hint, options (letter, text) and language."""

    prompts: Mapping[str, str]
    types: Mapping[Type, Asked]
    benchmarks: Mapping[str, Benchmark]

    @model_validator(mode="after")
    def _named(self) -> Registry:
        for name, each in [*self.types.items(), *self.benchmarks.items()]:
            if each.prompt not in self.prompts:
                raise ValueError(f"{name}: there is no prompt {each.prompt!r}")
        return self

    def get(self, name: str) -> Benchmark:
        """The entry of a name. Raises UserError."""
        if name not in self.benchmarks:
            raise UserError(f"--suite {name}: there is no such evaluation set{nearest(name, self.benchmarks)}")
        return self.benchmarks[name]

    def of_type(self, name: str, kind: Type, text: bool = False) -> Benchmark:
        """An entry for a set of the user's own, of a declared type."""
        return Benchmark(title=name, type=kind, media="text" if text else "image", **self.types[kind].model_dump())

    def prompt(self, name: str) -> str:
        """The template of a prompt."""
        return self.prompts[name]


@cache
def registry() -> Registry:
    """What ships."""
    return read(FILE)


def read(path: Path) -> Registry:
    """A registry in a YAML file. An entry has what its type has, where it says nothing else. Raises UserError."""
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        for entry in raw["benchmarks"].values():
            for key, value in raw["types"].get(entry.get("type"), {}).items():
                entry.setdefault(key, value)
        return Registry.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: is no registry of evaluation sets: {' '.join(str(error).split())}") from None


@cache
def _template(text: str) -> jinja2.Template:
    environment = jinja2.sandbox.SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return environment.from_string(text)


def render(
    template: str, question: str, options: Sequence[tuple[str, str]] = (), hint: str = "", language: str = "en"
) -> str:
    """The text of a prompt. What is filled in is data: braces in it stay braces. Raises UserError for a template that
    asks for something else."""
    try:
        return _template(template).render(question=question, options=options, hint=hint, language=language)
    except jinja2.TemplateError as error:
        raise UserError(f"the prompt's template: {error}; it may use question, hint, options and language") from None
