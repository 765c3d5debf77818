"""One source of tasks before it enters the pool (paper §4.1.1: "each source dataset was validated independently ...;
passing subsets underwent manual screening").

    settled answer → cloze → automatic checks → duplicates → decontamination → a sample judged → screening by hand → bar

Whatever is kept out says so in `extra["rejected_by"]` and `extra["reason"]`. A source with more broken samples than
`rl.pool.max_bad` allows is refused as a whole.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from open4ov.recipe_rl_pool import PoolSection, SourceSection
from open4ov.rl.pool import checks, cloze
from open4ov.rl.pool.answer_types import kind
from open4ov.rl.pool.checks import Fault, Opens
from open4ov.rl.rewards import Reward
from open4ov.sample import Sample, Step, content_id

Sift = Callable[[list[Sample]], tuple[list[Sample], list[Sample]]]
"""Samples -> (those that stay, those that go with `extra["rejected_by"]`)"""

DOMAINS = {"corpora": "logical reasoning", "data": "vertical", "documents": "STEM", "sft": "replay", "set": "other"}
"""Of samples whose source names no domain, and which have no label of one"""
SHOWN = 3
"""Examples of each reason in figures and messages"""


@dataclass(frozen=True)
class Judged:
    """What a model says of a sample: 1 sound, 0 broken, None: it cannot tell."""

    score: int | None
    reason: str = ""
    step: Step | None = None


@dataclass(frozen=True)
class Given:
    """A source as it is given. `opens`: of its pictures; `drawn`: by our own generators, which repeat themselves by
    their nature and are disjoint from the evaluation's: nobody is paid to judge what they draw, or set to screen it."""

    section: SourceSection
    samples: Iterable[Sample]
    opens: Opens
    drawn: bool = False


@dataclass(frozen=True)
class Tools:
    """What a source is validated with. `duplicates` and `clean`: near-duplicates of questions, and what stands in
    evaluation sets; `judge`: of so many samples at once; `decided`: a sample as its reviewers want it, and whether it
    stays; None where nobody has decided about it."""

    rule: Reward
    duplicates: Sift
    clean: Sift
    judge: Callable[[Sequence[Sample]], list[Judged]] | None
    decided: Callable[[Sample], tuple[Sample, bool] | None]


@dataclass
class Admitted:
    """A source that was validated: its tasks in the order in which they are taken, what was kept out, what is set out
    to be screened; `refused`: why none of it may be used, `waiting`: how much of the queue has no decision."""

    section: SourceSection
    samples: list[Sample]
    out: list[Sample]
    queue: list[Sample]
    figures: dict[str, Any]
    refused: str = ""
    waiting: int = 0


@dataclass
class _Looked:
    """What was found so far, and the defects among it."""

    kept: list[Sample] = field(default_factory=list[Sample])
    out: list[Sample] = field(default_factory=list[Sample])
    defects: set[str] = field(default_factory=set[str])

    def drop(self, sample: Sample, by: str, reason: str, defect: bool = False) -> None:
        self.out.append(sample.model_copy(update={"extra": {**sample.extra, "rejected_by": by, "reason": reason}}))
        if defect:
            self.defects.add(sample.id)

    def sift(self, sift: Sift) -> None:
        self.kept, gone = sift(self.kept)
        self.out += gone


def admit(given: Given, section: PoolSection, tools: Tools, seed: int, seen: set[str]) -> Admitted:
    """Validates a source. `seen`: ids and questions of the sources before it, to which its own are added."""
    name = given.section.title
    rng = random.Random(f"rl pool {seed} {name}")
    candidates = _candidates(given, rng)
    looked = _Looked()
    for sample in candidates:
        _look(sample, given, section, tools, looked)
    if not given.drawn:
        for place, reason in sorted(checks.contradicting(looked.kept).items(), reverse=True):
            looked.drop(looked.kept.pop(place), "contradiction", reason, defect=True)
        looked.sift(tools.duplicates)
        looked.sift(tools.clean)
    _once(looked, seen, given.drawn)
    if not given.drawn:
        rng.shuffle(looked.kept)
    judged = {} if given.drawn else _judge(looked, section, tools, rng)
    queue = [] if given.drawn else _queue(looked.kept, judged, section.queue, rng)
    decided, rejected = _screen(looked, given, section, tools)
    waiting = sum(tools.decided(sample) is None for sample in queue)
    figures: dict[str, Any] = {
        "name": name,
        "kind": given.section.kind,
        "share": given.section.share,
        "candidates": len(candidates),
        "admitted": len(looked.kept),
        "cloze": sum("cloze" in sample.extra for sample in looked.kept),
        "broken": len(looked.defects),
        "judged": {
            "sound": sum(one.score == 1 for one in judged.values()),
            "broken": sum(one.score == 0 for one in judged.values()),
            "unsure": sum(one.score is None for one in judged.values()),
        },
        "screened": {"queue": len(queue), "waiting": waiting, "decided": decided, "rejected": rejected},
        "excluded": dict(Counter(str(sample.extra["rejected_by"]) for sample in looked.out).most_common()),
        "examples": _examples(looked.out),
    }
    kept = [_marked(sample, given.section, section) for sample in looked.kept]
    return Admitted(given.section, kept, looked.out, queue, figures, _refused(figures, looked, section), waiting)


def _candidates(given: Given, rng: random.Random) -> list[Sample]:
    wanted = set(given.section.tasks)
    found = [sample for sample in given.samples if not wanted or sample.task in wanted]
    most = given.section.most
    if most is None or len(found) <= most:
        return found
    return [found[place] for place in sorted(rng.sample(range(len(found)), most))]


def _look(sample: Sample, given: Given, section: PoolSection, tools: Tools, looked: _Looked) -> None:
    """One sample by itself: kept, or out."""
    if sample.split != "train":
        looked.drop(sample, "split", f"is of split {sample.split}")
        return
    if by := sample.extra.get("rejected_by"):
        looked.drop(sample, "earlier", f"was rejected by {by}: {sample.extra.get('reason', '')}")
        return
    one = checks.settled(sample)
    opened = cloze.opened(one, section.answer_words) if section.cloze else one
    if isinstance(opened, cloze.Closed):
        looked.drop(one, f"cloze_{opened.reason}", opened.text, opened.reason in cloze.DEFECTS)
        return
    one = checks.settled(opened)
    found = checks.fault(one, tools.rule, given.opens, section.answer_words) or _of_kind(one, given.section)
    if found is not None:
        looked.drop(one, found.by, found.reason, found.defect)
    else:
        looked.kept.append(one)


def _of_kind(sample: Sample, source: SourceSection) -> Fault | None:
    """A document's item needs its picture: "retain only question instances that require image evidence"."""
    if source.kind == "documents" and not sample.images:
        return Fault("picture", "has no picture, which a document's item needs")
    return None


def _once(looked: _Looked, seen: set[str], drawn: bool) -> None:
    """Takes out what an earlier source, or this one, has given already."""
    kept, looked.kept = looked.kept, []
    for sample in kept:
        asked = content_id("asked", sample.images, checks.question_of(sample).casefold())
        if sample.id in seen or (asked in seen and not drawn):
            looked.drop(sample, "again", "an earlier source, or this one, has the same question")
        else:
            seen.update((sample.id, asked))
            looked.kept.append(sample)


def _judge(looked: _Looked, section: PoolSection, tools: Tools, rng: random.Random) -> dict[str, Judged]:
    """Has a sample of the source judged: id -> what was said. Broken ones go."""
    if tools.judge is None or not section.judged:
        return {}
    places = sorted(rng.sample(range(len(looked.kept)), min(section.judged, len(looked.kept))))
    chosen = [looked.kept[place] for place in places]
    found = dict(zip((sample.id for sample in chosen), tools.judge(chosen), strict=True))
    kept, looked.kept = looked.kept, []
    for sample in kept:
        said = found.get(sample.id)
        if said is not None and said.step is not None:
            sample = sample.model_copy(update={"steps": [*sample.steps, said.step]})
        if said is not None and said.score == 0:
            looked.drop(sample, "judge", said.reason or "the judge holds it for broken")
        else:
            looked.kept.append(sample)
    return found


def _queue(kept: Sequence[Sample], judged: dict[str, Judged], count: int, rng: random.Random) -> list[Sample]:
    """What people should look at: what the judge was unsure of, and others at random."""
    unsure = [sample for sample in kept if sample.id in judged and judged[sample.id].score is None][:count]
    names = {sample.id for sample in unsure}
    rest = [sample for sample in kept if sample.id not in names]
    return [*unsure, *rng.sample(rest, min(count - len(unsure), len(rest)))]


def _screen(looked: _Looked, given: Given, section: PoolSection, tools: Tools) -> tuple[int, int]:
    """Does what reviewers have decided: (how many have a decision, how many are out by it)."""
    kept, looked.kept = looked.kept, []
    decided = rejected = 0
    for sample in kept:
        if (said := tools.decided(sample)) is None:
            looked.kept.append(sample)
            continue
        decided += 1
        one, stays = said
        found = checks.fault(one, tools.rule, given.opens, section.answer_words) if stays else None
        if not stays:
            rejected += 1
            looked.drop(one, "screening", "a reviewer has rejected it, or two have fixed it differently")
        elif found is not None:
            rejected += 1
            looked.drop(one, "screening", f"as its reviewer has fixed it, it {found.reason}")
        else:
            looked.kept.append(one)
    return decided, rejected


def _marked(sample: Sample, source: SourceSection, section: PoolSection) -> Sample:
    label = next((label.l1 for label in sample.labels if label.axis == "domain"), None)
    about = {
        "source": source.title,
        "domain": source.domain or label or DOMAINS[source.kind],
        "answer": kind(sample.answer or "", section.answer_words),
    }
    return sample.model_copy(update={"extra": {**sample.extra, "pool": about}})


def _examples(out: Sequence[Sample]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for sample in out:
        shown = found.setdefault(str(sample.extra["rejected_by"]), [])
        if len(shown) < SHOWN:
            asked = checks.question_of(sample)[:160]
            shown.append({"id": sample.id, "question": asked, "reason": str(sample.extra["reason"])})
    return found


def _refused(figures: dict[str, Any], looked: _Looked, section: PoolSection) -> str:
    """Why none of the source may be used; empty when it may."""
    name = figures["name"]
    if not figures["admitted"]:
        told = ", ".join(f"{count} {reason}" for reason, count in figures["excluded"].items()) or "it holds none"
        return (
            f"'{name}': none of its {figures['candidates']} samples is a verifiable task ({told}){_shown(looked.out)}"
        )
    judged, screened = figures["judged"], figures["screened"]
    broken = [sample for sample in looked.out if sample.id in looked.defects]
    by = {by: [s for s in looked.out if s.extra["rejected_by"] == by] for by in ("judge", "screening")}
    for bad, total, what, examples in (
        (figures["broken"], figures["candidates"], "checked samples are broken", broken),
        (judged["broken"], judged["broken"] + judged["sound"], "judged samples are broken", by["judge"]),
        (screened["rejected"], screened["decided"], "samples screened by hand were rejected", by["screening"]),
    ):
        if bad > section.max_bad * total:
            return (
                f"'{name}': {bad} of {total} {what}, more than rl.pool.max_bad = {section.max_bad:g} allows"
                f"{_shown(examples)}"
            )
    return ""


def _shown(samples: Sequence[Sample]) -> str:
    """Examples for a message, of different reasons first."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(str(sample.extra["rejected_by"]), sample)
    names = {sample.id for sample in first.values()}
    rest = islice((sample for sample in samples if sample.id not in names), SHOWN)
    lines = [
        f"\n  {sample.id}: {sample.extra['reason']} ({checks.question_of(sample)[:80]!r})"
        for sample in [*first.values(), *rest][:SHOWN]
    ]
    return ":" + "".join(lines) if lines else ""
