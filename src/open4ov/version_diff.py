"""What has changed between two versions of a data set: as figures, as a table for the terminal, and as a page.

Both sets are gone through twice and never held: 16 bytes a sample in memory, and what is shown.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from open4ov import templates
from open4ov.errors import UserError
from open4ov.sample import Sample
from open4ov.store import ImageStore
from open4ov.versions import fields, fingerprint

Change = Literal["added", "removed", "changed"]
CHANGES: tuple[Change, ...] = ("added", "removed", "changed")
SHOWN = 6
"""Examples of each kind of change: those with the smallest digests, so the same ones each time."""


def diff(old: Iterable[Sample], new: Iterable[Sample], shown: int = SHOWN) -> dict[str, Any]:
    """Numbers of samples added, removed, changed (same id, other content: `versions.fields`) and kept; the same by
    task, label, language and source; which fields changed; and `shown` examples of each.

    Both must be such that they can be gone through twice (`versions.Stored`, a list).
    """
    for one in (old, new):
        if iter(one) is one:
            raise ValueError("diff goes through its sets twice; give lists or versions.Stored, not iterators")
    before, after = Prints(old), Prints(new)
    by: dict[str, dict[str, Counter[str]]] = {name: {} for name in ("task", "label", "language", "source")}
    counts: Counter[str] = Counter()
    examples: dict[Change, _Smallest] = {change: _Smallest(shown) for change in CHANGES}
    was: dict[str, dict[str, int]] = {}
    altered: Counter[str] = Counter()

    def note(sample: Sample, change: Change) -> None:
        counts[change] += 1
        for name, values in _places(sample).items():
            for value in values:
                by[name].setdefault(value, Counter())[change] += 1
        examples[change].offer(sample)

    for sample, found in _unlike(old, before, after):
        if found == _ABSENT:
            note(sample, "removed")
        else:
            was[sample.id] = _hashes(sample)
    for sample, found in _unlike(new, after, before):
        if found == _ABSENT:
            note(sample, "added")
        else:
            note(sample, "changed")
            now, then = _hashes(sample), was[sample.id]
            altered.update(name for name in now if now[name] != then[name])
    counts["kept"] = int((after.against(before) == _SAME).sum())
    return {
        **{change: counts[change] for change in (*CHANGES, "kept")},
        "fields": dict(sorted(altered.items())),
        "by": {
            name: {value: {change: found[change] for change in CHANGES} for value, found in sorted(values.items())}
            for name, values in by.items()
        },
        "examples": {change: [_shown(sample) for sample in examples[change].samples()] for change in CHANGES},
    }


def to_text(found: dict[str, Any]) -> str:
    """The diff as a table for a terminal."""
    lines = [", ".join(f"{found[change]:,} {change}" for change in (*CHANGES, "kept"))]
    if found["fields"]:
        lines.append("changed in " + ", ".join(f"{name} ({count:,})" for name, count in found["fields"].items()))
    for name, values in found["by"].items():
        if not values:
            continue
        width = max(len(name), *(len(value) for value in values))
        lines.append(f"\n{name:<{width}}  {'added':>9} {'removed':>9} {'changed':>9}")
        for value, counted in values.items():
            lines.append(f"{value:<{width}}  " + " ".join(f"{counted[change]:>9,}" for change in CHANGES))
    return "\n".join(lines)


def page(found: dict[str, Any], old: str, new: str, pictures: ImageStore) -> str:
    """The diff as one self-contained page with example pictures. `old`, `new`: what the two are called."""
    environment = templates.environment("open4ov")
    examples = {
        change: [
            {**one, "pictures": [templates.stored_uri(pictures, sha) for sha in one["images"][:2]]} for one in shown
        ]
        for change, shown in found["examples"].items()
    }
    return environment.get_template("version_diff.html.jinja").render(
        found=found, old=old, new=new, examples=examples, changes=CHANGES
    )


_ABSENT, _OTHER, _SAME = range(3)


class Prints:
    """What the samples of a set are by their ids, both in 64 bits and in their order: of a million samples, two ids are
    taken for one with a probability of 3e-8."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        keys, prints = bytearray(), bytearray()
        for sample in samples:
            keys += _key(sample.id).to_bytes(8, "big")
            prints += fingerprint(sample)[:8]
        self.keys = np.frombuffer(bytes(keys), ">u8").astype(np.uint64)
        self.prints = np.frombuffer(bytes(prints), ">u8").astype(np.uint64)
        self._order = np.argsort(self.keys, kind="stable")
        self._sorted = self.keys[self._order]
        if bool((self._sorted[1:] == self._sorted[:-1]).any()):
            raise UserError("a set has two samples of one id, and cannot be compared; import it anew")

    def has(self, name: str) -> bool:
        """Whether a sample has this id."""
        key = np.uint64(_key(name))
        at = int(np.searchsorted(self._sorted, key))
        return at < len(self._sorted) and bool(self._sorted[at] == key)

    def against(self, other: Prints) -> NDArray[np.uint8]:
        """What another set has of each sample: nothing, other content, or the same."""
        found = np.full(len(self.keys), _ABSENT, np.uint8)
        if not len(other.keys):
            return found
        at = np.minimum(np.searchsorted(other._sorted, self.keys), len(other.keys) - 1)
        there = other._sorted[at] == self.keys
        same = other.prints[other._order[at]] == self.prints
        found[there] = np.where(same[there], _SAME, _OTHER)
        return found


def _unlike(samples: Iterable[Sample], mine: Prints, other: Prints) -> Iterator[tuple[Sample, int]]:
    """The samples that the other set does not have as they are; they are not read again when there are none."""
    found = mine.against(other)
    if bool((found == _SAME).all()):
        return
    for sample, about in zip(samples, found, strict=True):
        if about != _SAME:
            yield sample, int(about)


class _Smallest:
    """The samples with the smallest digests of their ids, out of all that are offered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: list[tuple[int, Sample]] = []

    def offer(self, sample: Sample) -> None:
        key = _key(sample.id)
        if len(self._held) < self._most or (self._held and key < self._held[-1][0]):
            self._held = sorted([*self._held, (key, sample)], key=lambda item: item[0])[: self._most]

    def samples(self) -> Iterator[Sample]:
        return (sample for _, sample in self._held)


def _key(name: str) -> int:
    return _short(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())


def _short(whole: bytes) -> int:
    return int.from_bytes(whole[:8], "big")


def _hashes(sample: Sample) -> dict[str, int]:
    return {
        name: _short(hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).digest())
        for name, value in fields(sample).items()
    }


def _places(sample: Sample) -> dict[str, list[str]]:
    labels = {f"{one.axis}: {' ~ '.join(filter(None, (one.l1, one.l2)))}" for one in sample.labels}
    return {
        "task": [sample.task],
        "label": sorted(labels) or ["(no label)"],
        "language": [sample.language],
        "source": [sample.source],
    }


def _shown(sample: Sample) -> dict[str, Any]:
    said = [{"role": message.role, "text": message.text} for message in sample.messages]
    return {
        "id": sample.id,
        "task": sample.task,
        "language": sample.language,
        "source": sample.source,
        "images": list(sample.images),
        "messages": said,
    }
