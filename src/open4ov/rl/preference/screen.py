"""Preference pairs that cannot be trained on, found before the training and listed by what is wrong with them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from open4ov.errors import UserError
from open4ov.rl.preference.prompts import PictureMissing, Prompts
from open4ov.sample import Sample

FAULTS = {
    "empty": "a response without text",
    "equal": "two equal responses",
    "too_long": "longer than dpo.max_tokens",
    "picture_missing": "a picture is not in the store, or cannot be read",
    "not_encoded": "the prompt cannot be encoded",
}
"""What can be wrong with a pair: its name in left_out.json, and how a user is told of it"""


@dataclass
class Screened:
    """The pairs that can be trained on, with their `tokens` (prompt and both responses), and of each fault the ids."""

    pairs: list[Sample] = field(default_factory=list[Sample])
    tokens: list[int] = field(default_factory=list[int])
    listed: dict[str, list[str]] = field(default_factory=lambda: {fault: [] for fault in FAULTS})


def texts(pair: Sample) -> tuple[str, str]:
    """The chosen and the rejected response. Raises ValueError for a sample that is no pair."""
    if not is_pair(pair):
        raise ValueError(f"sample {pair.id} is no preference pair: it needs a chosen and a rejected response")
    assert pair.rejected is not None
    return pair.messages[-1].text, pair.rejected[-1].text


def is_pair(sample: Sample) -> bool:
    """Whether a sample is a prompt that ends with the user's turn, a chosen response and a rejected one."""
    chosen, rejected = sample.messages[-1:], sample.rejected or []
    return (
        [m.role for m in sample.messages[-2:]] == ["user", "assistant"]
        and [m.role for m in rejected] == ["assistant"]
        and all(part.type == "text" for m in (*chosen, *rejected) for part in m.content)
    )


def fault(pair: Sample) -> str | None:
    """What of a pair's responses is wrong; None when nothing is. Raises ValueError for a sample that is no pair."""
    chosen, rejected = (unicodedata.normalize("NFC", text).strip() for text in texts(pair))
    if not chosen or not rejected:
        return "empty"
    return "equal" if chosen == rejected else None


def screen(pairs: Sequence[Sample], prompts: Prompts, longest: int) -> Screened:
    """The pairs in their order. `longest`: tokens of a prompt, its pictures among them, with the longer response.

    Raises ValueError for a sample that is no pair.
    """
    found = Screened()
    for pair in pairs:
        wrong, tokens = fault(pair), 0
        if wrong is None:
            try:
                prompt = len(prompts(pair))
            except PictureMissing:
                wrong = "picture_missing"
            except UserError:
                wrong = "not_encoded"
            else:
                lengths = [len(prompts.response(text)) for text in texts(pair)]
                tokens = prompt + sum(lengths)
                wrong = "too_long" if prompt + max(lengths) > longest else None
        if wrong is None:
            found.pairs.append(pair)
            found.tokens.append(tokens)
        else:
            found.listed[wrong].append(pair.id)
    return found
