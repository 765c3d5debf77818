"""What cannot be trained on is listed, split or refused, and nothing else is touched."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from looped import Bench, coloured

from open4ov.errors import UserError
from open4ov.sample import Message, Part, Sample, assistant, user
from open4ov.sft import curriculum
from open4ov.sft.screen import answered, origins, rounds, screen, split
from open4ov.store import ImageStore


def words(sample: Sample) -> int:
    """A length that can be counted by hand: words, and ten for each picture that is shown."""
    parts = [part for message in sample.messages for part in message.content]
    return sum(10 if part.type != "text" else len((part.text or "").split()) for part in parts)


def talk(*answers: str, images: int = 1, id: str = "a") -> Sample:
    """A conversation about a picture: questions of four words each."""
    messages: list[Message] = [Message(role="system", content=[Part(type="text", text="Be brief")])]
    for number, answer in enumerate(answers):
        messages += [user(f"What is number {number}", images=images if number == 0 else 0), assistant(answer)]
    return Sample(id=id, source="t", task="t", images=["x"] * images, messages=messages)


def kept(samples: list[Sample], limit: int = 40, **choice: str) -> tuple[list[str], list[str], list[str], list[str]]:
    options = {"too_long": "skip", "empty_answers": "skip", **choice}
    found = screen(samples, words, limit, **options)  # pyright: ignore[reportArgumentType]
    return [s.id for s in found.samples], found.too_long, found.split, found.empty


GOOD, LONG, BLANK = talk("red"), talk("one " * 50, id="long"), talk(" \n\t", id="blank")


def test_long_samples_and_blank_answers_are_listed() -> None:
    assert kept([GOOD, LONG, BLANK]) == (["a"], ["long"], [], ["blank"])
    assert kept([GOOD]) == (["a"], [], [], [])


def test_what_the_recipe_refuses_stops_the_run_with_the_ids() -> None:
    many = [LONG.model_copy(update={"id": f"long{n}"}) for n in range(20)]
    with pytest.raises(UserError, match=r"20 samples are longer than a pack .*= 40\): long0, long1, .* and 8 more"):
        kept([GOOD, *many], too_long="refuse")
    with pytest.raises(UserError, match="1 samples have an answer of nothing but blanks: blank; mend them"):
        kept([GOOD, BLANK], empty_answers="refuse")


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to train on: 0 samples were given"):
        kept([])
    with pytest.raises(UserError, match=r"2 samples were given, 1 of them are longer .* 1 have no answer"):
        kept([LONG, BLANK])


def test_a_conversation_is_split_between_rounds_and_shows_its_picture_again() -> None:
    sample = talk("a b c", "d e f", "g h i", "j k l", images=2)
    assert words(sample) == 2 + 20 + 28
    first, second = split(sample, words, 38)
    assert [words(first), words(second)] == [36, 36]
    for part, asked in ((first, (0, 1)), (second, (2, 3))):
        assert [m.role for m in part.messages] == ["system", "user", "assistant", "user", "assistant"]
        assert [m.text for m in part.messages if m.role == "user"] == [f"What is number {n}" for n in asked]
        assert [(p.type, p.index) for p in part.messages[1].content] == [("image", 0), ("image", 1), ("text", None)]
        assert part.lineage == ["a"]
    assert first.id != second.id
    assert split(sample, words, 28) == [], "a round with the pictures it refers to is longer"
    assert kept([sample], 38, too_long="split")[1:] == ([], ["a"], [])
    assert kept([GOOD, sample], 28, too_long="split") == (["a"], ["a"], [], [])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=9), st.integers(5, 90))
def test_parts_have_every_round_once_and_fit(turns: list[tuple[int, int]], limit: int) -> None:
    messages: list[Message] = []
    pictures = 0
    for number, (images, length) in enumerate(turns):
        messages += [user(f"q{number}", images, pictures), assistant("w " * length)]
        pictures += images
    sample = Sample(id="a", source="t", task="t", images=["x"] * pictures, messages=messages)
    parts = split(sample, words, limit)
    if not parts:
        return
    assert all(words(part) <= limit for part in parts)
    assert [m.text for part in parts for m in part.messages] == [m.text for m in messages]
    seen: list[int] = []
    for part in parts:
        shown = [p.index for m in part.messages for p in m.content if p.type == "image"]
        assert shown[: len(seen)] == seen, "what earlier parts have shown stands first"
        assert len(shown) == len(set(shown))
        seen = [index for index in shown if index is not None]
    assert len(parts) > 1 or words(sample) <= limit


def test_a_blank_round_is_left_out_of_a_joined_conversation_under_its_own_name() -> None:
    singles = [talk(answer, id=f"id{n}").model_copy(deep=True) for n, answer in enumerate(("red", " ", "blue"))]
    singles = [s.model_copy(update={"messages": s.messages[1:]}) for s in singles]
    (joined,) = curriculum.merge(singles, 3, random.Random(0))
    assert sorted(origins(joined)) == ["id0", "id1", "id2"]
    rest, blank = answered(joined)
    assert blank == ["id1"]
    assert rest is not None
    assert [turn[-1].text for turn in rounds(rest)[1]] == [
        turn[-1].text for turn in rounds(joined)[1] if turn[-1].text.strip()
    ]
    assert rest.messages[0].content[0].type == "image"
    assert words(rest) == words(joined) - 4
    assert answered(rest) == (rest, [])


def test_pictures_of_blank_rounds_are_shown_in_the_next_one() -> None:
    messages = [
        user("a", 1),
        assistant(" "),
        user("b"),
        assistant("x"),
        user("c", 1, 1),
        assistant(""),
        user("d"),
        assistant("y"),
    ]
    rest, blank = answered(Sample(id="a", source="t", task="t", images=["x", "y"], messages=messages))
    assert blank == ["a"]
    assert rest is not None
    assert [[(p.index, p.text) for p in m.content] for m in rest.messages if m.role == "user"] == [
        [(0, None), (None, "b")],
        [(1, None), (None, "d")],
    ]


def test_a_missing_picture_is_named_with_its_sample_before_training_begins(tiny_dir: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    samples = coloured(store, 4)
    store.path(samples[2].images[0]).unlink()
    with pytest.raises(UserError, match=r"sample s2: .*\.png: is missing"):
        Bench(tiny_dir, store).train(samples)


def test_the_summary_of_a_training_lists_them(tiny_dir: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    samples = coloured(store, 4)
    for number, answer in ((1, "  "), (2, "red green blue " * 40)):
        messages = [samples[number].messages[0], assistant(answer)]
        samples[number] = samples[number].model_copy(update={"messages": messages})
    _, result = Bench(tiny_dir, store).train(samples)
    assert {key: result.summary[key] for key in ("too_long", "split", "empty")} == {
        "too_long": ["s2"],
        "split": [],
        "empty": ["s1"],
    }
    long = samples[0].model_copy(
        update={
            "id": "two",
            "messages": [*samples[0].messages, user("What?"), assistant("red " * 25)],
        }
    )
    _, result = Bench(tiny_dir, store).train([long], {"pack_tokens": 64, "too_long": "split"})
    assert result.summary["split"] == ["two"]
    assert len(result.curve) == 2
