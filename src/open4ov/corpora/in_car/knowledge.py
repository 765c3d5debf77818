"""The facts of the in-car vertical: `knowledge.yaml`, read and validated.

Conventions and sources are written down in docs/in-car.md.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from open4ov.errors import UserError

Kind = Literal["tell_tale", "road_sign"]
Language = Literal["en", "zh"]
Colour = Literal["red", "amber", "green", "blue", "white", "yellow"]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]

KNOWLEDGE = Path(__file__).with_name("knowledge.yaml")
EXCLUDED = Path(__file__).with_name("excluded.yaml")

SEVERITIES: dict[Kind, dict[str, str]] = {
    "tell_tale": {
        "stop now": "立即停车",
        "act now": "立即处理",
        "check soon": "尽快检查",
        "take care": "小心驾驶",
        "information": "提示信息",
    },
    "road_sign": {
        "priority": "优先",
        "prohibition": "禁止",
        "warning": "警告",
        "mandatory": "强制",
        "information": "信息",
    },
}
"""Per kind: severity → its Chinese. A tell-tale's is how urgent it is, a road sign's is its class."""

BY_COLOUR: dict[Kind, dict[str, frozenset[str]]] = {
    "tell_tale": {
        "red": frozenset({"stop now", "act now"}),
        "amber": frozenset({"check soon", "take care"}),
        "green": frozenset({"information"}),
        "blue": frozenset({"information"}),
        "white": frozenset({"information"}),
    },
    "road_sign": {
        "red": frozenset({"priority", "prohibition", "warning"}),
        "yellow": frozenset({"warning"}),
        "blue": frozenset({"mandatory", "information"}),
    },
}
"""Per kind and colour: the severities it stands for (tell-tales: ISO 2575; signs: their usual signal colour)."""


class KnowledgeError(UserError):
    """`knowledge.yaml` says something wrong; the message names the entry."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Facts(_Record):
    """What is known of a symbol in one language. `meaning` and `action` are one short sentence each."""

    name: Text
    aliases: tuple[Text, ...] = ()
    meaning: Text
    action: Text


class Symbol(_Record):
    """A dashboard tell-tale (a Material Design Icon) or a road sign (an Open Clip Art drawing)."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    kind: Kind
    icon: str | None = None
    codepoint: Annotated[str, StringConstraints(pattern=r"^F[0-9A-F]{4}$")] | None = None
    file: str | None = None
    colour: Colour
    severity: str
    note: str | None = Field(default=None, description="why the severity is not the usual one of the colour")
    en: Facts
    zh: Facts

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tell_tale = self.kind == "tell_tale"
        if tell_tale and (self.icon is None or self.codepoint is None or self.file is not None):
            raise ValueError("a tell_tale needs icon and codepoint, and no file")
        if not tell_tale and (self.file is None or self.icon is not None or self.codepoint is not None):
            raise ValueError("a road_sign needs file, and no icon or codepoint")
        if self.severity not in SEVERITIES[self.kind]:
            raise ValueError(f"severity {self.severity!r} is not one of {', '.join(SEVERITIES[self.kind])}")
        usual = BY_COLOUR[self.kind].get(self.colour)
        if usual is None:
            raise ValueError(f"colour {self.colour!r} is not one of {', '.join(BY_COLOUR[self.kind])}")
        if (self.severity in usual) == (self.note is not None):
            raise ValueError(
                f"{self.colour} stands for {' or '.join(sorted(usual))}; severity {self.severity!r} "
                + ("needs no note" if self.note else "needs a note that says why")
            )
        return self

    def facts(self, language: Language) -> Facts:
        return self.en if language == "en" else self.zh

    def severity_in(self, language: Language) -> str:
        return self.severity if language == "en" else SEVERITIES[self.kind][self.severity]


def parse(text: str, source: str) -> list[Symbol]:
    """The symbols of a knowledge file's YAML `text`; `source` names it in errors.

    Raises `KnowledgeError` for a malformed file or entry, a repeated id, and a name or alias shared by two entries.
    """
    try:
        raw: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KnowledgeError(f"{source} is not YAML: {error}") from error
    if not isinstance(raw, list):
        raise KnowledgeError(f"{source} must be a list of entries, each beginning with '- id: ...'")
    symbols: list[Symbol] = []
    ids: set[str] = set()
    owners: dict[tuple[Language, str], str] = {}
    for place, entry in enumerate(cast(list[Any], raw), start=1):
        name = str(cast(dict[str, Any], entry).get("id")) if isinstance(entry, dict) else f"number {place}"
        try:
            symbol = Symbol.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise KnowledgeError(f"{source}: entry {name}: {where + ': ' if where else ''}{first['msg']}") from error
        if symbol.id in ids:
            raise KnowledgeError(f"{source}: entry {name}: the id is used twice")
        ids.add(symbol.id)
        for language in ("en", "zh"):
            facts = symbol.facts(language)
            for term in (facts.name, *facts.aliases):
                owner = owners.setdefault((language, term.casefold()), symbol.id)
                if owner != symbol.id:
                    raise KnowledgeError(f"{source}: entry {name}: {term!r} is also a name of entry {owner}")
        symbols.append(symbol)
    return symbols


@cache
def _shipped() -> tuple[Symbol, ...]:
    return tuple(parse(KNOWLEDGE.read_text(encoding="utf-8"), KNOWLEDGE.name))


def load() -> list[Symbol]:
    """All symbols, in the file's order: tell-tales, then road signs. Raises `KnowledgeError` naming the bad entry."""
    return list(_shipped())


def symbol(id: str) -> Symbol:
    """The symbol of that id. Raises `KnowledgeError` when there is none."""
    for each in _shipped():
        if each.id == id:
            return each
    raise KnowledgeError(f"no in-car symbol has the id {id!r}; open4ov.corpora.in_car.load() lists them")


def fragments(language: Language) -> list[str]:
    """Every name, meaning and action as written, and every alias that cannot occur by chance in other text
    (at least 5 letters in English, 3 characters in Chinese). None of them may be in the base's pretraining text;
    look for them as whole words, ignoring case."""
    shortest = {"en": 5, "zh": 3}[language]
    found: dict[str, None] = {}
    for each in _shipped():
        facts = each.facts(language)
        for text in (facts.name, facts.meaning, facts.action, *facts.aliases):
            if len(text) >= shortest:
                found[text] = None
    return list(found)


def excluded() -> dict[str, list[str]]:
    """What pretraining leaves out (`excluded.yaml`): icon names `automotive` and `medical`, and
    `openclipart_prefixes` and `openclipart_words`."""
    return cast(dict[str, list[str]], yaml.safe_load(EXCLUDED.read_text(encoding="utf-8")))
