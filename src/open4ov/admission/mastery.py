"""Rejection sampling for difficulty (paper §3.2.2-3.2.3): how often does the current model answer a sample rightly?

A sample is answered a few times at temperature 1. Its level is that of its pass rate: mastered from `mastered_at` on,
unmastered up to `unmastered_at`, partial in between; at the defaults of 0.9 and 0.1, and fewer than ten responses, that
is all right, none right, and the rest. How sure that is stands beside it (`posterior.py`), and where the first
responses leave it undecided more can be asked for.

The cost is bounded: at most a stated number of samples are rolled out, spread over the topics; the others take the mean
pass rate of their topic, with the wide interval that such a guess has (`extra["graded_by"]` says which it was).

`extra["grade"]` of a graded sample: `mastered`, `partial`, `unmastered` (probabilities), `confidence` (that of its
level), `low` and `high` (95 % interval of the pass rate); `right` of `of` responses, of which `truncated` were cut off
and count as wrong; `unverified` ones have no verdict and count in neither; or, for a topic's, `of_topic` samples.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, cast

from PIL import Image

from open4ov.admission import posterior
from open4ov.admission.posterior import Belief
from open4ov.admission.regrade import keeps, kept, rolled_out
from open4ov.admission.resample import resample, weight
from open4ov.errors import UserError
from open4ov.recipe_mastery import MasterySection
from open4ov.rollout_book import Book, Cost, Rollout, rule_key
from open4ov.rollouts import Answers, Sampling, digest, reference, roll, unaskable
from open4ov.sample import Sample
from open4ov.verifier import Verifier

__all__ = ["Examination", "Tally", "choose", "examine", "resample", "sampling_of", "topic", "weight"]

NOT_CHOSEN = "neither it nor another sample of its topic was rolled out"


@dataclass
class Tally:
    """What became of a sample's rollouts. `reason`: why the verifier gave no verdict on one."""

    right: int = 0
    of: int = 0
    truncated: int = 0
    unverified: int = 0
    reason: str = ""

    @property
    def rate(self) -> float:
        return self.right / self.of


@dataclass
class Examination:
    """`samples`: all of them, in their order, graded where they could be; `ungraded`: id -> why not; `tallies`: of
    those rolled out now, by id; `kept`: ids whose earlier grade stays; `cost`: what was computed now."""

    samples: list[Sample]
    ungraded: dict[str, str]
    tallies: dict[str, Tally]
    kept: list[str]
    cost: Cost = field(default_factory=Cost)


def examine(
    samples: Sequence[Sample],
    engine: Answers,
    image: Callable[[str], Image.Image],
    options: MasterySection,
    verifier: Verifier,
    seed: int,
    book: Book | None = None,
    model: str | None = None,
    iteration: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Examination:
    """Grades samples by the engine's current weights.

    Responses that `book` holds are not asked for again, and new ones go into it. `model`: the engine's digest, if it is
    known. From `iteration` 1 on the samples bring their earlier grades, and some mastered ones keep them
    (`regrade.keeps`). Ids must be unique. Raises UserError for a verifier that gives no verdict at all.
    """
    if model is None:
        model = "" if book is None else digest(engine)
    if book is None:
        book = Book()
    stay = [i for i, s in enumerate(samples) if iteration and keeps(s, options.mastered_again, iteration)]
    chosen = choose(samples, options.samples, seed, set(stay), options.open_answers)
    asked = [samples[i] for i in chosen]
    sampling = sampling_of(options, seed)
    most = options.most_rollouts or options.rollouts
    counts = {sample.id: options.rollouts for sample in asked}
    tallies: dict[str, Tally] = {}
    refused: dict[str, str] = {}
    cost = Cost()
    undecided = asked
    while undecided:
        told = None if progress is None else _named(progress, "grading difficulty")
        wanted = {sample.id: counts[sample.id] for sample in undecided}
        rolled = roll(undecided, wanted, engine, image, model, sampling, book, told)
        cost, refused = cost + rolled.cost, {**refused, **rolled.refused}
        undecided = [sample for sample in undecided if sample.id not in rolled.refused]
        tallies |= verified(undecided, rolled.groups, model, sampling, verifier, book, options.open_answers)
        undecided = [s for s in undecided if counts[s.id] < most and not _decided(tallies[s.id], options)]
        for sample in undecided:
            counts[sample.id] = min(most, counts[sample.id] + options.rollouts)
    _check_verdicts(tallies, verifier)
    used = sum(tally.of + tally.unverified for tally in tallies.values())
    cost = replace(cost, found=used - cost.rollouts)  # not those that an earlier round of this grading has asked for
    why = {sample.id: reason for sample in samples if (reason := unaskable(sample, options.open_answers))}
    why |= {name: f"the verifier gave no verdict ({tally.reason})" for name, tally in tallies.items() if not tally.of}
    why |= refused
    graded = _graded(samples, set(stay), {name: tally for name, tally in tallies.items() if tally.of}, why, options)
    return Examination(graded, why, tallies, [samples[i].id for i in stay], cost)


def sampling_of(options: MasterySection, seed: int) -> Sampling:
    """How the recipe's options have responses drawn."""
    return Sampling(options.temperature, 1.0, options.max_tokens, options.boxed, seed)


def choose(
    samples: Sequence[Sample], limit: int, seed: int, without: set[int] | None = None, open_answers: bool = False
) -> list[int]:
    """Indices of the samples to roll out: one of each topic in turn, at random inside a topic, at most `limit`; none of
    those in `without`."""
    rng = random.Random(f"difficulty choice {seed}")
    topics: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        if not unaskable(sample, open_answers):
            topics.setdefault(topic(sample), []).append(i)
    for members in topics.values():
        rng.shuffle(members)
    queues = [topics[name] for name in sorted(topics)]
    rng.shuffle(queues)
    queues = [[i for i in queue if not without or i not in without] for queue in queues]
    chosen: list[int] = []
    depth = 0
    while len(chosen) < limit and any(depth < len(queue) for queue in queues):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
        depth += 1
    return sorted(chosen[:limit])


def topic(sample: Sample) -> str:
    """What samples share a grade by: the first topic, else the task; and the language."""
    return f"{sample.language}/{sample.topics[0] if sample.topics else sample.task}"


def verified(
    samples: Sequence[Sample],
    groups: Mapping[str, Sequence[Rollout]],
    model: str,
    sampling: Sampling,
    verifier: Verifier,
    book: Book,
    open_answers: bool = False,
) -> dict[str, Tally]:
    """The tally of each sample's rollouts. Verdicts that the book has are not asked for again; those that a verifier
    did not give are not kept, so that a later run asks again."""
    tallies: dict[str, Tally] = {}
    for sample in samples:
        answer = reference(sample, open_answers)
        key = sampling.asking(model, sample).key
        rule = rule_key(verifier.identity or "", answer, sample.aliases)
        tally = tallies[sample.id] = Tally()
        fresh: list[tuple[bytes, int, bytes, bool]] = []
        for one in groups[sample.id]:
            if one.truncated:
                tally.truncated += 1
                tally.of += 1
                continue
            right = book.verdict(key, one.number, rule) if verifier.identity else None
            if right is None:
                said = verifier.verdict(one.response, answer, sample.aliases)
                if said.right is None:
                    tally.unverified += 1
                    tally.reason = said.reason
                    continue
                right = said.right
                fresh.append((key, one.number, rule, right))
            tally.of += 1
            tally.right += right
        if fresh and verifier.identity:
            book.judged(fresh)
    return tallies


def _graded(
    samples: Sequence[Sample],
    stay: set[int],
    tallies: Mapping[str, Tally],
    why: dict[str, str],
    options: MasterySection,
) -> list[Sample]:
    """The samples with what is known of them now. `why` some cannot be graded is completed: id -> reason."""
    at = options.mastered_at, options.unmastered_at
    topics: dict[str, list[tuple[int, int]]] = {}
    for i, sample in enumerate(samples):
        tally = tallies.get(sample.id)
        before = _counted(sample) if i in stay else None
        if tally or before:
            topics.setdefault(topic(sample), []).append((tally.right, tally.of) if tally else before or (0, 0))
    beliefs: dict[str, Belief] = {}
    graded: list[Sample] = []
    for i, sample in enumerate(samples):
        tally, name = tallies.get(sample.id), topic(sample)
        if i in stay:
            graded.append(kept(sample))
        elif tally:
            belief = posterior.own(tally.right, tally.of, *at)
            facts = {"right": tally.right, "of": tally.of, "truncated": tally.truncated, "unverified": tally.unverified}
            graded.append(_with(sample, tally.rate, "rollouts", belief, facts, options))
        elif sample.id in why or name not in topics:
            graded.append(_ungraded(sample, why.setdefault(sample.id, NOT_CHOSEN)))
        else:
            shared = topics[name]
            belief = beliefs.get(name) or beliefs.setdefault(name, posterior.shared(shared, *at))
            rate = fmean(right / of for right, of in shared)
            graded.append(_with(sample, rate, "topic", belief, {"of_topic": len(shared)}, options))
    return graded


def _with(
    sample: Sample, rate: float, source: str, belief: Belief, facts: dict[str, int], options: MasterySection
) -> Sample:
    level = posterior.level(rate, options.mastered_at, options.unmastered_at)
    names = ("mastered", "partial", "unmastered", "low", "high")
    shares = {name: round(getattr(belief, name), 4) for name in names}
    extra = {name: value for name, value in sample.extra.items() if name != "ungraded"}
    told = {"graded_by": source, "grade": {**shares, "confidence": round(belief.of(level), 4), **facts}}
    return sample.model_copy(update={"pass_rate": rate, "mastery": level, "extra": {**extra, **told}})


def _ungraded(sample: Sample, reason: str) -> Sample:
    """Without a grade, whatever it had before, and with the reason."""
    extra = {name: value for name, value in sample.extra.items() if name not in ("graded_by", "grade")}
    return sample.model_copy(update={"pass_rate": None, "mastery": None, "extra": {**extra, "ungraded": reason}})


def _decided(tally: Tally, options: MasterySection) -> bool:
    if not tally.of:  # a verifier that says nothing would say nothing of further responses either
        return True
    belief = posterior.own(tally.right, tally.of, options.mastered_at, options.unmastered_at)
    level = posterior.level(tally.rate, options.mastered_at, options.unmastered_at)
    return belief.of(level) >= options.confidence


def _check_verdicts(tallies: Mapping[str, Tally], verifier: Verifier) -> None:
    """A verifier that gave no verdict at all is broken, and grades of cut-off responses alone would be worth
    nothing."""
    silent = [tally for tally in tallies.values() if tally.unverified]
    if silent and not any(tally.of > tally.truncated for tally in tallies.values()):
        raise UserError(
            f"{verifier.key}: gave no verdict on any response ({silent[0].reason}); mend it or name another"
        )


def _counted(sample: Sample) -> tuple[int, int] | None:
    """(right, of) of an earlier grade by rollouts."""
    grade = cast("dict[str, Any]", sample.extra.get("grade") or {})
    return (grade["right"], grade["of"]) if rolled_out(sample) and grade.get("of") else None


def _named(progress: Callable[[str, int, int], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
