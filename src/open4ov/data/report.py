"""What data construction reports: counts at each step, density, votes, and how many known defects were caught."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from open4ov.data import judge, panel, verify, votes, wishes
from open4ov.data.defects import KINDS
from open4ov.data.labels import LabelTree
from open4ov.data.working import Counts, add
from open4ov.mllm.ask import PASSING
from open4ov.sample import Sample
from open4ov.store import atomic

_SAID = {"no": "said 0", "abstain": "abstained", "missing": "gave no usable answer"}


def count(samples: Sequence[Sample], quorum: int) -> Counts:
    """What `figures` needs to know of clean and defective samples after judging and verification.

    Adds up over chunks.
    """
    clean = [sample for sample in samples if "defect" not in sample.extra]
    kept = [sample for sample in clean if "rejected_by" not in sample.extra]
    return {
        "kept": len(kept),
        "tasks": Counter(sample.task for sample in kept),
        "languages": Counter(sample.language for sample in kept),
        "topics": Counter(sample.topics[0] for sample in kept),
        "verification": verify.scores(clean),
        "reasons": _why(clean),
        "by": _by(samples),
        "undecided": sum(judge.verdict(one.votes, quorum).outcome == "undecided" for one in samples),
        "panel": panel.count(samples, quorum),
    }


def figures(
    images: int,
    ids: ArrayLike,
    budgets: Mapping[str, int],
    counts: Counts,
    tree: LabelTree,
    topics: int,
    skipped: Sequence[dict[str, str]],
    barren: Sequence[dict[str, str]],
) -> dict[str, Any]:
    """The contents of report.json. `ids`: the scores of all images that have one; `budgets`: how many have which."""
    found: Counts = {"verification": verify.scores([]), "kept": 0}
    add(found, counts)
    by_kind: dict[str, Counts] = found.get("panel", {})
    of = {kind: by_kind.get(kind, {}).get("samples", 0) for kind in (panel.CLEAN, *KINDS)}
    scores = np.asarray(ids, dtype=np.float64)
    return {
        "counts": {
            "images": images,
            "images_skipped": len(skipped),
            "topics": topics,
            "made": of[panel.CLEAN],
            "kept": found["kept"],
            "rejected": of[panel.CLEAN] - found["kept"],
            "defects": sum(of[kind] for kind in KINDS),
        },
        "labels": {"version": tree.version, "ids": len(tree.ids()), "pairs_without_topics": list(barren)},
        "density": {"ids_mean": float(np.mean(scores)) if len(scores) else None, "budgets": _sorted(budgets)},
        "tasks": _sorted(found.get("tasks", {})),
        "languages": _sorted(found.get("languages", {})),
        "topics_used": _sorted(found.get("topics", {})),
        "votes": votes.agreement(by_kind.get(panel.CLEAN, {}).get("votes", {})),
        "verification": {
            name: {**part, "scores": _sorted(part["scores"])} for name, part in found["verification"].items()
        },
        "votes_on_defects": {kind: votes.agreement(by_kind.get(kind, {}).get("votes", {}))["judges"] for kind in KINDS},
        "defects": {kind: _caught(of[kind], found.get("by", {}).get(kind, {})) for kind in KINDS},
        "false_rejections": {
            **_caught(of[panel.CLEAN], found.get("by", {}).get(panel.CLEAN, {})),
            "reasons": _sorted(found.get("reasons", {})),
        },
        "skipped": skipped,
    }


def panel_figures(counts: Mapping[str, Any]) -> dict[str, Any]:
    """How well the panel judges (panel.py), by the same counts."""
    return panel.figures(counts.get("panel", {}))


def count_synthesis(made: Sequence[Sample], dropped: Mapping[str, int]) -> Counts:
    """What was written: samples by question type and language, those that are an annotation's own, and the pairs left
    out with the reason. Adds up over chunks."""
    return {
        "types": Counter(str(sample.extra.get("type", "of the corpus")) for sample in made),
        "languages": Counter(sample.language for sample in made),
        "annotated": sum("annotation" in sample.extra for sample in made),
        "dropped": dict(dropped),
    }


def synthesis(counts: Mapping[str, Any]) -> dict[str, Any]:
    """What `count_synthesis` counted, for the report."""
    return {
        "types": _sorted(counts.get("types", {})),
        "languages": _sorted(counts.get("languages", {})),
        "annotated": counts.get("annotated", 0),
        "dropped": _sorted(counts.get("dropped", {})),
    }


def unanswered(missed: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """How many questions got no usable answer: in all, by step and kind, and of those the ones whose fault may pass."""
    steps = {name: _sorted(kinds) for name, kinds in sorted(missed.items())}
    every = [(kind, count) for kinds in steps.values() for kind, count in kinds.items()]
    return {
        "questions": sum(count for _, count in every),
        "passing": sum(count for kind, count in every if kind in PASSING),
        "steps": steps,
    }


def add_hygiene(figures: dict[str, Any], found: dict[str, Any], images: int, unclean: Mapping[str, int]) -> None:
    """Adds what hygiene did, if it was asked for: `images` given to it, and by whom it took out how many samples."""
    if found:
        figures["counts"] |= {"images": images, "hygiene_rejected": sum(unclean.values())}
        figures["hygiene"] = {**found, "samples_rejected": _sorted(unclean)}


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What a person should know of at the end, in lines: images and samples that fell out, questions without an answer,
    and what hygiene could not look at."""
    found = [*_lost(report)]
    pairs = report["density"].get("total_pairs")
    if pairs and pairs["shared_out"] < pairs["asked"]:
        found.append(f"of data.total_pairs = {pairs['asked']} the images that did not fall out can have "
                     f"{pairs['shared_out']}")  # fmt: skip
    spoilt = {kind: report["defects"][kind]["samples"] for kind in KINDS}
    if rare := [f"{count} {kind}" for kind, count in spoilt.items() if count * 10 < sum(spoilt.values())]:
        total = sum(spoilt.values())
        found.append(f"of {total} known defects only {', '.join(rare)} could be made; of that recall says little")
    if "feedback" in report:
        found += wishes.lines(report["feedback"])
    hygiene = report.get("hygiene", {})
    if unreadable := hygiene.get("decontamination", {}).get("unreadable"):
        some = "; ".join(f"{entry['row']}: {entry['reason']}" for entry in unreadable[:3])
        found.append(
            f"{len(unreadable)} pictures of evaluation sets could not be read, so nothing was compared with them; all "
            f"listed in data/report.json: {some}{'; ...' if len(unreadable) > 3 else ''}"
        )
    flagged = sum(
        part.get("personal_data", {}).get("said_to_be_burned_in", 0) for part in (hygiene, hygiene.get("general", {}))
    )
    if flagged:
        found.append(
            f"{flagged} images say that text is burned in (BurnedInAnnotation), which nobody looks for: name a reader "
            "in data.hygiene.burned_in"
        )
    return found


def _lost(report: Mapping[str, Any]) -> Iterator[str]:
    counts, missed = report["counts"], report["unanswered"]
    if missed["questions"]:
        kinds = "; ".join(
            f"{step}: {', '.join(f'{count} {kind}' for kind, count in found.items())}"
            for step, found in missed["steps"].items()
        )
        lost = [f"{missed['questions']} questions got no usable answer ({kinds})"]
        barren = len(report["labels"]["pairs_without_topics"])
        lost += [f"{counts['images_skipped']} images fell out"] if counts["images_skipped"] else []
        lost += [f"{barren} pairs of labels have no topics"] if barren else []
        lost += [f"{report['undecided']} samples are undecided for want of votes"] if report["undecided"] else []
        yield f"{', '.join(lost)}; all listed in data/report.json{again(missed)}"


def again(missed: Mapping[str, Any]) -> str:
    """What can be done about questions that got no answer, to be added to a line; empty where nothing can."""
    if not missed["passing"]:
        return ""
    return f". {missed['passing']} of the faults may pass: give the same command with --retry-unanswered to ask again"


def reasons(report: dict[str, Any]) -> str:
    """The commonest reasons why images and samples fell out, in a line for a person."""
    return " ".join(f"{count} × {reason}." for reason, count in list(fallen_out(report).items())[:3])


def fallen_out(report: dict[str, Any]) -> dict[str, int]:
    """How many images and samples fell out for what, the commonest reason first."""
    counted = Counter(entry["reason"] for entry in report["skipped"])
    counted.update(report["false_rejections"]["reasons"])
    return dict(counted.most_common())


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Writes a report as JSON that people can read, whole or not at all, and never the whole of it in memory."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.JSONEncoder(ensure_ascii=False, indent=1).iterencode(report))
        file.write("\n")


def _caught(samples: int, by: Mapping[str, int]) -> dict[str, Any]:
    """How many were rejected, by whom, and the share; for clean samples the share is the false-rejection rate."""
    total = sum(by.values())
    return {
        "samples": samples,
        "rejected": total,
        "by_judges": by.get("judges", 0),
        "by_verification": by.get("verification", 0),
        "share": total / samples if samples else None,
    }


def _by(samples: Iterable[Sample]) -> Counts:
    """Kind of defect (`clean`) → who rejected it → how many."""
    found: Counts = {}
    for sample in samples:
        if "rejected_by" in sample.extra:
            add(found, {str(sample.extra.get("defect", panel.CLEAN)): {str(sample.extra["rejected_by"]): 1}})
    return found


def _why(samples: Iterable[Sample]) -> Counter[str]:
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
    return counted


def _sorted(counted: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counted.items()))
