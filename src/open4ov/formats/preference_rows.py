"""Rows that become preference pairs: several responses with a score each, and what people have corrected.

    {"prompt": ..., "responses": [text, ...], "scores": [number, ...]}       also with `attributes`: name -> scores
    {"prompt": ..., "completions": [{"response" or "text": ..., "score" or "overall_score": ...}, ...]}
    {"prompt": ..., "original": text, "corrected": text}

Of several responses the best is chosen and the worst rejected: pairs of all of them would say the same many times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from open4ov.formats.row import RowError

_EDITED = ("corrected", "edited")
_SCORES = ("score", "overall_score", "rating")
_TEXTS = ("response", "text", "content")


def becomes_pair(row: Mapping[str, Any]) -> bool:
    """Whether a row is of one of these forms."""
    several = isinstance(row.get("responses"), list) and isinstance(row.get("scores"), list)
    return several or isinstance(row.get("completions"), list) or _edit(row) is not None


def as_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as TRL would write it, its kind in `pair`; other rows as they are. Raises RowError for one whose
    responses are all alike or without scores."""
    edited = _edit(row)
    if edited is not None:
        rest = {key: value for key, value in row.items() if key not in ("original", edited)}
        return {"pair": "corrective", **rest, "chosen": row[edited], "rejected": row["original"]}
    if not becomes_pair(row):
        return dict(row)
    texts, scores, attributes = _listed(row)
    if len(texts) < 2:
        raise RowError(f"{len(texts)} responses make no pair; it needs two or more")
    best, worst = max(range(len(texts)), key=scores.__getitem__), min(range(len(texts)), key=scores.__getitem__)
    if scores[best] == scores[worst]:
        raise RowError("its responses all have one score: none is better")
    told = {"score": [scores[best], scores[worst]]}
    told |= {name: [values[best], values[worst]] for name, values in attributes.items()}
    rest = {key: value for key, value in row.items() if key not in ("responses", "scores", "completions", "attributes")}
    return {"pair": "scored", **rest, "chosen": texts[best], "rejected": texts[worst], "attributes": told}


def _edit(row: Mapping[str, Any]) -> str | None:
    """The field with the corrected text of a row that has the original one too."""
    if not isinstance(row.get("original"), str):
        return None
    return next((key for key in _EDITED if isinstance(row.get(key), str)), None)


def _listed(row: Mapping[str, Any]) -> tuple[list[str], list[float], dict[str, Any]]:
    """Texts, their scores, and their scores in each attribute that all have."""
    attributes: dict[str, Any] = {}
    scores: list[Any]
    if isinstance(row.get("responses"), list):
        texts, scores = [str(text) for text in row["responses"]], list(row["scores"])
        if isinstance(given := row.get("attributes"), dict):
            attributes = {str(name): values for name, values in cast("dict[str, Any]", given).items()}
    else:
        answers = [cast("dict[str, Any]", one) for one in row["completions"] if isinstance(one, dict)]
        texts = [next((str(one[key]) for key in _TEXTS if isinstance(one.get(key), str)), "") for one in answers]
        scores = [next((one[key] for key in _SCORES if one.get(key) is not None), None) for one in answers]
        named = [cast("dict[str, Any]", one.get("attributes") or {}) for one in answers]
        attributes = (
            {name: [one[name] for one in named] for name in named[0] if all(name in one for one in named)}
            if named
            else {}
        )
    bad = any(isinstance(score, bool) or not isinstance(score, int | float) for score in scores)
    if len(scores) != len(texts) or bad:
        raise RowError(f"{len(texts)} responses and {len(scores)} scores: each response needs a number")
    for name, values in attributes.items():
        if not isinstance(values, list) or len(cast("list[Any]", values)) != len(texts):
            raise RowError(f"attributes.{name}: give a score for each of {len(texts)} responses")
    return texts, [float(score) for score in scores], attributes
