"""Sources of tasks and what they are validated with, for the tests of the pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from open4ov.recipe_rl_pool import SourceSection
from open4ov.rl.pool.admit import Admitted, Given, Tools
from open4ov.rl.rewards import exact
from open4ov.sample import Sample, assistant, user


def asked(question: str, answer: str | None, name: str = "", images: int = 0, **more: Any) -> Sample:
    about: dict[str, Any] = {
        "id": name or f"{question}|{answer}",
        "source": "t",
        "task": "t",
        "images": [f"{i:064}" for i in range(images)],
        "messages": [user(question, images=images), assistant(answer or "")],
        "answer": answer,
    }
    return Sample.model_validate(about | more)


def opens(sha: str) -> None:
    return None


def tools(**changes: Any) -> Tools:
    plain = Tools(exact, lambda s: (s, []), lambda s: (s, []), None, lambda s: None)
    return replace(plain, **changes)


def source(samples: list[Sample], **options: Any) -> Given:
    return Given(SourceSection.model_validate({"kind": "set", "path": "x/exam", **options}), samples, opens)


def reasons(found: Admitted) -> dict[str, str]:
    return {sample.id: str(sample.extra["rejected_by"]) for sample in found.out}
