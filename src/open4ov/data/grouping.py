"""The keys by which samples are grouped (`data.hygiene.groups`): where their values stand, and how many have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from open4ov.data.hygiene_pictures import fields
from open4ov.errors import UserError, nearest
from open4ov.sample import Sample


def value(sample: Sample, key: str) -> object | None:
    """A sample's value of a key: of its annotation, else of what came with it; None where it has none."""
    for place in _places(sample):
        if (found := place.get(key)) not in (None, ""):
            return found
    return None


def count(images: Iterable[Sample], keys: Sequence[str]) -> dict[str, dict[str, int]]:
    """By key how many images have it and how many lack it.

    Raises `UserError` for a key that none has: nothing would be grouped by it, and nobody would know.
    """
    have: Counter[str] = Counter()
    there: Counter[str] = Counter()
    total = 0
    for image in images:
        total += 1
        have.update(key for key in keys if value(image, key) is not None)
        there.update({name for place in _places(image) for name, held in place.items() if _names(held)})
    for key in keys:
        if total and not have[key]:
            common = sorted(there, key=lambda name: (-there[name], name))[:12]
            raise UserError(
                f"data.hygiene.groups: none of the {total} images has the key '{key}'{nearest(key, there)}. "
                f"They have {', '.join(f'{name} ({there[name]})' for name in common) or 'no keys at all'}; "
                "name one of them, or take the key out"
            )
    return {key: {"images": have[key], "without": total - have[key]} for key in keys}


def _places(sample: Sample) -> tuple[dict[str, Any], ...]:
    return sample.scene or {}, sample.extra, fields(sample)


def _names(held: object) -> bool:
    """Whether a value could be the name of a group."""
    return isinstance(held, (str, int)) and held != ""
