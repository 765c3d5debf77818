"""Quality evaluation by judge voting (paper §2.2.4).

Three judges score every sample 0 or 1; a sample stays when at least `quorum` votes are 1. A vote is yes, no, abstain
(the judge answers that it cannot tell) or missing (it gave no usable answer; the reason is kept). Only a yes helps a
sample; `verdict` tells what was refused from what is undecided for want of votes. The paper's judges see (image, topic,
question); ours see the answer too, since a wrong image under a general question shows in the answer only. Of a
conversation they see all turns and images, and vote once (conversations.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from open4ov.data import conversations
from open4ov.data.agreement import cohen_kappa, fleiss_kappa
from open4ov.data.labels import LabelTree
from open4ov.mllm.answers import Judgement
from open4ov.mllm.ask import JUDGES, Asker, Picture, Prompt, Request
from open4ov.sample import Sample, Vote

SAYS = ("yes", "no", "abstain", "missing")


def vote(
    asker: Asker,
    samples: Sequence[Sample],
    tree: LabelTree,
    pictures: Callable[[Sample], Sequence[Picture]],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Adds the three votes to each sample."""
    requests = [
        conversations.judge(judge, sample, pictures(sample), tree)
        if conversations.whole(sample)
        else Request(judge, Prompt("judge", triplet(sample, tree)), pictures(sample), Judgement)
        for sample in samples
        for judge in JUDGES
    ]
    answers = asker.ask_many(requests, progress)
    names = [asker.identity(judge) for judge in JUDGES]
    for number, sample in enumerate(samples):
        given = answers[number * len(JUDGES) : (number + 1) * len(JUDGES)]
        sample.votes = [
            Vote(judge=name, score=answer["score"], reason=answer["reason"])
            if isinstance(answer, dict)
            else Vote(judge=name, score=None, reason=f"no usable answer: {answer}", missing=True)
            for name, answer in zip(names, given, strict=True)
        ]


def triplet(sample: Sample, tree: LabelTree) -> dict[str, Any]:
    """What a judge is told beside the image. Language and tags are for the catalog; the template shows the rest."""
    return {
        "topic": sample.topics[0],
        "question": sample.messages[0].text,
        "answer": sample.answer or "",
        "language": sample.language,
        "tags": tree.tags(sample.labels),
    }


@dataclass(frozen=True)
class Verdict:
    """What a panel's votes come to. `undecided`: short of the quorum, but the votes that are missing could still have
    made it; asking those judges again may keep the sample. `refused`: they could not."""

    outcome: Literal["kept", "refused", "undecided"]
    yes: int
    no: int
    abstain: int
    missing: int


def verdict(votes: Sequence[Vote], quorum: int) -> Verdict:
    """Counts the votes against the quorum. An abstention is an answer: it never becomes a yes."""
    counts = Counter(one.said for one in votes)
    yes, missing = counts["yes"], counts["missing"]
    outcome = "kept" if yes >= quorum else "undecided" if yes + missing >= quorum else "refused"
    return Verdict(outcome, yes, counts["no"], counts["abstain"], missing)


def kept(votes: Sequence[Vote], quorum: int) -> bool:
    """At least `quorum` judges said yes. Abstentions and missing votes never help."""
    return verdict(votes, quorum).outcome == "kept"


def agreement(samples: Sequence[Sample]) -> dict[str, Any]:
    """How the judges voted and agreed.

    `judges`: votes of 0, 1, abstentions and missing ones by judge; `agreement`: by pair of judges the share of equal
    votes and Cohen's kappa where both said yes or no; `kappa`: Fleiss' kappa of the panel over the samples on which all
    said yes or no, and `kappa_abstain` with abstention as a third answer, over those without missing votes, each with
    the number of samples it rests on.
    """
    judges = [vote.judge for vote in samples[0].votes] if samples else []
    counts = {judge: {"1": 0, "0": 0, "abstained": 0, "missing": 0} for judge in judges}
    names = {"yes": "1", "no": "0", "abstain": "abstained", "missing": "missing"}
    both: dict[tuple[str, str], tuple[list[int], list[int]]] = {pair: ([], []) for pair in combinations(judges, 2)}
    said: list[list[str]] = []
    for sample in samples:
        scores = {vote.judge: vote for vote in sample.votes}
        said.append([vote.said for vote in sample.votes])
        for judge, vote in scores.items():
            counts[judge][names[vote.said]] += 1
        for (a, b), (left, right) in both.items():
            x, y = scores[a].score, scores[b].score
            if x is not None and y is not None:
                left.append(x)
                right.append(y)
    pairs = {
        f"{a} = {b}": {
            "share": sum(x == y for x, y in zip(left, right, strict=True)) / len(left) if left else None,
            "votes": len(left),
            "kappa": cohen_kappa(left, right),
        }
        for (a, b), (left, right) in both.items()
    }
    return {
        "judges": counts,
        "agreement": pairs,
        "kappa": _kappa(said, ("yes", "no")),
        "kappa_abstain": _kappa(said, ("yes", "no", "abstain")),
    }


def _kappa(said: Sequence[Sequence[str]], categories: Sequence[str]) -> dict[str, Any]:
    rows = [[votes.count(name) for name in categories] for votes in said if len(votes) > 1 and
            set(votes) <= set(categories)]  # fmt: skip
    return {"value": fleiss_kappa(rows), "samples": len(rows)}
