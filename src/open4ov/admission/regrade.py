"""Grading again, between iterations (paper §3.2.2-3.2.3): whom to ask again, and what has become of whom."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

from open4ov.admission.resample import LEVELS
from open4ov.sample import Sample


def rolled_out(sample: Sample) -> bool:
    """Whether a sample's grade comes from its own responses."""
    return sample.mastery is not None and sample.extra.get("graded_by") == "rollouts"


def keeps(sample: Sample, again: float, iteration: int) -> bool:
    """Whether a sample keeps its grade instead of being asked at this iteration (the first regrading is 1).

    A share `again` of the mastered samples is asked each time, and over 1 / again iterations each of them once.
    All others are asked.
    """
    if not (rolled_out(sample) and sample.mastery == "mastered") or again >= 1:
        return False
    if again <= 0:
        return True
    digest = hashlib.sha256(f"regrade {sample.id}".encode("utf-8", "surrogatepass")).digest()
    turn = int.from_bytes(digest[:6]) / 2**48
    return math.floor(turn + iteration * again) == math.floor(turn + (iteration - 1) * again)


def kept(sample: Sample) -> Sample:
    """The sample with its earlier grade, marked as one grading older (`extra["grade"]["age"]`)."""
    grade = cast("dict[str, Any]", sample.extra.get("grade") or {})
    return sample.model_copy(update={"extra": {**sample.extra, "grade": {**grade, "age": grade.get("age", 0) + 1}}})


def transitions(before: Iterable[Sample], after: Iterable[Sample]) -> dict[str, dict[str, int]]:
    """From which level to which, for the samples that were asked both times: a table of 3 x 3 counts.

    Grades that were kept, and those that come from the topic, are no answers and do not count.
    """
    earlier = {sample.id: sample.mastery for sample in before if rolled_out(sample)}
    table = {start: dict.fromkeys(LEVELS, 0) for start in LEVELS}
    for sample in after:
        start = earlier.get(sample.id)
        if start is None or sample.mastery is None or not rolled_out(sample) or _age(sample):
            continue
        table[start][sample.mastery] += 1
    return {start: {str(end): count for end, count in row.items()} for start, row in table.items()}


def with_earlier(samples: Sequence[Sample], earlier: Iterable[Sample]) -> list[Sample]:
    """The samples with the grades that the same ones (by id) had: for who reads them anew from a file."""
    known = {sample.id: sample for sample in earlier}
    found: list[Sample] = []
    for sample in samples:
        if (old := known.get(sample.id)) is None or old.mastery is None:
            found.append(sample)
            continue
        extra = {name: old.extra[name] for name in ("graded_by", "grade") if name in old.extra}
        update = {"mastery": old.mastery, "pass_rate": old.pass_rate, "extra": {**sample.extra, **extra}}
        found.append(sample.model_copy(update=update))
    return found


def _age(sample: Sample) -> int:
    return cast("dict[str, Any]", sample.extra.get("grade") or {}).get("age", 0)
