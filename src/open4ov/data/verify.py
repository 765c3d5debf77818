"""Verification of responses on five dimensions (paper §2.2.4).

After the vote on whether image, topic and question belong together, the response itself is checked for accuracy,
completeness, authenticity, semantic relevance and detail plausibility. A model gives each a verdict, a score from 1 to
5 by the anchors of prompts/verify.jinja, and a reason. A sample stays when all five hold; one that could not be
verified does not stay, nor does one whose score says otherwise than its verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from open4ov.data import conversations
from open4ov.data.judge import triplet
from open4ov.data.labels import LabelTree
from open4ov.mllm.answers import Verification
from open4ov.mllm.ask import Asker, Picture, Prompt, Request
from open4ov.sample import Sample

LEAST = 3  # score from which a dimension holds
DIMENSIONS = ("accuracy", "completeness", "authenticity", "relevance", "plausibility")


def verify(
    asker: Asker,
    samples: Sequence[Sample],
    tree: LabelTree,
    pictures: Callable[[Sample], Sequence[Picture]],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Adds `checks` (a verdict a dimension) and, for those that failed, the reasons in `extra["check_reasons"]`.

    Where the verifier gives scores, `extra["verification"]` keeps score and reason of every dimension. No usable answer
    leaves `checks` empty, with the reason.
    """
    requests = [
        conversations.verify(sample, pictures(sample), tree)
        if conversations.whole(sample)
        else Request(
            "verify",
            Prompt("verify", {**triplet(sample, tree), "response": sample.messages[-1].text}),
            pictures(sample),
            Verification,
        )
        for sample in samples
    ]
    for sample, answer in zip(samples, asker.ask_many(requests, progress), strict=True):
        template = conversations.template("verify", whole=conversations.whole(sample), came=False)
        if (step := asker.step("verify", template, answer)) is not None:
            sample.steps = [*sample.steps, step]
        if not isinstance(answer, dict):
            sample.extra["check_reasons"] = {"unverified": str(answer)}
            continue
        sample.checks = {name: _holds(answer[name]) for name in DIMENSIONS}
        reasons = {name: _why(answer[name]) for name in DIMENSIONS if not sample.checks[name]}
        if any(answer[name]["score"] is not None for name in DIMENSIONS):
            kept = ("score", "reason")
            sample.extra["verification"] = {name: {key: answer[name][key] for key in kept} for name in DIMENSIONS}
        if reasons:
            sample.extra["check_reasons"] = reasons


def passed(sample: Sample) -> bool:
    """Whether a sample was checked on every dimension and failed none."""
    return set(sample.checks) == set(DIMENSIONS) and all(sample.checks.values())


def scores(samples: Sequence[Sample]) -> dict[str, Any]:
    """By dimension: how many samples hold and fail, and how often each score was given."""
    checked = [sample for sample in samples if sample.checks]
    given = [sample.extra["verification"] for sample in checked if "verification" in sample.extra]
    return {
        name: {
            "holds": sum(sample.checks[name] for sample in checked),
            "fails": sum(not sample.checks[name] for sample in checked),
            "scores": dict(sorted(Counter(str(entry[name]["score"]) for entry in given).items())),
        }
        for name in DIMENSIONS
    }


def _holds(check: dict[str, Any]) -> bool:
    return check["ok"] and (check["score"] is None or check["score"] >= LEAST)


def _why(check: dict[str, Any]) -> str:
    if check["ok"]:
        return f"score {check['score']} though called ok: {check['reason']}"
    return check["reason"]
