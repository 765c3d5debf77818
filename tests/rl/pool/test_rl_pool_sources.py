"""What a sample and a source must pass before they enter the pool of RL's tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pool_sources import asked, opens, reasons, source, tools

from open4ov.answers import INSTRUCTION
from open4ov.recipe_rl_pool import PoolSection
from open4ov.rl.pool import checks
from open4ov.rl.pool.admit import Judged, admit
from open4ov.rl.pool.answer_types import kind
from open4ov.rl.rewards import exact
from open4ov.sample import Sample, assistant, user
from open4ov.store import ImageError

CASES: list[tuple[Sample, str | None]] = [
    (asked("What is 3+4?", "7"), None),
    (asked("How far is it?", "5 km"), None),
    (asked("Is the light on?", "yes"), None),
    (asked("What is shown?", "\\frac{1}{2}"), None),
    (asked("Colour?", None, messages=[user("Colour?"), assistant("red")]), None),
    (asked("How many?", "He has 3 left. #### 3"), None),
    (asked("How many?", "So it is \\boxed{3}."), None),
    (asked("Why?", "Because the light turned red and the car had to stop at once."), "unverifiable"),
    (asked("Why?", None), "no_answer"),
    (asked("Of val?", "7", split="val"), "split"),
    (asked("Rejected?", "7", extra={"rejected_by": "vote", "reason": "no"}), "earlier"),
    (asked("", "7"), "no_question"),
    (asked(f"{INSTRUCTION['en']}", "7"), "no_question"),
    (asked("What is it?", "7", messages=[user("What?"), assistant("7"), user("And?"), assistant("8")]), "turns"),
    (asked("What is it?", "7", messages=[]), "no_question"),
    (asked("What is 3+4? The answer is 7.", "7"), "told"),
    (asked("What is 3+4? \\boxed{7}", "7"), "told"),
    (asked("What colour is the red car?", "red"), "told"),
    (asked("这辆红色的车是什么颜色？", "红色"), "told"),
    (asked("Is the car red or blue?", "red"), None),
    (asked('Write "quick" in capitals.', "QUICK"), None),
    (asked("What is 7-0?", "7"), None),
    (asked("Unbalanced?", "f{x"), "verifier"),
    (asked("What is it?", "cat", images=1), None),
    (asked("What is it?", "cat", images=2, messages=[user("What is it?", images=1)]), "picture"),
    (asked("What is it?", "cat", images=1, messages=[user("What is it?", images=2)]), "picture"),
    (asked("What colour?\nA. red\nB. blue", "B"), None),
    (asked("Which of the following is it?\nA. red\nB. blue", "B"), "cloze_among"),
]


@pytest.mark.parametrize(("sample", "expected"), CASES, ids=lambda one: getattr(one, "id", None))
def test_what_becomes_of_a_sample(sample: Sample, expected: str | None) -> None:
    found = admit(source([sample]), PoolSection(max_bad=1), tools(), 0, set())
    assert (reasons(found) or None) == ({sample.id: expected} if expected else None), found.out
    if expected:
        assert found.refused, "a source without a task is no source"
    else:
        (one,) = found.samples
        assert exact(f"\\boxed{{{one.answer}}}", one) == 1


def test_a_date_may_be_written_otherwise() -> None:
    (one,) = admit(source([asked("When?", "May 3, 1990")]), PoolSection(), tools(), 0, set()).samples
    assert one.extra["pool"]["answer"] == "date"
    for spelling in ("3 May 1990", "1990-05-03", "1990年5月3日"):
        assert exact(f"\\boxed{{{spelling}}}", one) == 1, spelling
    assert exact("\\boxed{5 March 1990}", one) == 0


def test_a_picture_that_does_not_open_is_a_defect() -> None:
    def broken(sha: str) -> None:
        raise ImageError("it is gone")

    given_ = replace(source([asked("What is it?", "cat", images=1), asked("Number?", "7")]), opens=broken)
    found = admit(given_, PoolSection(max_bad=0.1), tools(), 0, set())
    assert "1 of 2 checked samples are broken, more than rl.pool.max_bad = 0.1" in found.refused
    assert "it is gone" in found.refused
    assert "'exam'" in found.refused
    assert not admit(given_, PoolSection(max_bad=0.5), tools(), 0, set()).refused


def test_a_verifier_that_fails_or_is_always_content_is_found_out() -> None:
    def fails(response: str, sample: Sample) -> float:
        raise RuntimeError("boom")

    for rule, told in (
        (fails, "boom"),
        (lambda response, sample: 1.0, "holds any answer for right"),
        (lambda response, sample: float("nan"), "gives nan"),
    ):
        found = admit(source([asked("What is 3+4?", "7")]), PoolSection(max_bad=1), tools(rule=rule), 0, set())
        assert told in str(found.out[0].extra["reason"])


def test_contradictions_and_repetitions_leave() -> None:
    samples = [asked("How many cups?", "3", images=1), asked("How many cups?", "4", images=1), asked("Sum?", "7", "a"),
               asked("Sum?", "7", "b")]  # fmt: skip
    seen: set[str] = set()
    found = admit(source(samples), PoolSection(max_bad=1), tools(), 0, seen)
    assert sorted(reasons(found).values()) == ["again", "contradiction", "contradiction"]
    assert found.figures["broken"] == 2, "asking twice is no defect"
    later = admit(source([asked("Sum?", "7", "c"), asked("New?", "8")], name="later"), PoolSection(), tools(), 0, seen)
    assert reasons(later) == {"c": "again"}


def test_the_judge_sees_some_and_its_word_counts() -> None:
    seen: list[str] = []

    def judge(samples: Any) -> list[Judged]:
        seen.extend(sample.id for sample in samples)
        return [Judged({"0": 0, "1": 1}.get(s.answer[-1]), "wrong") for s in samples]

    samples = [asked(f"Number {i}?", str(100 + i), f"s{i}") for i in range(30)]
    found = admit(source(samples), PoolSection(judged=10, max_bad=1), tools(judge=judge), 0, set())
    assert len(seen) == 10
    judged = found.figures["judged"]
    assert sum(judged.values()) == 10
    assert judged["broken"] == sum(by == "judge" for by in reasons(found).values())
    assert len(found.samples) == 30 - judged["broken"]
    assert len(found.queue) == 20
    unsure = {s.id for s in found.queue} & set(seen)
    assert judged["unsure"] <= len(unsure), "what the judge cannot tell comes first"
    bad = admit(source(samples), PoolSection(judged=10), tools(judge=lambda s: [Judged(0, "wrong sum") for _ in s]), 0,
                set())  # fmt: skip
    assert "'exam': 10 of 10 judged samples are broken" in bad.refused
    assert "wrong sum" in bad.refused


def test_multiple_choice_may_stay_what_it_is_to_compare_with() -> None:
    question = "Which of the following is it?\nA. red\nB. blue"
    (one,) = admit(source([asked(question, "B")]), PoolSection(cloze=False), tools(), 0, set()).samples
    assert (one.answer, one.messages[0].text, one.extra["pool"]["answer"]) == ("B", question, "letter")


def test_an_item_of_a_document_needs_its_picture() -> None:
    samples = [asked("What is the force in figure 1?", "5 N", "a", images=1), asked("What is 3+4?", "7", "b")]
    found = admit(source(samples, kind="documents"), PoolSection(), tools(), 0, set())
    assert reasons(found) == {"b": "picture"}
    assert found.samples[0].extra["pool"] == {"source": "exam", "domain": "STEM", "answer": "number_unit"}
    assert found.figures["broken"] == 0, "it is sound, but no item for here"


def test_most_and_tasks_choose_what_is_looked_at() -> None:
    samples = [asked(f"Number {i}?", str(i), f"s{i}", task="sum" if i % 2 else "other") for i in range(40)]
    found = admit(source(samples, tasks=["sum"], most=5), PoolSection(), tools(), 0, set())
    assert found.figures["candidates"] == 5
    assert {sample.task for sample in found.samples} == {"sum"}
    other = admit(source(samples, tasks=["sum"], most=5), PoolSection(), tools(), 1, set())
    assert {s.id for s in other.samples} != {s.id for s in found.samples}, "another seed draws others"


def test_what_is_quoted_is_no_hint() -> None:
    assert checks.fault(asked("What does “HELLO” mean? Say it in one word.", "hello"), exact, opens, 5) is None


KINDS = [
    ("7", "number"), ("1,000", "number"), ("3/4", "number"), ("seven", "number"), ("七", "number"), ("3个", "number"),
    ("5 km", "number_unit"), ("25%", "number_unit"), ("€5", "number_unit"), ("$5", "number"),
    ("16 cm^2", "number_unit"),
    ("5公里", "number_unit"), ("30°C", "number_unit"), ("60 km/h", "number_unit"),
    ("Yes", "yes_no"), ("否", "yes_no"), ("True.", "yes_no"),
    ("May 3, 1990", "date"), ("1990-05-03", "date"), ("1990年5月3日", "date"), ("10:15", "date"), ("3 pm", "date"),
    ("\\frac{x}{2}", "expression"), ("x = 3", "expression"), ("(1, 2)", "expression"), ("4x", "expression"),
    ("2:3", "expression"), ("7, 8, 9", "expression"), ("\\sqrt{3}", "expression"),
    ("B", "letter"), ("red", "word"), ("红色", "word"), ("H2O", "word"), ("shower head", "phrase"),
    ("a red cat", "phrase"), ("空气滤清器堵塞", "phrase"), ("", "empty"), ("$ $", "empty"),
    ("The anti-lock braking system has a fault.", "sentence"), ("Stop. Then go.", "sentence"),
    ("减速，看清左右两侧。", "sentence"), ("需要大风时调高。", "sentence"), ("What is it?", "sentence"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), KINDS)
def test_kinds_of_answers(answer: str, expected: str) -> None:
    assert kind(answer) == expected
