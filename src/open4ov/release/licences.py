"""Licences of a release: what the base says of itself, what samples say, and what the shipped corpora are drawn from.

Nothing is concluded from them: a card lists what is stated, and says so where nothing is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from open4ov.assets import ROOT, base_dir
from open4ov.errors import UserError

_IN_CAR = (
    "dashboard tell-tales: a subset of Material Design Icons by the Pictogrammers (Apache-2.0); road signs: Open Clip "
    "Art Library (public domain); words, questions and answers: open4ov (Apache-2.0)"
)
_GENERAL = (
    "pictures drawn from Material Design Icons (Apache-2.0) and the Open Clip Art Library (public domain), with text "
    "in Noto Sans CJK (OFL 1.1); questions and answers: open4ov (Apache-2.0)"
)
SHIPPED: Mapping[str, str] = {
    "in_car": _IN_CAR,
    "corpus:in_car": _IN_CAR,
    "general": _GENERAL,
    "corpus:general": _GENERAL,
    "corpora": _GENERAL,
}
"""Source of a sample -> what the corpus of that name, which ships with open4ov, is made of"""
IN_SHORT: Mapping[str, str] = {
    source: {_IN_CAR: "Apache-2.0 and public domain", _GENERAL: "Apache-2.0, public domain and OFL-1.1"}[made_of]
    + f" (open4ov's corpus {source.removeprefix('corpus:')})"
    for source, made_of in SHIPPED.items()
}
"""Source of a sample -> the licences of what `SHIPPED` names, for a count"""
UNKNOWN = "unknown"
NOT_STATED = "not stated"


def of_base(model: str) -> tuple[str, str]:
    """The licence that a base model's own card states, in the hub's words, and a sentence on it for the cards."""
    title = Path(model).name
    try:
        folder = base_dir(model)
    except UserError:
        return UNKNOWN, f"The base model, {title}, was not on the machine of this export, and its licence is not known."
    stated = front_matter(folder / "README.md").get("license")
    if not isinstance(stated, str):
        return UNKNOWN, f"The base model, {title}, states no licence in its folder: look it up before publishing."
    shipped = " (it ships with open4ov)" if folder.is_relative_to(ROOT) else ""
    return stated, f"The base model, {title}{shipped}, states the licence `{stated}`."


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML at the head of a card; empty when there is no such file or no such head."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    head, _ = split(text)
    return head


def split(text: str) -> tuple[dict[str, Any], str]:
    """A card's front matter and what follows it."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        return {}, text
    try:
        found = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}, text
    return (cast("dict[str, Any]", found), parts[2]) if isinstance(found, dict) else ({}, text)


def joined(head: Mapping[str, Any], body: str) -> str:
    """The way back."""
    return f"---\n{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)}---\n{body}"


def of_data(licences: Mapping[str, int], sources: Iterable[str]) -> tuple[str, list[str]]:
    """The hub's licence of a set, and lines on what it is made of: by what its samples state (or `IN_SHORT` says of
    their sources), and their sources."""
    known = {source: SHIPPED[source] for source in sources if source in SHIPPED}
    lines = [f"- `{source}`: {text}." for source, text in known.items()]
    stated = [name for name in licences if name != NOT_STATED and name not in IN_SHORT.values()]
    lines += [f"- stated by {licences[name]:,} samples: {name}." for name in stated]
    rest = [source for source in sources if source not in SHIPPED]
    if not stated and rest:
        lines.append(f"- `{'`, `'.join(rest)}`: no licence is stated. Find out before publishing.")
    if len(licences) == 1 and stated:
        return stated[0].lower(), lines
    return ("other" if known or stated else UNKNOWN), lines
