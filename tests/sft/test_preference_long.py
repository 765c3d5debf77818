"""Long conversations up to a limit, and needles: evenly spread, their answers nowhere else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preference_samples import everything

from open4ov.answers import normalise
from open4ov.corpora import needle
from open4ov.recipe_preference import PreferenceSection
from open4ov.sample import Sample
from open4ov.sft.preference.long import estimate
from open4ov.sft.preference_data import compose

LIMIT = 900


@pytest.fixture(scope="module")
def made() -> list[Sample]:
    section = PreferenceSection(shares={"needle": 0.7, "long_context": 0.3}, pictures=8)
    return compose(everything(), 300, seed=0, section=section, longest=LIMIT).samples


def of(made: list[Sample], what: str) -> list[Sample]:
    return [s for s in made if s.extra.get("needle", {}).get("of") == what]


def test_conversations_go_up_to_the_limit_and_not_beyond(made: list[Sample]) -> None:
    sizes = [estimate(s) for s in made]
    assert max(sizes) <= LIMIT
    assert max(sizes) > 0.8 * LIMIT
    assert min(sizes) < 0.5 * LIMIT
    several = [s for s in made if s.extra["preference"] == "long_context"]
    assert all(2 <= len(s.images) <= 8 for s in several)
    assert len({len(s.images) for s in several}) > 3
    assert any(len(s.messages) > 8 for s in several)


def test_a_question_follows_the_picture_that_it_is_about(made: list[Sample]) -> None:
    known = {s.id: s for s in everything()}
    asked = {(i, s.messages[0].text): s.messages[1].text for s in known.values() for i in s.images}
    for s in made:
        if s.extra["preference"] != "long_context":
            continue
        shown = ""
        for question, response in zip(s.messages[::2], s.messages[1::2], strict=True):
            for part in question.content:
                shown = s.images[part.index] if part.type == "image" and part.index is not None else shown
            pair = asked.get((shown, question.text))
            assert pair in (None, response.text)


def test_the_answer_stands_nowhere_else(made: list[Sample]) -> None:
    for s in of(made, "picture"):
        before = " ".join(m.text for m in s.messages[:-1])
        assert s.answer
        assert normalise(s.answer) not in normalise(before)
        assert normalise(s.answer) in normalise(s.messages[-1].text)
    for s in of(made, "text"):
        at = s.extra["needle"]["at"]
        assert s.answer
        assert s.messages[-1].text == s.answer
        for place, message in enumerate(s.messages[:-1]):
            assert (normalise(s.answer) in normalise(message.text)) == (place == 2 * at)


def test_the_question_is_about_one_told_thing_among_others(made: list[Sample]) -> None:
    told = [sum("Please remember" in m.text or "请记住" in m.text for m in s.messages) for s in of(made, "text")]
    assert set(told) == {1, 2, 3}


def test_a_picture_is_named_by_its_number(made: list[Sample]) -> None:
    known = {(i, s.messages[0].text): s for s in everything() for i in s.images}
    for s in of(made, "picture"):
        at, question = s.extra["needle"]["at"], s.messages[-2].text
        assert str(at + 1) in question
        own = [q for (image, q) in known if image == s.images[at] and question.endswith(q)]
        assert own, "the question is one of that picture's"
        assert known[s.images[at], max(own, key=len)].answer == s.answer


@pytest.mark.parametrize("what", ["text", "picture"])
def test_needles_are_spread_evenly_over_depth(made: list[Sample], what: str) -> None:
    """Kolmogorov's distance from the uniform distribution, bounded for places that are counted in whole turns."""
    depths = sorted(s.extra["needle"]["depth"] for s in of(made, what))
    assert len(depths) > 60
    steps = max(s.extra["needle"]["among"] for s in of(made, what))
    assert steps > 4
    thirds = [
        sum(low <= d <= high for d in depths) / len(depths) for low, high in ((0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1))
    ]
    assert min(thirds) > 0.18, thirds
    distance = max(abs((n + 0.5) / len(depths) - d) for n, d in enumerate(depths))
    assert distance < 0.25


@given(st.integers(1, 30), st.floats(0, 1), st.integers(1, 3), st.integers(0, 1000), st.sampled_from(["en", "zh"]))
def test_hiding_keeps_the_haystack_and_hits_the_depth(
    turns: int, depth: float, count: int, seed: int, lang: str
) -> None:
    rng = random.Random(seed)
    hay = [(f"q{n}", f"r{n}") for n in range(turns)]
    sizes = [float(rng.randint(5, 50)) for _ in hay]
    facts = needle.facts(rng, lang, "train", count, "")
    hidden = needle.hide(hay, sizes, depth, facts, rng)
    assert [t for t in hidden.turns if t in hay] == hay
    assert len(hidden.turns) == turns + count + 1
    assert hidden.turns[hidden.at] == (facts[0].told, facts[0].noted)
    assert hidden.turns[-1] == (facts[0].question, facts[0].answer)
    assert abs(hidden.depth - depth) <= max(sizes) / 2 / sum(sizes) + 1e-9
    assert sum(facts[0].answer in text for turn in hidden.turns for text in turn) == 2


def test_code_words_of_the_splits_are_different() -> None:
    words = {
        (split, lang): {f.answer for f in needle.facts(random.Random(0), lang, split, 8, "")}
        for split in ("train", "test")
        for lang in ("en", "zh")
    }
    for lang in ("en", "zh"):
        assert not words["train", lang] & words["test", lang]
    (fact,) = needle.facts(random.Random(1), "en", "train", 1, "")
    assert all(f.answer != fact.answer for f in needle.facts(random.Random(1), "en", "train", 20, fact.answer))


def test_haystacks_come_in_both_languages() -> None:
    english, chinese = needle.haystack("en", "test", 30, 0), needle.haystack("zh", "test", 30, 0)
    assert len(english) == len(chinese) == 30
    assert any("\u4e00" <= c <= "\u9fff" for q, _ in chinese for c in q)
    assert needle.haystack("zh", "test", 30, 0) == chinese
