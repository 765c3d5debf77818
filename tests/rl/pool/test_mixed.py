"""RL's filter reads the responses that grading had sampled, with its own reward, and samples none itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from open4ov.admission.mastery import examine, sampling_of
from open4ov.engine import Completion, Request
from open4ov.errors import UserError
from open4ov.recipe_mastery import MasterySection
from open4ov.rl.pool.mixed import mixed
from open4ov.rl.rewards import exact
from open4ov.rollout_book import Book
from open4ov.rollouts import Sampling
from open4ov.sample import Sample, assistant, user
from open4ov.verifier import Verifier

SAID = {
    "all": ["\\boxed{7}"] * 4,
    "none": ["\\boxed{8}"] * 4,
    "some": ["\\boxed{7}", "8", "\\boxed{9}", "\\boxed{7}"],
    "unboxed": ["7"] * 4,
    "cut": ["\\boxed{7}"] * 4,
}


class Scripted:
    """Gives the responses of SAID, and counts them."""

    asked = 0

    def generate(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Completion]]:
        found: list[list[Completion]] = []
        for request in requests:
            name = request.messages[0].text.split()[0]
            texts = SAID[name][request.first : request.first + request.n]
            ended = "length" if name == "cut" else "stop"
            found.append([Completion(text, [1], [0.0], ended, 0) for text in texts])
            self.asked += len(texts)
        return found


def samples() -> list[Sample]:
    return [
        Sample(id=name, source="test", task=name, messages=[user(name), assistant("\\boxed{7}")], answer="7")
        for name in SAID
    ]


def unseen(sha: str) -> Image.Image:
    raise AssertionError(sha)


def names(found: Sequence[Sample]) -> list[str]:
    return [sample.id for sample in found]


def test_the_filter_takes_what_grading_sampled(tmp_path: Path) -> None:
    engine, options = Scripted(), MasterySection(rollouts=4, samples=9)
    with Verifier("open4ov.answers:agrees") as graders:
        graded = examine(samples(), engine, unseen, options, graders, 0, Book(tmp_path), "m").samples
    assert [s.mastery for s in graded] == ["mastered", "unmastered", "partial", "mastered", "unmastered"]
    asked = engine.asked
    found = mixed(graded, Book(tmp_path), "m", sampling_of(options, 0), exact, 4)
    assert engine.asked == asked == 20
    assert names(found.kept) == ["some"]
    assert names(found.all_right) == ["all", "cut"], "RL rewards what was cut off after its answer"
    assert names(found.all_wrong) == ["none", "unboxed"], "an answer without a box earns nothing in RL"
    assert found.rates["some"] == 0.5
    assert not found.unknown
    # RL always asks for a box: so does `auto` here, and it is the same prompt
    assert names(mixed(graded, Book(tmp_path), "m", Sampling(boxed="always"), exact, 4).kept) == ["some"]


def test_what_was_not_sampled_is_said_to_be_unknown(tmp_path: Path) -> None:
    options = MasterySection(rollouts=2, samples=9)
    with Verifier("open4ov.answers:correct") as boxes:
        examine(samples()[:3], Scripted(), unseen, options, boxes, 0, Book(tmp_path), "m")
    few = mixed(samples(), Book(tmp_path), "m", sampling_of(options, 0), exact, 2)
    assert names(few.unknown) == ["unboxed", "cut"]
    for other in (
        mixed(samples(), Book(tmp_path), "m", sampling_of(options, 0), exact, 4),
        mixed(samples(), Book(tmp_path), "another model", sampling_of(options, 0), exact, 2),
        mixed(samples(), Book(tmp_path), "m", sampling_of(options, 1), exact, 2),
    ):
        assert names(other.unknown) == list(SAID)
    open_ended = samples()[0].model_copy(update={"answer": None})
    assert mixed([open_ended], Book(), "m", Sampling(), exact, 2).unknown == [open_ended]


def test_a_graded_reward_is_refused(tmp_path: Path) -> None:
    options = MasterySection(rollouts=2, samples=9)
    with Verifier("open4ov.answers:correct") as boxes:
        examine(samples()[:1], Scripted(), unseen, options, boxes, 0, Book(tmp_path), "m")
    with pytest.raises(UserError, match=r"gave 0\.5 .*neither right nor wrong"):
        mixed(samples()[:1], Book(tmp_path), "m", sampling_of(options, 0), lambda response, sample: 0.5, 2)
