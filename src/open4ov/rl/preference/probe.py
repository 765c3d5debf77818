"""Does the model say that a picture is missing, and only then? Asked before and after offline RL, of questions whose
pictures no pair uses."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from open4ov.answers import agrees
from open4ov.engine import Request
from open4ov.refusals import refuses
from open4ov.rl.hallucination import MAX_TOKENS
from open4ov.rl.preference.drafting import in_turn
from open4ov.rollouts import Answers
from open4ov.sample import Sample, without_images


@dataclass(frozen=True)
class Probe:
    """`pictured`: questions asked with their picture and without it; `texts`: questions that need none."""

    pictured: list[Sample]
    texts: list[Sample]

    def ask(self, engine: Answers, get: Callable[[str], Image.Image]) -> dict[str, Any]:
        """Shares of greedy responses, and of how many questions: `refused` of those without their picture;
        `falsely_refused` and `right` of those with it; the same of those that need none."""
        requests = [
            *(_request(sample, []) for sample in self.pictured),
            *(_request(sample, [get(sha) for sha in sample.images]) for sample in self.pictured),
            *(_request(sample, []) for sample in self.texts),
        ]
        said = [completions[0].text for completions in engine.generate(requests)]
        count = len(self.pictured)
        return {
            "missing_image": {"asked": count, "refused": _share(map(refuses, said[:count]))},
            "with_image": _answered(self.pictured, said[count : 2 * count]),
            "text": _answered(self.texts, said[2 * count :]),
        }


def split(samples: Sequence[Sample], texts: Sequence[Sample], count: int, seed: int) -> tuple[Probe, list[Sample]]:
    """A probe of `count` pictured questions, and a quarter as many without a picture; and the samples that are left for
    pairs: none of a picture that the probe shows, and none of its words. Of few pictures or texts it takes a tenth."""
    usable = [s for s in samples if s.answer and [m.role for m in s.messages] == ["user", "assistant"]]
    found: dict[tuple[str, ...], Sample] = {}
    most = min(count, len({tuple(s.images) for s in usable if s.images}) // 10)
    for sample in in_turn([s for s in usable if s.images], len(usable), random.Random(f"probe {seed}")):
        if len(found) == most:
            break
        found.setdefault(tuple(sample.images), sample)
    seen = {sha for images in found for sha in images}
    bare = [s for s in texts if s.answer and not s.images]
    bare = in_turn(bare, min(count // 4, len(bare) // 10), random.Random(f"probe texts {seed}"))
    names = {sample.id for sample in bare}
    left = [s for s in samples if s.id not in names and not seen & set(s.images)]
    return Probe(list(found.values()), bare), left


def _request(sample: Sample, images: list[Image.Image]) -> Request:
    question = sample.messages[0]
    return Request([question if images else without_images(question)], images, max_tokens=MAX_TOKENS)


def _answered(samples: Sequence[Sample], said: Sequence[str]) -> dict[str, Any]:
    right = [agrees(text, s.answer or "", s.aliases) for s, text in zip(samples, said, strict=True)]
    return {"asked": len(samples), "falsely_refused": _share(map(refuses, said)), "right": _share(right)}


def _share(held: Any) -> float | None:
    values = list(held)
    return round(sum(values) / len(values), 4) if values else None
