"""What has changed between two versions of a data set: as figures, as a table for the terminal, and as a page.

Both sets are gone through twice and never held: 16 bytes a sample in memory, and what is shown.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import jinja2
import numpy as np

from open4ov.errors import UserError
from open4ov.images import ImageError
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

    for sample in old:
        if (there := after.of(sample.id)) is None:
            note(sample, "removed")
        elif there != _short(fingerprint(sample)):
            was[sample.id] = _hashes(sample)
    for sample in new:
        if (there := before.of(sample.id)) is None:
            note(sample, "added")
        elif there == _short(fingerprint(sample)):
            counts["kept"] += 1
        else:
            note(sample, "changed")
            now, then = _hashes(sample), was[sample.id]
            altered.update(name for name in now if now[name] != then[name])
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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("open4ov", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    examples = {
        change: [{**one, "pictures": [_picture(pictures, sha) for sha in one["images"][:2]]} for one in shown]
        for change, shown in found["examples"].items()
    }
    return environment.get_template("version_diff.html.jinja").render(
        found=found, old=old, new=new, examples=examples, changes=CHANGES
    )


class Prints:
    """What the samples of a set are by their ids, both in 64 bits: of a million samples, two ids are taken for one
    with a probability of 3e-8."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        keys, prints = bytearray(), bytearray()
        for sample in samples:
            keys += _key(sample.id).to_bytes(8, "big")
            prints += _short(fingerprint(sample)).to_bytes(8, "big")
        unsorted = np.frombuffer(bytes(keys), ">u8").astype(np.uint64)
        order = np.argsort(unsorted, kind="stable")
        self._keys = unsorted[order]
        self._prints = np.frombuffer(bytes(prints), ">u8").astype(np.uint64)[order]
        if len(self._keys) > 1 and bool((self._keys[1:] == self._keys[:-1]).any()):
            raise UserError("a set has two samples of one id, and cannot be compared; import it anew")

    def of(self, name: str) -> int | None:
        key = np.uint64(_key(name))
        at = int(np.searchsorted(self._keys, key))
        return int(self._prints[at]) if at < len(self._keys) and self._keys[at] == key else None


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


def _picture(store: ImageStore, sha: str) -> str | None:
    """The picture as a data URI; None when it is not to be had: a page about samples is of use without it."""
    try:
        return "data:image/png;base64," + base64.b64encode(store.png(sha)).decode()
    except (ImageError, OSError):
        return None
