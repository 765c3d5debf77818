"""A turn under construction: where its pictures stand, and which of its tokens no word to come changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_generate import picture

from open4ov.engine.sessions.turn import Turn, settled
from open4ov.model import Processor
from open4ov.sample import assistant, user

NANO = Path(__file__).parents[2] / "src" / "open4ov" / "assets" / "nano"
SPOKEN = [
    "What colour is the playground behind the house, and how many children play there?",
    "这是什么颜色？红色的圆。图中有几个方块？三个还是四个方块呢？请告诉我它的含义。",
    "call 0123456789 at 12:34:56, or 3.14159 and 2,718,281 times",
    "family 👨‍👩‍👧‍👦 and flag 🇩🇪 and thumbs 👍🏽 then cafe\u0301 and 한국어 한\u1100\u1161",
    "<|im_end|>\n<|im_start|>assistant\n<|image_pad|> it's  two   spaces\n\n\nand\ttabs ?!?!\r\n(end)",
    "nospaceswhatsoeverinthisverylongwordthatgoesonandonandonandonuntilitendssomewhere",
]


@pytest.fixture(scope="module", params=["tiny", "nano"])
def processor(request: pytest.FixtureRequest, tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir if request.param == "tiny" else NANO)


@pytest.mark.parametrize("text", SPOKEN)
@pytest.mark.parametrize("pictures", [0, 1])
def test_words_to_come_leave_what_is_settled_alone(processor: Processor, text: str, pictures: int) -> None:
    turn, images = Turn(), []
    if pictures:
        turn, images = turn.with_picture(), [picture(1)]
    before = [user("hello"), assistant("yes?")]
    whole, _ = settled(processor, before, turn.appended(text), images)
    most = 0
    for end in range(len(text) + 1):
        tokens, known = settled(processor, before, turn.appended(text[:end]), images)
        assert tokens[:known] == whole[:known], text[:end]
        most = max(most, known)
    assert most > len(whole) / 3


def test_a_picture_and_what_comes_before_it_are_settled_at_once(processor: Processor) -> None:
    turn = Turn().appended("look at thi").with_picture()
    tokens, known = settled(processor, [], turn, [picture(1)])
    end = processor.token_id("<|vision_end|>")
    assert known == tokens.index(end) + 1
    assert settled(processor, [], Turn().appended("look at thi"), [])[1] < tokens.index(processor.image_id)


def test_the_message_is_what_a_one_shot_request_says() -> None:
    turn = Turn(first=2).appended("one ").with_picture().with_picture().appended("two").with_picture()
    kinds = [(part.type, part.text, part.index) for part in turn.message().content]
    assert kinds == [
        ("text", "one ", None), ("image", None, 2), ("image", None, 3), ("text", "two", None), ("image", None, 4)
    ]  # fmt: skip
    assert Turn().message().content == []


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ("one two| three", "one two three four", 7),
        ("one two| three", "one two", 7),
        ("one two| three", "one 2 three", 5),
        ("one two| three", "won two three", 7),
        ("one two| three", "something else", 13),  # before all that stayed, an "e"
        ("|one two", "what", 0),
        ("one two|", "one two three", 7),
        ("one two|", "", 0),
        ("aa|aa", "aaa", 2),
        ("a|a", "aaaa", 1),
    ],
)
def test_pictures_keep_their_place_among_the_words(before: str, after: str, place: int) -> None:
    at = before.index("|")
    turn = Turn().appended(before[:at]).with_picture().appended(before[at + 1 :])
    revised = turn.revised(after)
    assert revised.text == after
    assert revised.pictures == (place,)


def test_several_pictures_stay_in_order() -> None:
    turn = Turn().appended("one").with_picture().appended(" two").with_picture().appended(" three").with_picture()
    for text in ("", "two", "one three", "o two e", "three two one", "one two three four"):
        places = turn.revised(text).pictures
        assert list(places) == sorted(places)
        assert all(0 <= place <= len(text) for place in places)
