"""Refusals before and after: what is asked, and of which pictures nothing else is made."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from open4ov.engine import Completion, Request
from open4ov.rl.preference.probe import Probe, split
from open4ov.sample import Sample, assistant, user


def sample(number: int, image: bool) -> Sample:
    return Sample(
        id=f"s{number}",
        source="t",
        task=("colour", "naming")[number % 2],
        images=[f"i{number // 2}"] if image else [],
        messages=[user(f"q{number}", images=int(image)), assistant("red")],
        answer="red",
    )


class Refuses:
    """Says that there is no picture, whenever there is none."""

    def generate(self, requests: Sequence[Request], progress: object = None) -> list[list[Completion]]:
        texts = ["red" if request.images else "There is no picture here." for request in requests]
        return [[Completion(text, [1], [0.0], "stop", 0)] for text in texts]


def test_the_probe_and_the_pairs_share_no_picture_and_no_text() -> None:
    pictured, texts = [sample(n, True) for n in range(160)], [sample(n, False) for n in range(200, 220)]
    probe, left = split([*pictured, *texts], texts, 8, seed=0)
    assert (len(probe.pictured), len(probe.texts)) == (8, 2)
    seen = {sha for one in probe.pictured for sha in one.images}
    assert len(seen) == 8, "a picture each"
    assert not seen & {sha for one in left for sha in one.images}
    assert {one.id for one in left} == {one.id for one in (*pictured, *texts)} - {
        one.id for one in (*pictured, *texts) if seen & set(one.images) or one in probe.texts
    }
    few, _ = split(pictured[:40], texts[:9], 8, seed=0)
    assert (len(few.pictured), len(few.texts)) == (2, 0), "of twenty pictures a tenth"
    assert probe == split([*pictured, *texts], texts, 8, seed=0)[0]


def test_refusals_that_are_right_and_that_are_false() -> None:
    probe = Probe([sample(0, True), sample(2, True)], [sample(100, False)])
    assert probe.ask(Refuses(), lambda _: Image.new("RGB", (4, 4))) == {
        "missing_image": {"asked": 2, "refused": 1.0},
        "with_image": {"asked": 2, "falsely_refused": 0.0, "right": 1.0},
        "text": {"asked": 1, "falsely_refused": 1.0, "right": 0.0},
    }
