"""Structured output: every response fits, whatever the weights say, and a bad grammar harms nobody."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLParserLimits

from open4ov.engine import Engine, Request
from open4ov.engine.grammar import MAX_SOURCE, Grammar, Grammars
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "深红"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "sure": {"type": "boolean"},
    },
    "required": ["colour", "count", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(tiny_dir: Path) -> Engine:
    return Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir))


@pytest.fixture(scope="module")
def grammars(engine: Engine) -> Grammars:
    return Grammars(engine.processor, engine.model.config.text.vocab_size)


def answers(engine: Engine, grammar: Grammar | None, n: int = 12, **options: Any) -> list[str]:
    request = Request([user("What colour?")], n=n, temperature=1.0, max_tokens=60, grammar=grammar, **options)
    found = engine.generate([request])[0]
    assert {one.finish_reason for one in found} == {"stop"}
    assert all(one.token_ids[-1] == engine.processor.eos_id for one in found)
    return [one.text for one in found]


def test_a_schema_holds_for_random_weights(engine: Engine, grammars: Grammars) -> None:
    found = [json.loads(text) for text in answers(engine, grammars.json_schema(SCHEMA))]
    for one in found:
        assert list(one) == ["colour", "count", "sure"]
        assert one["colour"] in ("red", "green", "深红")
        assert isinstance(one["count"], int)
        assert 0 <= one["count"] <= 99
        assert isinstance(one["sure"], bool)
    assert len({json.dumps(one) for one in found}) > 4, "the model still chooses"


@pytest.mark.parametrize("greedy", [True, False])
def test_a_regular_expression_and_a_choice_hold(engine: Engine, grammars: Grammars, greedy: bool) -> None:
    temperature = {} if not greedy else {"top_k": 1}
    for text in answers(engine, grammars.regex(r"[A-F]{2,4}-\d{3}"), **temperature):
        assert re.fullmatch(r"[A-F]{2,4}-\d{3}", text)
    wanted = ["yes", "no", 'a "quoted" \\ line\nbreak', "你好"]
    assert set(answers(engine, grammars.choice(wanted), **temperature)) <= set(wanted)


def test_penalties_and_cuts_work_inside_what_is_allowed(engine: Engine, grammars: Grammars) -> None:
    options = {"presence_penalty": 2.0, "repetition_penalty": 1.5, "top_p": 0.9, "min_p": 0.01, "top_k": 5}
    assert set(answers(engine, grammars.choice(["0000", "1111"]), **options)) <= {"0000", "1111"}


def test_completions_of_one_grammar_do_not_disturb_one_another(engine: Engine, grammars: Grammars) -> None:
    grammar = grammars.regex("(red|blue|green)( (one|two|three)){2}")
    requests = [
        Request([user("Which?")], n=3, temperature=1.0, max_tokens=40, seed=seed, grammar=grammar if seed % 2 else None)
        for seed in range(6)
    ]
    together = engine.generate(requests)
    for request, found in zip(requests, together, strict=True):
        alone = engine.generate([request])[0]
        assert [one.token_ids for one in alone] == [one.token_ids for one in found]


def test_log_probs_are_the_models_own(engine: Engine, grammars: Grammars) -> None:
    """What a grammar dictates has the probability that the model gives it, not 1."""
    found = engine.generate([Request([user("Go")], max_tokens=20, grammar=grammars.choice(["zebra"]))])[0][0]
    assert found.text == "zebra"
    assert all(value < -0.1 for value in found.log_probs)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda g: g.json_schema({"type": "nonsense"}), "cannot be followed"),
        (lambda g: g.json_schema({"$ref": "#/nowhere"}), "cannot be followed"),
        (lambda g: g.json_schema({"$ref": "https://example.com/schema.json"}), "cannot be followed"),
        (lambda g: g.regex("(a"), "cannot be followed"),
        (lambda g: g.regex("(?=a)a"), "cannot be followed"),
        (lambda g: g.choice([]), "one text or more"),
        (lambda g: g.choice(["a", ""]), "may be empty"),
        (lambda g: g.choice(["\ud800"]), "UTF-8"),
        (lambda g: g.regex("a" * (MAX_SOURCE + 1)), "at most"),
        (lambda g: g.json_schema({"enum": ["x" * 50] * 5000}), "at most"),
    ],
)
def test_a_grammar_that_cannot_be(grammars: Grammars, make: Callable[[Grammars], Grammar], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(grammars)


@pytest.mark.parametrize(
    "make",
    [
        lambda g, word: g.regex(f"({word}"),
        lambda g, word: g.regex(f"{word}{{1000000000}}"),
        lambda g, word: g.json_schema({"type": word}),
        lambda g, word: g.json_schema({"$ref": f"#/{word}"}),
        lambda g, word: g.json_schema({"type": "string", "pattern": f"({word}"}),
        lambda g, word: g.json_schema({"type": "string", word: 1, "format": word}),
        lambda g, word: g.json_schema({"type": "object", "properties": {word: {"$ref": f"https://{word}.example"}}}),
        lambda g, word: g.choice([word, ""]),
    ],
)
def test_what_is_wrong_is_said_in_fixed_words(grammars: Grammars, make: Callable[[Grammars, str], Grammar]) -> None:
    said = set[str]()
    for word in ("zebracrossing", "gnu"):
        with pytest.raises(UserError) as error:
            make(grammars, word)
        assert word not in str(error.value)
        said.add(str(error.value))
    assert len(said) == 1


FAR = [
    "a{1000000000}",
    "a{0,1000000}",
    "a{10000,}b{3}",
    "((a{1000}){1000}){1000}",
    "((a{1,100}b?){1,100}c?){1,100}",
    "(a{100}){0000000101}",
    "a{101}{101}",
    "(a{9" + "9" * 5000 + "})",
    r"[\]a]{20000}",
    "[]a]{20000}",
    r"([(\[]a{200}[)]){200}",
    r"(\(a{200}){200}",
    r"\p{Greek}{20000}",
    "(?x)[a] # [\n a{1000000}",
    "(?:(?P<x>a{200})){200}",
]


@pytest.mark.parametrize("expression", FAR)
def test_repetitions_that_come_to_too_much(grammars: Grammars, expression: str) -> None:
    """Refused before anything is built, be it alone or in a schema."""
    with pytest.raises(UserError, match="repetitions may come to"):
        grammars.regex(expression)
    for schema in ({"type": "string", "pattern": expression}, {"patternProperties": {expression: {"type": "null"}}}):
        with pytest.raises(UserError, match="repetitions may come to"):
            grammars.json_schema({"type": "object", "properties": {"a": {"anyOf": [schema]}}})


@pytest.mark.parametrize(
    "expression",
    [
        "[a-z]{1,255}@[a-z]{1,255}",
        r"(\d{4}-){500}x",
        r"\{99999\}",
        "[{]a[}]",
        r"[a{99999}]",
        "(a|b{9}){9}",
        "x" * 20_000,
    ],
)
def test_repetitions_that_are_in_order(grammars: Grammars, expression: str) -> None:
    grammars.regex(expression)


def test_one_that_is_too_large_for_its_first_token_never_reaches_the_engine(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open4ov.engine import grammar

    monkeypatch.setattr(grammar, "_LIMITS", LLParserLimits(verbose_errors=False, step_lexer_fuel=10))
    with pytest.raises(UserError, match="cannot be followed"):
        grammars.regex("(a|b|c)*a{9000}")


EXPLODING = {
    "nested alternatives": lambda g: g.json_schema(
        {
            "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 3} for i in range(60)} | {"d60": {}},
            "$ref": "#/$defs/d0",
        }
    ),
    "counted repetition": lambda g: g.regex("((a{1,20}b?){1,20}c?){1,20}"),
    "much optional": lambda g: g.regex("(a?){5000}a{4000}"),
    "many patterns": lambda g: g.json_schema(
        {"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": f"^(.*{i}.*)+$"} for i in range(300)}}
    ),
    "an ambiguous expression": lambda g: g.regex("(a|a|aa|(a|b)*a(a|b){18})*"),
    "deep nesting": lambda g: g.json_schema(json.loads('{"items":' * 80 + "{}" + "}" * 80)),
}


@pytest.mark.parametrize("name", EXPLODING)
def test_a_grammar_that_explodes_ends_alone(engine: Engine, grammars: Grammars, name: str) -> None:
    """Refused, or followed, or ended as an error; a neighbour's answer stays what it was."""
    calm = Request([user("Count")], max_tokens=12)
    before = engine.generate([calm])[0][0].token_ids
    try:
        grammar = EXPLODING[name](grammars)
    except UserError:
        return
    wild = Request([user("Go")], max_tokens=12, temperature=1.0, grammar=grammar)
    found = engine.generate([wild, calm])
    assert found[0][0].finish_reason in ("stop", "length", "error")
    assert found[1][0].token_ids == before


def test_one_that_fails_on_the_way_is_marked(
    engine: Engine, grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open4ov.engine.grammar import Progress

    grammar = grammars.regex("[a-z]{1,30}")
    took: list[int] = []
    monkeypatch.setattr(Progress, "take", lambda self, token: took.append(token))
    monkeypatch.setattr(Progress, "failed", property(lambda self: len(took) >= 3))
    found = engine.generate([Request([user("Go")], max_tokens=30, temperature=1.0, grammar=grammar)])[0][0]
    assert found.finish_reason == "error"
    assert len(found.token_ids) == 3
    assert engine.pool.available == engine.pool.count


def test_compiled_once_for_all_threads(grammars: Grammars) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: grammars.regex("[0-9]{7}"), range(32)))
    assert len(set(map(id, found))) == 1


def test_a_grammar_of_other_tokens_is_refused(engine: Engine, tiny_dir: Path) -> None:
    other = Grammars(Processor.from_pretrained(tiny_dir), engine.model.config.text.vocab_size)
    with pytest.raises(ValueError, match="another processor"):
        engine.add(Request([user("Go")], grammar=other.choice(["a"])))
