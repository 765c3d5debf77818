from __future__ import annotations

from collections import Counter

import pytest
from PIL import Image

from open4ov.answers import INSTRUCTION
from open4ov.engine import Completion, Request
from open4ov.refusals import refuses
from open4ov.rl import hallucination
from open4ov.rl.hallucination import KINDS, REFUSALS, Draft, complete
from open4ov.sample import Sample, assistant, user


def sample(name: str, task: str, answer: str, image: bool, response: str = "") -> Sample:
    return Sample(
        id=name,
        source="t",
        task=task,
        images=[name] if image else [],
        messages=[user(f"{task} {name}?", images=1 if image else 0), assistant(response or answer)],
        answer=answer,
    )


def pool() -> list[Sample]:
    made = [sample(f"c{i}", "colour", "red", True) for i in range(30)]
    made += [sample(f"r{i}", "reasoning", "7", True, "3 cats and 4 dogs. 3+4=7. \\boxed{7}") for i in range(20)]
    made += [
        sample(f"w{i}", "reasoning", "7", True, "Let me look. So the final answer is \\boxed{7}") for i in range(9)
    ]
    made += [sample(f"t{i}", "arithmetic", "5", False, "2+3=5. \\boxed{5}") for i in range(20)]
    return made


class Parrot:
    """An engine that says what it is told to, by whether the prompt has a picture."""

    def __init__(self, seen: str, blind: str) -> None:
        self.seen, self.blind, self.asked = seen, blind, 0

    def generate(self, requests: list[Request], progress: object = None) -> list[list[Completion]]:
        self.asked = len(requests)
        texts = [self.seen if request.images else self.blind for request in requests]
        return [[Completion(text, [1], [0.0], "stop", 0)] for text in texts]


def build(seen: str, blind: str) -> tuple[list[Sample], dict[str, int], int]:
    engine = Parrot(seen, blind)
    pairs, counts = hallucination.build(
        pool(),
        100,
        engine,
        lambda sha: Image.new("RGB", (32, 32)),
        seed=0,  # pyright: ignore[reportArgumentType]
    )
    return pairs, counts, engine.asked


def test_pairs_of_every_kind_and_nothing_lost_in_counting() -> None:
    pairs, counts, asked = build("a purple one", "blue")
    assert {p.extra["pair"] for p in pairs} == set(KINDS) - {"image_normal"}  # nothing was answered rightly
    assert counts["not_known"] > 0
    assert sum(counts.values()) == asked
    assert Counter(p.extra["pair"] for p in pairs) == {k: v for k, v in counts.items() if k in KINDS}
    for pair in pairs:
        assert pair.rejected is not None
        chosen, rejected, kind = pair.messages[-1].text, pair.rejected[-1].text, pair.extra["pair"]
        assert chosen != rejected
        shown = [p.index for m in pair.messages for p in m.content if p.type == "image"]
        assert shown == list(range(len(pair.images)))
        if kind == "missing_image":
            assert not pair.images
            assert chosen in REFUSALS["en"]
            assert rejected == "blue"
        if kind in ("image_normal", "text_normal"):
            assert "picture" in rejected
            assert chosen in {
                "red",
                "3 cats and 4 dogs. 3+4=7. \\boxed{7}",
                pool()[50].messages[-1].text,
                "2+3=5. \\boxed{5}",
            }
        if kind == "context":
            assert rejected == "a purple one"
            assert [m.role for m in pair.messages] == ["user", "assistant"] * 2
        if kind == "brevity":
            assert len(rejected) > 2 * len(chosen)
            assert "final answer" not in chosen
    assert pairs == build("a purple one", "blue")[0]


def test_what_language_alone_answers_is_leakage() -> None:
    pairs, counts, _ = build("red", "red")
    left_out = [p for p in pairs if p.extra["pair"] == "missing_image" and p.answer == "red"]
    assert left_out == []
    assert counts["leakage"] > 5


def test_a_model_that_refuses_already_needs_no_pair() -> None:
    _, counts, _ = build("red", REFUSALS["en"][1])
    assert "missing_image" not in counts
    assert counts["already_right"] >= 30


def test_a_right_answer_of_its_own_is_the_chosen_one() -> None:
    worked = sample("w", "reasoning", "7", True, "Let me look. So the final answer is \\boxed{7}")
    for kind in ("image_normal", "text_normal"):
        draft = Draft(kind, worked, [worked.messages[0]], ["w"], None, "no picture")
        assert complete(draft, "3+4=7. \\boxed{7}") is None
        assert draft.chosen == "3+4=7. \\boxed{7}"
    draft = Draft("text_normal", worked, [worked.messages[0]], ["w"], None, "no picture")
    assert complete(draft, "\\boxed{8}") is None
    assert draft.chosen == worked.messages[-1].text
    draft = Draft("image_normal", worked, [worked.messages[0]], ["w"], None, "no picture")
    assert complete(draft, "\\boxed{8}") == "not_known"


def test_a_distractor_is_used_only_when_the_model_is_right() -> None:
    seen = sample("c", "colour", "red", True)
    draft = Draft("context", seen, [seen.messages[0]], ["c"], None, "5")
    assert complete(draft, "red") is None
    assert (draft.chosen, draft.rejected) == ("red", "5")
    assert complete(draft, "blue") is None
    assert (draft.chosen, draft.rejected) == ("red", "blue")


@pytest.mark.parametrize("text", [text for texts in REFUSALS.values() for text in texts])
def test_what_is_taught_as_a_refusal_counts_as_one(text: str) -> None:
    assert refuses(text)


def test_the_words_of_missing_image_come_back_with_their_picture() -> None:
    samples = pool()
    for each in samples:
        if not each.images:
            each.messages[0] = user(f"{each.messages[0].text} {INSTRUCTION['en']}")
    drafts = hallucination.draft(samples, 100, seed=0)
    asked = {kind: [d.sample.id for d in drafts if d.kind == kind] for kind in ("missing_image", "image_normal")}
    assert asked["missing_image"] == asked["image_normal"][: len(asked["missing_image"])]
    bare = [d for d in drafts if d.kind == "text_normal" and "boxed" not in d.prompt[0].text]
    assert 0 < len(bare) < sum(d.kind == "text_normal" for d in drafts)
    assert all(d.sample.messages[-1].text == d.sample.answer for d in bare)
