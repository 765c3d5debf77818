"""What a grading has found, as figures and as a table to read; and what it has cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any, cast

from open4ov.admission.mastery import Examination
from open4ov.admission.regrade import rolled_out, transitions
from open4ov.admission.resample import LEVELS, weight
from open4ov.recipe_mastery import MasteryWeights
from open4ov.rollout_book import Cost
from open4ov.sample import Sample

NO_LABEL = "(no label)"
_LISTED = 1000
"""Most ids that are listed for one reason; the counts are of all"""


def report(found: Examination, weights: MasteryWeights, earlier: Iterable[Sample] = ()) -> dict[str, Any]:
    """The figures of a grading, the same for the same responses however and when they were come by.

    levels: samples by level; rolled_out, by_topic, kept: where their grades come from; confidence: the mean one, of
    rolled out samples and of topics' guesses; responses, truncated, unverified: numbers and shares of responses;
    ungraded: reason -> samples; groups: by domain label, by ability label and by task; transitions: from -> to, where
    there are earlier grades; weights: shares of the levels among what resampling draws.
    """
    samples, tallies = found.samples, list(found.tallies.values())
    responses = sum(tally.of + tally.unverified for tally in tallies)
    cut, silent = sum(tally.truncated for tally in tallies), sum(tally.unverified for tally in tallies)
    own = [s for s in samples if rolled_out(s)]
    guessed = [s for s in samples if s.mastery is not None and not rolled_out(s)]
    ungraded: dict[str, list[str]] = {}
    for name, reason in sorted(found.ungraded.items()):
        ungraded.setdefault(reason, []).append(name)
    without_verdict = {name: tally.reason for name, tally in sorted(found.tallies.items()) if tally.unverified}
    before = list(earlier)
    return {
        "samples": len(samples),
        "levels": _levels(samples),
        "rolled_out": len(own) - len(found.kept),
        "kept": len(found.kept),
        "by_topic": len(guessed),
        "confidence": {"rollouts": _mean_confidence(own), "topic": _mean_confidence(guessed)},
        "responses": responses,
        "truncated": {"responses": cut, "share": _share(cut, responses)},
        "unverified": {"responses": silent, "share": _share(silent, responses), "samples": _first(without_verdict)},
        "ungraded": {reason: {"samples": len(ids), "ids": ids[:_LISTED]} for reason, ids in sorted(ungraded.items())},
        "skipped": _share(len(found.kept), len(found.kept) + len(found.tallies)),
        "groups": {
            "domain": _groups(samples, lambda s: [label.l1 for label in s.labels if label.axis == "domain"]),
            "ability": _groups(samples, lambda s: [label.l1 for label in s.labels if label.axis == "ability"]),
            "task": _groups(samples, lambda s: [s.task]),
        },
        "transitions": transitions(before, samples) if before else {},
        "weights": _drawn(samples, weights),
    }


def cost_figures(now: Cost, whole: Cost, seconds: float | None = None) -> dict[str, Any]:
    """What was computed `now`, and the `whole` of what the book holds of this model. `seconds`: of the stage, of which
    the share is told."""
    figures = {**now.figures(), "rollouts_per_second": _share(now.rollouts, now.seconds)}
    figures["tokens_per_second"] = _share(now.response_tokens, now.seconds)
    found = {"now": figures, "book": {k: v for k, v in whole.figures().items() if k != "found"}}
    return found if seconds is None else {**found, "share_of_stage": _share(now.seconds, seconds)}


def table(figures: dict[str, Any]) -> str:
    """The report for reading, in columns."""
    lines = [f"{figures['samples']} samples: {_said(figures['levels'])}"]
    sure = figures["confidence"]
    lines.append(
        f"{figures['rolled_out']} rolled out (mean confidence {_percent(sure['rollouts'])}), {figures['kept']} kept "
        f"their grade, {figures['by_topic']} by their topic (mean confidence {_percent(sure['topic'])})"
    )
    lines.append(
        f"{figures['responses']} responses: {_percent(figures['truncated']['share'])} cut off (wrong), "
        f"{_percent(figures['unverified']['share'])} without a verdict"
    )
    for name, reason in list(figures["unverified"]["samples"].items())[:5]:
        lines.append(f"  no verdict: sample {name}: {reason}")
    for reason, about in figures["ungraded"].items():
        shown = ", ".join(about["ids"][:3]) + (", ..." if about["samples"] > 3 else "")
        lines.append(f"  ungraded: {about['samples']}: {reason} ({shown})")
    for axis, rows in figures["groups"].items():
        width = max([len(axis), *map(len, rows)])
        lines += ["", f"{axis:<{width}}  samples  pass rate  mastered  partial  unmastered  ungraded"]
        for name, row in rows.items():
            rate = "-" if row["pass_rate"] is None else f"{row['pass_rate']:.3f}"
            lines.append(
                f"{name:<{width}}  {row['samples']:>7}  {rate:>9}  {row['mastered']:>8}  {row['partial']:>7}  "
                f"{row['unmastered']:>10}  {row['ungraded']:>8}"
            )
    if figures["transitions"]:
        lines += ["", "from \\ to   " + "  ".join(f"{level:>10}" for level in LEVELS)]
        for start, row in figures["transitions"].items():
            lines.append(f"{start:<12}" + "  ".join(f"{row[level]:>10}" for level in LEVELS))
    lines += ["", "level       share  drawn"]
    for name, row in figures["weights"].items():
        lines.append(f"{name:<10}  {_percent(row['share']):>5}  {_percent(row['drawn']):>5}")
    return "\n".join(lines) + "\n"


def _levels(samples: Iterable[Sample]) -> dict[str, int]:
    counts = Counter(sample.mastery or "ungraded" for sample in samples)
    return {name: counts[name] for name in (*LEVELS, "ungraded")}


def _groups(samples: Sequence[Sample], names: Callable[[Sample], list[str]]) -> dict[str, Any]:
    members: dict[str, list[Sample]] = {}
    for sample in samples:
        for name in dict.fromkeys(names(sample)) or (NO_LABEL,):
            members.setdefault(name, []).append(sample)
    rows: dict[str, Any] = {}
    for name, group in sorted(members.items()):
        rates = [s.pass_rate for s in group if s.pass_rate is not None]
        rows[name] = {
            "samples": len(group),
            "pass_rate": round(fmean(rates), 4) if rates else None,
            **_levels(group),
        }
    return rows


def _drawn(samples: Sequence[Sample], weights: MasteryWeights) -> dict[str, dict[str, float | None]]:
    drawn: Counter[str] = Counter()
    for sample in samples:
        drawn[sample.mastery or "ungraded"] += weight(sample, weights)  # pyright: ignore[reportArgumentType]
    counts, total = _levels(samples), sum(drawn.values())
    return {
        name: {"share": _share(count, len(samples)), "drawn": _share(drawn[name], total)}
        for name, count in counts.items()
    }


def _mean_confidence(samples: Sequence[Sample]) -> float | None:
    known = [cast("dict[str, float]", s.extra["grade"])["confidence"] for s in samples if "grade" in s.extra]
    return round(fmean(known), 4) if known else None


def _first(named: dict[str, str]) -> dict[str, str]:
    return dict(list(named.items())[:_LISTED])


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _said(levels: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in levels.items())
