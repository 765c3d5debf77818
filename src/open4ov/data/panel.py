"""How well a panel judges, measured on defects that were put in on purpose (defects.py).

For each judge, and for the vote of all three, a sample is a hit when it is defective and refused. Precision says how
many of the refused are defective, recall how many of the defective are refused, both with 95 % intervals (Wilson). A
judge refuses by saying no; its abstentions and missing votes are counted apart. The vote refuses what falls short of
the quorum. Precision depends on the share of defects, which is given beside it; and a "clean" sample that a model wrote
may be wrong too: its refusal is held against the judge here although it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from open4ov.data.agreement import interval
from open4ov.data.defects import KINDS
from open4ov.data.judge import agreement, kept
from open4ov.sample import Sample


def measured(samples: Sequence[Sample], quorum: int) -> dict[str, Any]:
    """Precision and recall of each judge, of the vote, and of voting and verification together; recall by kind too;
    and Fleiss' kappa over clean and defective samples (over clean ones alone chance agrees nearly as well).

    `samples`: clean and defective ones with their votes; `extra["rejected_by"]` says which fell out in the end.
    """
    defective = [sample for sample in samples if "defect" in sample.extra]
    judges = [vote.judge for vote in samples[0].votes] if samples else []

    def said(place: int, what: str) -> Callable[[Sample], bool]:
        return lambda sample: sample.votes[place].said == what

    found = {
        "samples": len(samples),
        "defects": len(defective),
        "rate": len(defective) / len(samples) if samples else None,
        "kinds": {kind: sum(sample.extra["defect"] == kind for sample in defective) for kind in KINDS},
        "judges": {
            judge: {
                **_figures(samples, said(place, "no")),
                "abstained": sum(map(said(place, "abstain"), samples)),
                "missing": sum(map(said(place, "missing"), samples)),
            }
            for place, judge in enumerate(judges)
        },
        "vote": _figures(samples, lambda sample: not kept(sample.votes, quorum)),
        "all": _figures(samples, lambda sample: "rejected_by" in sample.extra),
        "kappa": agreement(samples)["kappa"],
    }
    return found


def _figures(samples: Sequence[Sample], refused: Callable[[Sample], bool]) -> dict[str, Any]:
    defective = [sample for sample in samples if "defect" in sample.extra]
    hits = sum(map(refused, defective))
    alarms = sum(map(refused, samples))
    return {
        "precision": {"hits": hits, "of": alarms, **interval(hits, alarms)},
        "recall": {"hits": hits, "of": len(defective), **interval(hits, len(defective))},
        "recall_by_kind": {
            kind: {"hits": sum(map(refused, some)), "of": len(some), **interval(sum(map(refused, some)), len(some))}
            for kind in KINDS
            for some in [[sample for sample in defective if sample.extra["defect"] == kind]]
        },
    }
