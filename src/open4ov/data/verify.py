"""Verification of responses on five dimensions (paper §2.2.4).

After the vote on whether image, topic and question belong together, the response itself is checked for accuracy,
completeness, authenticity, semantic relevance and detail plausibility. A sample stays when all five hold; one that
could not be verified does not stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from open4ov.data.judge import triplet
from open4ov.data.labels import LabelTree
from open4ov.mllm.answers import Verification
from open4ov.mllm.ask import Asker, Picture, Prompt, Request
from open4ov.sample import Sample

DIMENSIONS = ("accuracy", "completeness", "authenticity", "relevance", "plausibility")


def verify(
    asker: Asker,
    samples: Sequence[Sample],
    tree: LabelTree,
    pictures: Callable[[Sample], Picture],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Adds `checks` (a verdict a dimension) and, for those that failed, the reasons in `extra["check_reasons"]`.

    No usable answer leaves `checks` empty, with the reason.
    """
    requests = [
        Request(
            "verify",
            Prompt("verify", {**triplet(sample, tree), "response": sample.messages[-1].text}),
            (pictures(sample),),
            Verification,
        )
        for sample in samples
    ]
    for sample, answer in zip(samples, asker.ask_many(requests, progress), strict=True):
        if not isinstance(answer, dict):
            sample.extra["check_reasons"] = {"unverified": str(answer)}
            continue
        sample.checks = {name: answer[name]["ok"] for name in DIMENSIONS}
        reasons = {name: answer[name]["reason"] for name in DIMENSIONS if not answer[name]["ok"]}
        if reasons:
            sample.extra["check_reasons"] = reasons


def passed(sample: Sample) -> bool:
    """Whether a sample was checked on every dimension and failed none."""
    return set(sample.checks) == set(DIMENSIONS) and all(sample.checks.values())
