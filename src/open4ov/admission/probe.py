"""Held-out questions that a model is asked before and after a training on new data.

They must be right whatever the new data are like: a corrupted set would be judged by its own corrupted answers. So they
come from a set that somebody trusts, from the corpus that drew the pictures (its split `val`, which neither trains nor
is in any table), or, where there is neither, from the split `val` of the new data, which the verdict then says.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from open4ov import corpora
from open4ov.corpora import TASKS, in_car
from open4ov.corpora.generate import CHINESE_TASKS
from open4ov.corpora.in_car.knowledge import Language
from open4ov.errors import UserError
from open4ov.picture_groups import names
from open4ov.sample import Sample
from open4ov.store import ImageStore

LEAST = 20
"""Fewer questions than this are refused: no test tells anything"""

LANGUAGES: tuple[Language, ...] = ("en", "zh")
Progress = Callable[[int, int], None]


def from_samples(
    samples: Iterable[Sample], name: str, split: str | None = "val", hint: str = "data.hygiene.val sets some aside"
) -> list[Sample]:
    """The samples that can be asked: those of the split (None: any) that end with an answer and have a reference.

    Raises UserError, naming the probe, when there are fewer than `LEAST`, with a `hint` at what to do.
    """
    everything = list(samples)
    held = [s for s in everything if split is None or s.split == split]
    found = [s for s in held if s.answer and s.answer.strip() and [m.role for m in s.messages][-2:] == _LAST]
    if len(found) < LEAST:
        where = f"of split {split} " if split else ""
        raise UserError(
            f"{name}: {len(found)} questions {where}with a reference answer among {len(everything)} samples; an "
            f"assessment needs {LEAST} at least" + (f" ({hint})" if split else "")
        )
    return found


def blocks(samples: Sequence[Sample], size: int, rounds: int, seed: int) -> list[list[Sample]]:
    """Up to `rounds` disjoint lists of up to `size` questions: every picture once at most, tasks and labels in turn.

    Two questions about one picture are no independent questions. Pictures run out before questions do: then there are
    fewer, and the last list may be shorter.
    """
    rng = random.Random(f"probe {seed}")
    shuffled = rng.sample(list(samples), len(samples))
    places: dict[tuple[str, ...], list[Sample]] = {}
    for sample in shuffled:
        places.setdefault((sample.task, sample.language, *sorted(_labels(sample))), []).append(sample)
    queues = [places[key] for key in sorted(places)]
    rng.shuffle(queues)
    seen: set[str] = set()
    order: list[Sample] = []
    while any(queues) and len(order) < size * rounds:
        for queue in queues:
            while queue:
                one = queue.pop()
                if not one.images or not seen & set(one.images):
                    seen |= set(one.images)
                    order.append(one)
                    break
    del order[size * rounds :]
    return [order[start : start + size] for start in range(0, len(order), size)]


def apart(
    rounds: Sequence[dict[str, list[Sample]]], batch: Sequence[Sample], general: Sequence[Sample], given: str | None
) -> tuple[list[Sample], list[Sample], list[str]]:
    """(the batch, the general set, what to say): without samples that have a picture that a question asks about.

    `given`: the name of a probe that the user gave; the batch having its pictures raises UserError: it is no trusted
    probe of these data, or the data have been made of it.
    """
    asked = {
        probe: {name for block in rounds for question in block[probe] for name in names(question)}
        for probe in ("vertical", "general")
    }
    if given is not None and (both := [s for s in batch if not asked["vertical"].isdisjoint(names(s))]):
        raise UserError(
            f"{given}: {len(both)} samples of the new data have pictures or ids of its questions; the first: sample "
            f"{both[0].id}. Held-out questions must not be trained on: name another probe, or take these samples out"
        )
    every, told = asked["vertical"] | asked["general"], list[str]()
    kept: list[list[Sample]] = []
    for what, samples in (("the new data", batch), ("the general set", general)):
        left = [sample for sample in samples if every.isdisjoint(names(sample))]
        if len(left) < len(samples):
            told.append(
                f"{what}: {len(samples) - len(left)} samples have a picture that is asked about, and are left out"
            )
        kept.append(left)
    if not kept[0]:
        raise UserError("the new data: all their pictures are asked about; nothing is left to train on")
    return kept[0], kept[1], told


def in_car_questions(
    count: int, seed: int, store: ImageStore, symbols: Sequence[str] | None = None, progress: Progress | None = None
) -> list[Sample]:
    """`count` questions on renderings of split val, a picture each, about all symbols or those named; tasks and
    languages in turn."""
    kinds: list[tuple[str, Language]] = [(task, language) for task in in_car.TASKS for language in LANGUAGES]
    found: list[Sample] = []
    for index, item in enumerate(islice(in_car.pictures("val", count, seed, symbols), count)):
        task, language = kinds[(index + index // len(kinds)) % len(kinds)]
        found.append(in_car.asked(item, language, task).store(store))
        if progress:
            progress(index + 1, count)
    return found


def general_questions(count: int, seed: int, store: ImageStore, progress: Progress | None = None) -> list[Sample]:
    """`count` questions of the general corpora's split val: every task, a picture each; one in five in Chinese."""
    found: list[Sample] = []
    for place, task in enumerate(TASKS):
        share = count * (place + 1) // len(TASKS) - count * place // len(TASKS)
        chinese = share // 5 if task in CHINESE_TASKS else 0
        found += [item.store(store) for item in corpora.generate(task, "val", share - chinese, seed)]
        if chinese:
            found += [item.store(store) for item in corpora.generate(task, "val", chinese, seed, "zh")]
        if progress:
            progress(len(found), count)
    return found


_LAST = ["user", "assistant"]


def _labels(sample: Sample) -> list[str]:
    return [f"{label.axis} {label.l1}" for label in sample.labels]
