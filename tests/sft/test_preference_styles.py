"""Styles are asked for in words and checked on the text; markdown-it reads the Markdown as an independent oracle."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from preference_samples import everything, vertical

from open4ov.answers import words
from open4ov.mllm.ask import AnswerError
from open4ov.recipe_preference import PreferenceSection
from open4ov.sample import Sample, assistant, user
from open4ov.sft.preference import checks, styles
from open4ov.sft.preference.phrases import CLOSERS, OPENERS, REQUESTS, SPOKEN
from open4ov.sft.preference.rewrite import rewrite, wrong
from open4ov.sft.preference_data import compose

SHARES = {"markdown": 0.4, "human": 0.2, "concise": 0.2, "usual": 0.2}
PARSER = MarkdownIt("commonmark").enable("table")
TOKENS = {"list": "bullet_list_open", "table": "table_open", "heading": "heading_open", "keys": "strong_open"}


def tokens(text: str) -> set[str]:
    found = PARSER.parse(text)
    return {t.type for t in found} | {c.type for t in found for c in t.children or ()}


@pytest.fixture(scope="module")
def made() -> list[Sample]:
    return compose(everything(), 600, seed=0, section=PreferenceSection(shares=SHARES)).samples


def test_the_style_follows_the_request_and_only_the_request(made: list[Sample]) -> None:
    said = {w: style for style, by in REQUESTS.items() for ws in by.values() for w in ws}
    for s in made:
        kind, question, response = s.extra["preference"], s.messages[0].text, s.messages[1].text
        asked = {style for wording, style in said.items() if wording in question}
        if kind == "usual":
            assert asked == set()
            assert checks.usual(response, s.language), response
            continue
        assert asked == {s.extra["style"]}
        assert checks.CHECKS[kind](response, s.language), response
        assert s.checks == {kind: True, "facts": True}
        if kind == "markdown":
            assert s.extra["style"] in checks.structures(response)
            assert TOKENS[s.extra["style"]] in tokens(response), response
        else:
            assert not tokens(response) & {*TOKENS.values(), "ordered_list_open", "code_inline"}, response


def test_every_style_is_asked_for_in_several_wordings_of_both_languages(made: list[Sample]) -> None:
    for style, by in REQUESTS.items():
        for language, wordings in by.items():
            assert len(set(wordings)) == len(wordings) >= 6
            used = [w for w in wordings if any(w in s.messages[0].text for s in made if s.language == language)]
            assert len(used) >= 3, (style, language)
            assert wordings[-1] not in used, "the last one is kept for measuring"


def test_the_facts_of_the_samples_are_all_there_and_nothing_else(made: list[Sample]) -> None:
    known = {s.id: s for s in everything()}
    frames = {w for by in (OPENERS, CLOSERS) for texts in by.values() for t in texts for w in words(t)}
    frames |= {w for by in SPOKEN.values() for texts in by.values() for t in texts for w in words(t)}
    for s in made:
        assert checks.keeps(s.messages[1].text, s.extra["facts"])
        parts = [known[name] for name in s.lineage if name in known]
        if len(parts) == len(s.lineage):
            assert {p.answer for p in parts} == set(s.extra["facts"])
            for part in parts:
                assert (
                    part.messages[0].text.replace("The final answer MUST BE put in \\boxed{}.", "").strip()
                    in s.messages[0].text
                )
        if s.extra["preference"] == "human":
            facts = {w for fact in s.extra["facts"] for w in words(fact)}
            assert set(words(s.messages[1].text)) <= frames | facts


def test_the_usual_style_has_counterparts_of_every_length(made: list[Sample]) -> None:
    """The same questions, one or several, with and without a request; so it is the request that makes the style."""
    for kind in ("usual", "human", "markdown"):
        facts = {len(s.extra["facts"]) for s in made if s.extra["preference"] == kind}
        assert facts == {1, 2, 3}, kind
        pictured = [bool(s.images) for s in made if s.extra["preference"] == kind]
        assert 0.5 < sum(pictured) / len(pictured) < 0.9, kind


def test_knowledge_in_plain_words_is_in_no_style() -> None:
    for s in vertical():
        assert not checks.human(s.messages[1].text, s.language)
        assert checks.usual(s.messages[1].text, s.language)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("- a\n- b", {"list"}),
        ("1. a\n2. b", {"list"}),
        ("## Title\n\ntext", {"heading"}),
        ("#Title", set()),
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", {"table"}),
        ("| a | b |\n| --- | --- |", set()),
        ("| a | b |\n| --- | --- |\n| 1 |", set()),
        ("| a | b |\n| 1 | 2 |", set()),
        ("**Key**: value", {"keys"}),
        ("**Key**：值", {"keys"}),
        ("- **Key**: value", {"list", "keys"}),
        ("a **bold** word", set()),
        ("plain text - with a dash", set()),
        ("-no item", set()),
    ],
)
def test_structures(text: str, found: set[str]) -> None:
    assert checks.structures(text) == found


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b c", "7"]), st.sampled_from(["x", "y z", "1.5"])), min_size=1, max_size=4
    ),
    st.sampled_from(["list", "table", "heading", "keys"]),
)
def test_what_is_written_reads_as_markdown(pairs: list[tuple[str, str]], form: str) -> None:
    facts = [
        styles.Fact(Sample(id=k, source="t", task="t", messages=[user(k), assistant(v)], answer=v), "colour", v)
        for k, v in pairs
    ]
    text = styles.written(facts, form)
    assert checks.markdown(text)
    assert form in checks.structures(text)
    assert TOKENS[form] in tokens(text)


def test_markdown_that_breaks_off_is_none() -> None:
    assert not checks.markdown("| a | b |\n| --- | --- |\n| 1 | 2 |\n\n| c |")
    assert not checks.markdown("- **a: b")
    assert not checks.markdown("just text")


def test_human_and_concise_are_told_apart() -> None:
    spoken = styles.spoken(
        [
            styles.Fact(
                Sample(id="a", source="t", task="naming", messages=[user("?"), assistant("cat")]), "naming", "cat"
            )
        ],
        random.Random(0),
    )
    assert checks.human(spoken, "en")
    assert not checks.concise(spoken + " " + spoken, "en")
    assert not checks.human("Cat.", "en")
    assert not checks.human("Sure, I can!\n\n- a cat\n- a dog. I hope that helps.", "en")
    assert checks.concise("cat", "en")
    assert not checks.concise("3+4=7", "en")
    assert not checks.concise("\\boxed{7}", "en")
    assert not checks.concise("", "en")
    assert checks.human("好的，我来告诉您！这叫机油压力低，请您安全停车。", "zh")


class Writer:
    """An asker whose model answers as it is told."""

    def __init__(self, answers: list[str | Exception]) -> None:
        self.answers, self.asked = answers, list[Any]()

    def require_model(self, role: str, otherwise: str) -> None:
        assert role == "preference"

    def ask_many(self, requests: list[Any], progress: object = None) -> list[Any]:
        self.asked += requests
        return [a if isinstance(a, Exception) else {"response": a} for a in self.answers]

    def step(self, *_: object) -> None:
        return None


def test_a_model_may_write_but_must_keep_the_facts() -> None:
    def styled(name: str, kind: str, style: str) -> Sample:
        return Sample(
            id=name, source="t", task="t", answer="low oil pressure",
            messages=[user("What is it? Say it warmly."), assistant("template")],
            extra={"preference": kind, "style": style, "facts": ["low oil pressure", "Stop safely."]},
        )  # fmt: skip

    good = "Sure, I can tell you! That light is low oil pressure, so please stop safely."
    samples = [styled(str(n), "human", "human") for n in range(5)]
    samples[3] = styled("3", "concise", "concise")
    samples += [styled("m", "markdown", "table"), Sample(id="x", source="t", task="t", extra={"preference": "usual"})]
    writer = Writer([
        good, good.replace("low oil", "high oil"), "- low oil pressure\n- stop safely",
        "这是 low oil pressure 所以请您 stop safely 谢谢您的配合",
        AnswerError("broken", "not_json"), "- **Name**: low oil pressure\n- **Do**: stop safely",
    ])  # fmt: skip
    made, counts = rewrite(samples, writer, lambda sha: None)  # type: ignore[arg-type]
    assert counts == {
        "a fact is missing": 1, "in another language": 1, "not in the style": 2, "not_json": 1, "rewritten": 1,
    }  # fmt: skip
    assert made[0].messages[-1].text == good
    assert made[0].extra["rewritten"] is True
    assert [s.messages[-1].text for s in made[1:6]] == ["template"] * 5
    assert [s.id for s in made] == [s.id for s in samples]
    assert len(writer.asked) == 6
    request = writer.asked[0]
    assert "low oil pressure" in request.prompt.text
    assert "Say it warmly." in request.prompt.text
    assert request.check({"response": good}) is None
    assert request.check({"response": "no"}) == "the response is not in the style"
    assert wrong(samples[5], "| Name | Do |\n|---|---|\n| low oil pressure | stop safely |") is None
