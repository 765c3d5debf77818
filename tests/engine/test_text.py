"""Pieces of a growing text: whole characters, stop strings held back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from open4ov.engine.text import TextStream, TokenBytes, cut_at_stop
from open4ov.model import Processor

NANO = Processor.from_pretrained(Path(__file__).parents[2] / "src" / "open4ov" / "assets" / "nano")


def pieces(data: bytes, stop: tuple[str, ...] = ()) -> list[str]:
    """One byte a token, decoded as a byte-level tokenizer does."""
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), stop)
    return [stream.push(list(data[:end]), last=end == len(data)) for end in range(1, len(data) + 1)]


def test_characters_are_never_split() -> None:
    given = pieces("é红x".encode())
    assert given == ["", "é", "", "", "红", "x"]


def test_broken_bytes_at_the_end_are_shown() -> None:
    assert "".join(pieces(b"a\xe7")) == "a\ufffd"


@pytest.mark.parametrize(("text", "stop", "shown"), [("one END two", ("END",), "one "), ("E EN", ("END",), "E EN")])
def test_stop_strings(text: str, stop: tuple[str, ...], shown: str) -> None:
    given = pieces(text.encode(), stop)
    assert "".join(given) == shown == cut_at_stop(text, stop)


def test_what_may_begin_a_stop_string_waits() -> None:
    assert pieces(b"aENb", ("END",)) == ["a", "", "", "ENb"]


def test_the_first_of_several_stops_counts() -> None:
    assert cut_at_stop("abcd", ("d", "b")) == "a"


def test_tokens_are_shown_when_all_their_text_is() -> None:
    words = ["a", "bE", "N", "x"]
    stream = TextStream(lambda ids: "".join(words[one] for one in ids), ("END",))
    found = [(stream.push(list(range(end)), last=end == 4), stream.shown(list(range(end)))) for end in range(1, 5)]
    assert found == [("a", 1), ("b", 1), ("", 1), ("ENx", 4)]


@settings(max_examples=50, deadline=None)
@drawn(text=st.text())
def test_bytes_of_tokens_are_those_of_the_text(text: str) -> None:
    spelled = TokenBytes(NANO.tokenizer)
    ids = NANO.tokenize(text)
    assert b"".join(map(spelled.of, ids)) == NANO.decode(ids).encode()


def test_every_token_has_the_bytes_that_it_decodes_to() -> None:
    spelled = TokenBytes(NANO.tokenizer)
    for token in range(NANO.tokenizer.get_vocab_size()):
        assert spelled.of(token).decode(errors="replace") == NANO.decode([token])
    assert spelled.of(NANO.eos_id) == b""
    assert spelled.of(10**6) == b""
