"""Quality evaluation by judge voting (paper §2.2.4).

Three judges score every sample 0 or 1; a sample stays when at least `quorum` votes are 1. A judge that cannot tell,
or that gave no usable answer, abstains: its vote is recorded as missing and counts for nothing. The paper's judges
see (image, topic, question); ours see the answer too, since a wrong image under a general question shows in the
answer only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from open4ov.data.labels import LabelTree
from open4ov.mllm.answers import Judgement
from open4ov.mllm.ask import JUDGES, Asker, Picture, Prompt, Request
from open4ov.sample import Sample, Vote


def vote(
    asker: Asker,
    samples: Sequence[Sample],
    tree: LabelTree,
    pictures: Callable[[Sample], Picture],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Adds the three votes to each sample."""
    requests = [
        Request(judge, Prompt("judge", triplet(sample, tree)), (pictures(sample),), Judgement)
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
            else Vote(judge=name, score=None, reason=f"no usable answer: {answer}")
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


def kept(votes: Sequence[Vote], quorum: int) -> bool:
    """At least `quorum` judges said 1. Abstentions never help."""
    return sum(vote.score == 1 for vote in votes) >= quorum


def agreement(samples: Sequence[Sample]) -> dict[str, Any]:
    """Per judge: votes of 0, 1 and abstentions; per pair of judges: share of equal votes where both voted."""
    judges = [vote.judge for vote in samples[0].votes] if samples else []
    counts = {judge: {"1": 0, "0": 0, "abstained": 0} for judge in judges}
    both = {pair: [0, 0] for pair in combinations(judges, 2)}
    for sample in samples:
        scores = {vote.judge: vote.score for vote in sample.votes}
        for judge, score in scores.items():
            counts[judge]["abstained" if score is None else str(score)] += 1
        for (a, b), tally in both.items():
            if scores[a] is not None and scores[b] is not None:
                tally[0] += scores[a] == scores[b]
                tally[1] += 1
    pairs = {f"{a} = {b}": {"share": equal / n if n else None, "votes": n} for (a, b), (equal, n) in both.items()}
    return {"judges": counts, "agreement": pairs}
