"""How judges voted and agreed, from counts that add up: of one sample, of a chunk, of a million samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from open4ov.data.agreement import cohen_kappa_of, fleiss_kappa
from open4ov.data.working import Counts, add
from open4ov.sample import Sample

_COLUMNS = {"yes": "1", "no": "0", "abstain": "abstained", "missing": "missing"}


def count(samples: Iterable[Sample]) -> Counts:
    """What `agreement` and the panel's figures need to know of samples that were voted on.

    `judges`: judge → what it said → how often; `pairs`: pair of judges → both votes → how often, where both said yes or
    no; `said`: the panel's votes in order → how often.
    """
    found: Counts = {"judges": {}, "pairs": {}, "said": {}}
    for sample in samples:
        votes = sample.votes
        more: Counts = {"said": {",".join(vote.said for vote in votes): 1}}
        more["judges"] = {vote.judge: {_COLUMNS[vote.said]: 1} for vote in votes}
        more["pairs"] = {
            f"{a.judge} = {b.judge}": {f"{a.score}{b.score}": 1} if a.score is not None and b.score is not None else {}
            for a, b in combinations(votes, 2)
        }
        add(found, more)
    return found


def agreement(counts: Mapping[str, Any]) -> dict[str, Any]:
    """`judge.agreement` of the samples that were counted."""
    said = {tuple(text.split(",")): number for text, number in counts.get("said", {}).items()}
    pairs: dict[str, Any] = {}
    for pair, both in counts.get("pairs", {}).items():
        total = sum(both.values())
        pairs[pair] = {
            "share": (both.get("00", 0) + both.get("11", 0)) / total if total else None,
            "votes": total,
            "kappa": cohen_kappa_of({(int(key[0]), int(key[1])): number for key, number in both.items()}),
        }
    return {
        "judges": {
            judge: {name: found.get(name, 0) for name in _COLUMNS.values()}
            for judge, found in counts.get("judges", {}).items()
        },
        "agreement": pairs,
        "kappa": _kappa(said, ("yes", "no")),
        "kappa_abstain": _kappa(said, ("yes", "no", "abstain")),
    }


def _kappa(said: Mapping[tuple[str, ...], int], categories: Sequence[str]) -> dict[str, Any]:
    rows: Counter[tuple[int, ...]] = Counter()
    for votes, number in said.items():
        if len(votes) > 1 and set(votes) <= set(categories):
            rows[tuple(votes.count(name) for name in categories)] += number
    return {"value": fleiss_kappa(list(rows), list(rows.values())), "samples": sum(rows.values())}
