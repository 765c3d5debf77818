"""What data construction reports: counts at each step, density, votes, and how many known defects were caught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from open4ov.data import judge, verify
from open4ov.data.defects import KINDS
from open4ov.data.labels import LabelTree
from open4ov.data.topics import Topic
from open4ov.sample import Sample

_SAID = {"no": "said 0", "abstain": "abstained", "missing": "gave no usable answer"}


def figures(
    images: Sequence[Sample],
    scored: Sequence[Sample],
    everything: Sequence[Sample],
    tree: LabelTree,
    topics: Sequence[Topic],
    skipped: Sequence[dict[str, str]],
    barren: Sequence[dict[str, str]],
) -> dict[str, Any]:
    """The contents of report.json. `everything`: clean and defective samples after judging and verification."""
    clean = [sample for sample in everything if "defect" not in sample.extra]
    kept = [sample for sample in clean if "rejected_by" not in sample.extra]
    ids = [sample.density["ids"] for sample in scored]
    return {
        "counts": {
            "images": len(images),
            "images_skipped": len(skipped),
            "topics": len(topics),
            "made": len(clean),
            "kept": len(kept),
            "rejected": len(clean) - len(kept),
            "defects": len(everything) - len(clean),
        },
        "labels": {"version": tree.version, "ids": len(tree.ids()), "pairs_without_topics": list(barren)},
        "density": {
            "ids_mean": float(np.mean(ids)) if ids else None,
            "budgets": dict(sorted(Counter(str(sample.budget) for sample in scored).items())),
        },
        "tasks": dict(sorted(Counter(sample.task for sample in kept).items())),
        "languages": dict(sorted(Counter(sample.language for sample in kept).items())),
        "topics_used": dict(sorted(Counter(sample.topics[0] for sample in kept).items())),
        "votes": judge.agreement(clean),
        "verification": verify.scores(clean),
        "votes_on_defects": {
            kind: judge.agreement([s for s in everything if s.extra.get("defect") == kind])["judges"] for kind in KINDS
        },
        "defects": {kind: _caught([s for s in everything if s.extra.get("defect") == kind]) for kind in KINDS},
        "false_rejections": {**_caught(clean), "reasons": _why(clean)},
        "skipped": list(skipped),
    }


def synthesis(made: Sequence[Sample], dropped: Mapping[str, int]) -> dict[str, Any]:
    """What was written: samples by question type and language, those that are an annotation's own, and the pairs left
    out with the reason."""
    return {
        "types": dict(sorted(Counter(str(sample.extra.get("type", "of the corpus")) for sample in made).items())),
        "languages": dict(sorted(Counter(sample.language for sample in made).items())),
        "annotated": sum("annotation" in sample.extra for sample in made),
        "dropped": dict(sorted(dropped.items())),
    }


def add_hygiene(figures: dict[str, Any], found: dict[str, Any], images: int, unclean: Sequence[Sample]) -> None:
    """Adds what hygiene did, if it was asked for: `images` given to it, and the samples it took out."""
    if found:
        figures["counts"] |= {"images": images, "hygiene_rejected": len(unclean)}
        why = Counter(str(sample.extra["rejected_by"]) for sample in unclean)
        figures["hygiene"] = {**found, "samples_rejected": dict(sorted(why.items()))}


def reasons(report: dict[str, Any]) -> str:
    """The commonest reasons why images and samples fell out, in a line for a person."""
    return " ".join(f"{count} × {reason}." for reason, count in list(fallen_out(report).items())[:3])


def fallen_out(report: dict[str, Any]) -> dict[str, int]:
    """How many images and samples fell out for what, the commonest reason first."""
    counted = Counter(entry["reason"] for entry in report["skipped"])
    counted.update(report["false_rejections"]["reasons"])
    return dict(counted.most_common())


def _caught(samples: Sequence[Sample]) -> dict[str, Any]:
    """How many were rejected, by whom, and the share; for clean samples the share is the false-rejection rate."""
    by = Counter(str(sample.extra["rejected_by"]) for sample in samples if "rejected_by" in sample.extra)
    total = sum(by.values())
    return {
        "samples": len(samples),
        "rejected": total,
        "by_judges": by["judges"],
        "by_verification": by["verification"],
        "share": total / len(samples) if samples else None,
    }


def _why(samples: Sequence[Sample]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for sample in samples:
        if sample.extra.get("rejected_by") == "judges":
            # counted over judges by verdict, not by wording: a reason may quote the sample
            verdicts = sorted(f"{vote.judge} {_SAID[vote.said]}"
                              for vote in sample.votes if vote.score != 1)  # fmt: skip
            counted["; ".join(verdicts)] += 1
        elif "rejected_by" in sample.extra:
            failed = sorted(name for name, ok in sample.checks.items() if not ok)
            counted[f"verification: {', '.join(failed) or 'no usable answer'}"] += 1
    return dict(sorted(counted.items()))
