"""Structured output: what a response may be, by JSON schema, regular expression or choice.

llguidance does the work. A grammar is compiled before a request reaches the engine, within limits of its own, and says
there what may come first; in the engine it only says, token by token, which ones may come next. One that turns out too
large on the way ends its own response (`finish_reason` "error") and nothing else. What is wrong with a grammar is told
in fixed words: nothing of it is repeated.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor

from open4ov.engine.repeats import MOST, schema_too_many, too_many
from open4ov.errors import UserError
from open4ov.model import Processor

MAX_SOURCE = 100_000
"""Characters of a schema, an expression or all choices"""
KEPT = 64
"""Compiled grammars that are kept"""
_LIMITS = LLParserLimits(verbose_errors=False)
_REPEATS = (
    "the {} cannot be followed: counted repetitions may come to " + f"{MOST} places at most, and no flag x is known"
)
_ALLOWED = {
    "schema": "it must be a JSON schema of keywords that llguidance knows, referring to itself only, and not too large",
    "regular expression": "it must be of Rust's syntax (no look-around, no references back), and not too large",
    "choice": "its texts are too many or too long",
}


class Grammar:
    """A compiled grammar of one processor's tokens. Completions do not share where they stand in it (`begin`)."""

    def __init__(self, matcher: LLMatcher, processor: Processor, tokens: LLTokenizer) -> None:
        self._matcher, self.processor, self._tokens = matcher, processor, tokens

    def begin(self) -> Progress:
        return Progress(self._matcher.deep_copy(), self._tokens)


class Progress:
    """How far one response has come in its grammar."""

    def __init__(self, matcher: LLMatcher, tokens: LLTokenizer) -> None:
        self._matcher, self._tokens = matcher, tokens
        self.dictated: list[bool] = []
        """Of each token taken: whether no other text could have stood there"""

    @property
    def failed(self) -> bool:
        """Whether it cannot go on: the grammar is too large for its limits here."""
        return self._matcher.is_error()

    def take(self, token: int) -> None:
        """The next token of the response."""
        only = b"" if self.failed else self._matcher.compute_ff_bytes()
        self.dictated.append(bool(only) and only.startswith(self._tokens.decode_bytes([token])))
        self._matcher.consume_token(token)

    def fill(self, bits: np.ndarray[Any, np.dtype[np.int32]], row: int) -> None:
        """Sets which tokens may come next in a row of `bits` [rows, words of 32 tokens]."""
        fill_next_token_bitmask(self._matcher, bits, row)


def allowed(progresses: Sequence[Progress], vocabulary: int) -> Tensor:
    """Bool [rows, vocabulary]: the tokens that may come next; all of them in a row that has failed."""
    bits = allocate_token_bitmask(len(progresses), vocabulary)
    for row, progress in enumerate(progresses):
        progress.fill(bits, row)
        if progress.failed:
            bits[row] = -1
    flat = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    return torch.from_numpy(flat[:, :vocabulary].astype(bool))


class Grammars:
    """Compiles grammars for a processor, one at a time, and keeps the latest. `vocabulary`: the model's tokens.

    All methods raise UserError for what is malformed or larger than the limits.
    """

    def __init__(self, processor: Processor, vocabulary: int) -> None:
        self.processor = processor
        self._vocabulary = vocabulary
        self._tokens: LLTokenizer | None = None
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def json_schema(self, schema: dict[str, Any] | bool) -> Grammar:
        """JSON that fits a schema. One way of writing only: `, ` and `: `, no other spaces."""
        text = json.dumps(schema)
        _limit(text)
        if schema_too_many(schema):
            raise UserError(_REPEATS.format("schema's patterns"))
        options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        try:
            source = LLMatcher.grammar_from_json_schema(text, overrides=cast(Any, options))
        except ValueError:
            raise UserError("the schema is not a JSON schema") from None
        return self._compile(source, "schema")

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, expression: str) -> Grammar:
        """Text that an expression matches as a whole (Rust's syntax: no look-around, no references back)."""
        _limit(expression)
        if too_many(expression):
            raise UserError(_REPEATS.format("regular expression"))
        return self._compile(LLMatcher.grammar_from_regex(expression), "regular expression")

    def choice(self, texts: Sequence[str]) -> Grammar:
        """One of the texts."""
        if not texts or not all(texts):
            raise UserError("a choice needs one text or more, and none may be empty")
        _limit("".join(texts))
        alternatives = "\n  | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return self._compile(LLMatcher.grammar_from_lark(f"start: {alternatives}\n"), "choice")

    def _compile(self, source: str, what: str) -> Grammar:
        with self._lock:
            if source in self._kept:
                self._kept.move_to_end(source)
                return self._kept[source]
            if self._tokens is None:
                tokens = self.processor.tokenizer.to_str()
                self._tokens = LLTokenizer(tokens, n_vocab=self._vocabulary, eos_token=self.processor.eos_id)
            matcher = LLMatcher(self._tokens, source, log_level=0, limits=_LIMITS)
            if matcher.is_error() or not _begins(matcher, self._vocabulary):
                raise UserError(f"the {what} cannot be followed: {_ALLOWED[what]}")
            grammar = self._kept[source] = Grammar(matcher, self.processor, self._tokens)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return grammar


def _begins(matcher: LLMatcher, vocabulary: int) -> bool:
    """Whether it can say what may come first, which is the largest piece of work."""
    first = matcher.deep_copy()
    fill_next_token_bitmask(first, allocate_token_bitmask(1, vocabulary), 0)
    return not first.is_error()


def _limit(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("a grammar must be text that UTF-8 can write") from None
    if len(text) > MAX_SOURCE:
        raise UserError(f"a grammar may have at most {MAX_SOURCE} characters")
