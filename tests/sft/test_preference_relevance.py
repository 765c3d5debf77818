"""Nothing on a question's surface tells whether it needs the picture that is shown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
from preference_samples import everything, vertical

from open4ov.answers import normalise
from open4ov.recipe_preference import PreferenceSection
from open4ov.sample import Sample
from open4ov.sft.preference import relevance
from open4ov.sft.preference_data import compose

SHARES = {"unrelated_image": 0.3, "related_image": 0.3, "unrelated_dialogue": 0.4}


@pytest.fixture(scope="module")
def shown() -> list[tuple[bool, str, str, int, int, bool]]:
    """Every question that is asked while a picture is in sight: does it need it, its text, language, turn (from the
    first and from the last), and whether the picture comes with it."""
    found = []
    for s in samples():
        about = s.extra.get("turns") or ["related" if s.extra["preference"] == "related_image" else "unrelated"]
        questions = [m for m in s.messages if m.role == "user"]
        seen = False
        for place, (message, which) in enumerate(zip(questions, about, strict=True)):
            here = any(p.type == "image" for p in message.content)
            seen |= here
            if seen:
                found.append((which == "related", message.text, s.language, place, len(questions) - place, here))
    return found


_made: list[Sample] = []


def samples() -> list[Sample]:
    if not _made:
        _made.extend(compose(everything(), 3000, seed=0, section=PreferenceSection(shares=SHARES)).samples)
    return _made


PREFIXES = tuple(text for by in (relevance.BACK, relevance.AWAY) for texts in by.values() for text in texts)
SURFACE: dict[str, Callable[[tuple[bool, str, str, int, int, bool]], object]] = {
    "box": lambda one: "\\boxed" in one[1],
    "language": lambda one: one[2],
    "turn": lambda one: one[3],
    "turns left": lambda one: one[4],
    "picture here": lambda one: one[5],
    "length": lambda one: (one[2], len(one[1]) // 12),
    "prefix": lambda one: one[1].startswith(PREFIXES),
    "all together": lambda one: ("\\boxed" in one[1], one[2], min(one[3], 2), one[5], len(one[1]) // 24),
}  # fmt: skip


@pytest.mark.parametrize("name", SURFACE)
def test_the_surface_tells_nothing(shown: list[tuple[bool, str, str, int, int, bool]], name: str) -> None:
    """A table of the feature's values learnt on one half and asked about the other is right half the time, within the
    chance of so many questions; so is each value of the feature on its own."""
    feature = SURFACE[name]
    table: dict[object, Counter[bool]] = defaultdict(Counter)
    for one in shown[::2]:
        table[feature(one)][one[0]] += 1
    right = [table[feature(one)].most_common(1)[0][0] == one[0] for one in shown[1::2] if feature(one) in table]
    assert abs(sum(one[0] for one in shown) / len(shown) - 0.5) < 0.03
    assert sum(right) / len(right) < 0.55
    for value, counts in table.items():
        if counts.total() >= 200:
            assert abs(counts[True] / counts.total() - 0.5) < 0.1, (name, value)


def test_the_check_is_able_to_fail(shown: list[tuple[bool, str, str, int, int, bool]]) -> None:
    """What a model should go by does tell: the words themselves."""
    known = {one[1]: one[0] for one in shown[::2]}
    right = [known[one[1]] == one[0] for one in shown[1::2] if one[1] in known]
    assert len(right) > 300
    assert sum(right) / len(right) > 0.99


def test_dialogues_have_two_to_five_turns_and_come_back() -> None:
    dialogues = [s for s in samples() if s.extra["preference"] == "unrelated_dialogue"]
    assert Counter(len(s.extra["turns"]) for s in dialogues).keys() == {2, 3, 4, 5}
    patterns = Counter(tuple(s.extra["turns"]) for s in dialogues)
    assert any(p[0] == "unrelated" and p[-1] == "related" for p in patterns)
    assert any(p[0] == "related" and "unrelated" in p[1:-1] and p[-1] == "related" for p in patterns)
    for s in dialogues:
        questions = [m for m in s.messages if m.role == "user"]
        at = s.extra["picture_at"]
        assert [any(p.type == "image" for p in m.content) for m in questions] == [
            n == at for n in range(len(questions))
        ]
        assert "related" not in s.extra["turns"][:at], "no question about the picture before it is shown"
        assert "unrelated" in s.extra["turns"] or at > 0
        responses = [normalise(m.text) for m in s.messages if m.role == "user"]
        assert len(set(responses)) == len(responses)


def test_a_change_of_subject_is_said() -> None:
    """ "What does it mean?" after a sum would be about the sum."""
    for s in samples():
        about = s.extra.get("turns", [])
        questions = [m.text for m in s.messages if m.role == "user"]
        for place in range(s.extra.get("picture_at", 0) + 1, len(about)):
            words = relevance.BACK if about[place] == "related" else relevance.AWAY
            said = questions[place].startswith(words[s.language])
            assert said == (about[place] != about[place - 1])


def test_an_unrelated_question_is_not_about_what_the_picture_shows() -> None:
    """Of the in-car pictures alone: a symbol's name in words never goes with its own picture."""
    known = {s.images[0]: s for s in vertical()}
    made = compose([*vertical()], 400, 0, section=PreferenceSection(shares={"unrelated_image": 1.0})).samples
    assert len(made) == 400
    for s in made:
        scene = known[s.images[0]].scene
        assert scene is not None
        assert scene["names"][s.language][0] not in s.messages[0].text


def test_both_languages_have_unrelated_questions_of_many_kinds() -> None:
    for language in ("en", "zh"):
        tasks = {s.task for s in samples() if s.extra["preference"] == "unrelated_image" and s.language == language}
        assert {"arithmetic", "instruction"} <= tasks
        assert len(tasks) >= 4
