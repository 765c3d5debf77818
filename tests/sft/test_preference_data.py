"""The preference set as a whole: its kinds and shares, no repetition, no contradiction, splits, lineage, report."""

from __future__ import annotations

from collections import Counter

import pytest
from preference_samples import everything, general, vertical

from open4ov.answers import INSTRUCTION, normalise
from open4ov.errors import UserError
from open4ov.recipe_preference import SHARES, PreferenceSection
from open4ov.sample import Sample, assistant, user
from open4ov.sft import preference_data
from open4ov.sft.preference_data import build, compose, report


@pytest.fixture(scope="module")
def made() -> preference_data.Made:
    return compose(everything(), 1000, seed=0, longest=700)


def test_every_kind_has_its_share_in_both_languages(made: preference_data.Made) -> None:
    assert len(made.samples) == 1000
    kinds = Counter(s.extra["preference"] for s in made.samples)
    assert kinds == {kind: round(1000 * share) for kind, share in SHARES.items()}
    for kind, counts in made.report["kinds"].items():
        assert counts["en"] + counts["zh"] == kinds[kind]
        assert min(counts["en"], counts["zh"]) > 0.3 * kinds[kind], kind
    assert made.report["fell_out"] == made.report["short"] == {}
    assert made.notes() == []
    assert all(counts["fail"] == 0 for counts in made.report["checks"].values())


def test_conversations_are_whole(made: preference_data.Made) -> None:
    known = {s.id: s for s in everything()}
    for s in made.samples:
        roles = [m.role for m in s.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        shown = [p.index for m in s.messages for p in m.content if p.type == "image"]
        assert shown == list(range(len(s.images)))
        assert all(m.text.strip() for m in s.messages)
        assert s.lineage
        pictures = {sha for name in s.lineage if name in known for sha in known[name].images}
        assert set(s.images) <= pictures, "every picture comes with a sample of the lineage"
    assert len({s.id for s in made.samples}) == len(made.samples)
    said = Counter((*s.images, *(m.text for m in s.messages)) for s in made.samples)
    assert max(said.values()) == 1, "no conversation is there twice, under whatever kind"


def test_nothing_is_asked_twice_with_different_answers(made: preference_data.Made) -> None:
    """Read anew from the finished set, not by the book that kept it so."""
    told: dict[tuple[str, str], set[str]] = {}
    for s in made.samples:
        if len(s.messages) == 2 and s.answer is not None:
            told.setdefault((" ".join(s.images), normalise(s.messages[0].text)), set()).add(normalise(s.answer))
    assert len(told) > 200
    assert {question for question, answers in told.items() if len(answers) > 1} == set()


def test_samples_that_contradict_each_other_are_left_out_together() -> None:
    def one(name: str, answer: str, aliases: tuple[str, ...] = ()) -> Sample:
        return Sample(
            id=name, source="t", task="colour", images=["a"], answer=answer, aliases=list(aliases),
            messages=[user("Which colour?", images=1), assistant(answer)],
        )  # fmt: skip

    words = [s for s in general(5) if not s.images]
    at_odds = compose([one("1", "red"), one("2", "blue"), *words], 20, 0)
    assert at_odds.report["left_out"]["answered in two ways"] == 1
    assert not any(s.images for s in at_odds.samples)
    agreed = compose([one("1", "red"), one("2", "reddish", ("red",)), *words], 20, 0)
    assert "answered in two ways" not in agreed.report["left_out"]
    assert agreed.report["left_out"]["a question that is there already"] == 1
    assert any(s.images for s in agreed.samples)


def test_unusable_samples_are_counted() -> None:
    good = next(iter(general(1)))
    bad = [
        good.model_copy(update={"id": "1", "messages": good.messages[:1]}),
        good.model_copy(update={"id": "2", "images": [*good.images, "b"]}),
        good.model_copy(update={"id": "3", "messages": [good.messages[0], assistant("  ")]}),
        good.model_copy(update={"id": "4", "answer": " "}),
        Sample(id="5", source="t", task="t", messages=[user("What is in the picture?"), assistant("A cat.")]),
    ]
    assert compose([good, *bad], 3, 0).report["left_out"] == {
        "an empty answer": 1,
        "an empty question or response": 1,
        "not a single question with a response": 1,
        "several pictures, or a video": 1,
        "speaks of a picture and has none": 1,
    }


def test_of_a_conversation_the_first_question_is_used() -> None:
    """An imported open set has little else than conversations."""
    whole = [
        Sample(
            id=f"c{n}", source="open", task="chat", images=[f"p{n}"],
            messages=[
                user(f"What is number {n}?", images=1), assistant(f"A thing {n}."), user("And it?"), assistant("That."),
            ],
        )
        for n in range(6)
    ]  # fmt: skip
    section = PreferenceSection(shares={"related_image": 0.5, "long_context": 0.5})
    made = compose([*whole, *(s for s in general(60) if not s.images)], 12, 0, section=section)
    assert made.report["left_out"].get("not a single question with a response", 0) == 0
    related = [s for s in made.samples if s.extra["preference"] == "related_image"]
    assert related
    for s in related:
        assert s.messages[0].text.startswith("What is number")
        assert len(s.messages) == 2
        assert s.answer is None


def test_a_validation_sample_shares_nothing_with_training() -> None:
    samples = [*vertical(), *general(60), *general(40, "val")]
    made = compose(samples, 200, seed=1)
    assert set(made.report["splits"]) == {"train", "val"}
    pictures: dict[str, set[str]] = {"train": set(), "val": set()}
    parents: dict[str, set[str]] = {"train": set(), "val": set()}
    for s in made.samples:
        pictures[s.split] |= set(s.images)
        parents[s.split] |= set(s.lineage)
    assert pictures["val"]
    assert not pictures["train"] & pictures["val"]
    assert not parents["train"] & parents["val"]


def test_the_same_seed_gives_the_same_set() -> None:
    samples = [*[*vertical()][:100], *general(20)]
    first = build(samples, 120, seed=3)
    assert [s.model_dump() for s in first] == [s.model_dump() for s in build(samples, 120, seed=3)]
    assert [s.id for s in first] != [s.id for s in build(samples, 120, seed=4)]


def test_kinds_without_ingredients_fall_out_and_it_is_said() -> None:
    pictures = [s for s in general(60) if s.images]
    made = compose(pictures, 100, seed=0)
    relevance = {"text_only", "unrelated_image", "related_image", "unrelated_dialogue"}
    assert set(made.report["fell_out"]) == relevance
    assert made.report["fell_out"]["text_only"] == "there is no question without a picture"
    assert {s.extra["preference"] for s in made.samples} == set(SHARES) - relevance
    assert len(made.samples) == 100
    assert any("no text_only" in note for note in made.notes())
    words = [s for s in general(60) if not s.images]
    made = compose(words, 100, seed=0)
    assert set(made.report["fell_out"]) == {"unrelated_image", "related_image", "unrelated_dialogue", "long_context"}
    assert len(made.samples) == 100
    assert compose([], 30, seed=0).samples == []
    assert build([], 30, seed=0) == []


def test_a_kind_that_runs_out_is_named_and_the_others_take_its_place() -> None:
    samples = [*(s for s in general(60) if s.images), *[s for s in general(3) if not s.images]]
    section = PreferenceSection(shares={"text_only": 0.5, "long_context": 0.5})
    made = compose(samples, 100, seed=0, section=section)
    assert len(made.samples) == 100
    texts = sum(s.extra["preference"] == "text_only" for s in made.samples)
    assert texts < 50
    assert made.report["short"] == {"text_only": f"no more than {texts} different ones can be made of these samples"}


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown kind 'markdwon'; did you mean 'markdown'"):
        compose([], 5, 0, section=PreferenceSection(shares={"markdwon": 1.0}))


def test_shares_are_kept_to() -> None:
    section = PreferenceSection(shares={"human": 0.75, "needle": 0.25})
    made = compose([*general(30)], 40, 0, section=section)
    assert Counter(s.extra["preference"] for s in made.samples) == {"human": 30, "needle": 10}


def test_hard_samples_join_up_to_their_share() -> None:
    hard = [
        Sample(id=f"h{n}", source="t", task="t", messages=[user(f"Hard {n}?")], extra={"preference": "high_difficulty"})
        for n in range(50)
    ]
    made = compose([*general(30)], 100, 0, section=PreferenceSection(hard_share=0.1), hard=hard)
    assert Counter(s.extra["preference"] for s in made.samples)["high_difficulty"] == 10
    assert made.report["hard"] == {"given": 50, "taken": 10}
    assert len(made.samples) == 110
    taken = {s.id for s in made.samples if s.id.startswith("h")}
    assert taken != {f"h{n}" for n in range(10)}, "a draw, not the first ones"
    again = compose([*general(30)], 100, 1, section=PreferenceSection(hard_share=0.1), hard=hard)
    assert taken != {s.id for s in again.samples if s.id.startswith("h")}


def test_a_hard_sample_that_is_answered_otherwise_in_the_set_stays_out() -> None:
    samples = [s for s in general(20) if not s.images]
    first = compose(samples, 30, 0)
    one = next(s for s in first.samples if len(s.messages) == 2 and s.answer)
    other = one.model_copy(update={"id": "h", "answer": "otherwise", "messages": [one.messages[0], assistant("no")]})
    again = compose(samples, 30, 0, hard=[other])
    assert again.report["hard"] == {"given": 1, "taken": 0}


def test_questions_without_a_picture_are_made_in_chinese_too(made: preference_data.Made) -> None:
    texts = [s for s in made.samples if s.extra["preference"] == "text_only" and s.language == "zh"]
    assert len({s.task for s in texts}) >= 4
    assert any(INSTRUCTION["zh"] in s.messages[0].text for s in texts)
    assert report(texts)["kinds"] == {"text_only": {"zh": len(texts)}}
