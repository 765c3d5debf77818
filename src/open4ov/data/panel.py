"""How well a panel judges, measured on defects that were put in on purpose (defects.py).

For each judge, and for the vote of all three, a sample is a hit when it is defective and refused. Precision says how
many of the refused are defective, recall how many of the defective are refused, both with 95 % intervals (Wilson). A
judge refuses by saying no; its abstentions and missing votes are counted apart. The vote refuses what falls short of
the quorum. Precision depends on the share of defects, which is given beside it; and a "clean" sample that a model wrote
may be wrong too: its refusal is held against the judge here although it is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from open4ov.data import votes
from open4ov.data.agreement import interval
from open4ov.data.defects import KINDS
from open4ov.data.judge import kept
from open4ov.data.working import Counts, add
from open4ov.sample import Sample

CLEAN = "clean"
"""Stands where a defect's kind would"""


def count(samples: Iterable[Sample], quorum: int) -> dict[str, Counts]:
    """By kind of defect (`clean` without one): `samples`, how many fell short of the quorum (`vote`) and in the end
    (`all`), and their `votes` (votes.py). Adds up over chunks."""
    found: dict[str, Counts] = {}
    for sample in samples:
        refused = {"vote": int(not kept(sample.votes, quorum)), "all": int("rejected_by" in sample.extra)}
        kind = str(sample.extra.get("defect", CLEAN))
        add(found, {kind: {"samples": 1, **refused, "votes": votes.count([sample])}})
    return found


def measured(samples: Sequence[Sample], quorum: int) -> dict[str, Any]:
    """Precision and recall of each judge, of the vote, and of voting and verification together; recall by kind too;
    and Fleiss' kappa over clean and defective samples (over clean ones alone chance agrees nearly as well).

    `samples`: clean and defective ones with their votes; `extra["rejected_by"]` says which fell out in the end.
    """
    return figures(count(samples, quorum))


def figures(counts: Mapping[str, Counts]) -> dict[str, Any]:
    """`measured` of the samples that were counted."""
    of = {kind: counts.get(kind, {}).get("samples", 0) for kind in (CLEAN, *KINDS)}
    together: Counts = {}
    for found in counts.values():
        add(together, found["votes"])
    judges = list(together.get("judges", {}))

    def said(judge: str, what: str) -> dict[str, int]:
        return {kind: found["votes"]["judges"].get(judge, {}).get(what, 0) for kind, found in counts.items()}

    def fell(where: str) -> dict[str, int]:
        return {kind: found[where] for kind, found in counts.items()}

    total, defects = sum(of.values()), sum(of[kind] for kind in KINDS)
    return {
        "samples": total,
        "defects": defects,
        "rate": defects / total if total else None,
        "kinds": {kind: of[kind] for kind in KINDS},
        "judges": {
            judge: {
                **_figures(of, said(judge, "0")),
                "abstained": sum(said(judge, "abstained").values()),
                "missing": sum(said(judge, "missing").values()),
            }
            for judge in judges
        },
        "vote": _figures(of, fell("vote")),
        "all": _figures(of, fell("all")),
        "kappa": votes.agreement(together)["kappa"],
    }


def _figures(of: Mapping[str, int], refused: Mapping[str, int]) -> dict[str, Any]:
    """`of`: samples by kind; `refused`: those of them that were."""
    defects = sum(of[kind] for kind in KINDS)
    hits, alarms = sum(refused.get(kind, 0) for kind in KINDS), sum(refused.values())
    return {
        "precision": {"hits": hits, "of": alarms, **interval(hits, alarms)},
        "recall": {"hits": hits, "of": defects, **interval(hits, defects)},
        "recall_by_kind": {
            kind: {"hits": refused.get(kind, 0), "of": of[kind], **interval(refused.get(kind, 0), of[kind])}
            for kind in KINDS
        },
    }
