"""Grading: levels and how sure they are, more rollouts where in doubt, bad verifiers, regrading, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from open4ov.admission import mastery_report, regrade
from open4ov.admission.mastery import NOT_CHOSEN, Examination, examine
from open4ov.engine import Completion, Request
from open4ov.errors import UserError
from open4ov.recipe_mastery import MasterySection, MasteryWeights
from open4ov.rollout_book import Book
from open4ov.sample import Label, Sample, assistant, user
from open4ov.verifier import Verifier


class Pupil:
    """An engine that knows each question with a probability, and answers by the request's own random streams."""

    def __init__(self, knows: dict[str, float], cut: Sequence[str] = (), wrong: str = "wrong") -> None:
        self.knows, self.cut, self.wrong = knows, cut, wrong
        self.asked: dict[str, int] = {}

    def generate(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Completion]]:
        return [[self._said(request, request.first + i) for i in range(request.n)] for request in requests]

    def _said(self, request: Request, number: int) -> Completion:
        text = request.messages[-1].text
        self.asked[text] = self.asked.get(text, 0) + 1
        right = random.Random(f"{request.seed} {number}").random() < self.knows[text]
        said = "right" if right else self.wrong
        return Completion(said, [1, 2], [0.0, 0.0], "length" if text in self.cut else "stop", 0)


def sample(name: str, topic: str = "", **fields: object) -> Sample:
    known: dict[str, object] = {"source": "test", "task": "t", "answer": "right", "topics": [topic] if topic else []}
    known["messages"] = [user(name), assistant("right")]
    return Sample(id=name, **{**known, **fields})  # pyright: ignore[reportArgumentType]


def picture(sha: str) -> Image.Image:
    raise AssertionError(sha)


def graded(
    those: Sequence[Sample],
    pupil: Pupil,
    verifier: Verifier | None = None,
    book: Book | None = None,
    iteration: int = 0,
    **options: object,
) -> Examination:
    section = MasterySection.model_validate({"rollouts": 4, "samples": 1000, **options})
    rule = verifier or Verifier(lambda a, b, _: a == b)
    return examine(those, pupil, picture, section, rule, 0, book, "m", iteration)


def test_levels_and_how_sure_they_are() -> None:
    samples = [sample("always"), sample("never", task="u"), sample("half", task="v")]
    found = graded(samples, Pupil({"always": 1, "never": 0, "half": 0.5}), rollouts=8)
    assert [s.mastery for s in found.samples] == ["mastered", "unmastered", "partial"]
    assert [s.pass_rate for s in found.samples[:2]] == [1.0, 0.0]
    grade = found.samples[0].extra["grade"]
    assert (grade["right"], grade["of"], grade["truncated"], grade["unverified"]) == (8, 8, 0, 0)
    assert grade["confidence"] == grade["mastered"] == pytest.approx(0.8128, abs=1e-4)
    assert (grade["low"], grade["high"]) == (pytest.approx(0.7378, abs=1e-4), 1.0)
    assert not found.ungraded


def test_more_is_asked_where_in_doubt_and_no_more_than_the_cap() -> None:
    samples = [sample(f"s{i}", task=f"t{i}") for i in range(40)]
    knows = {f"s{i}": 1.0 if i < 10 else 0.0 if i < 20 else 0.5 for i in range(40)}
    pupil = Pupil(knows)
    found = graded(samples, pupil, most_rollouts=24, confidence=0.9)
    clear = [pupil.asked[f"s{i}"] for i in range(20)]
    assert set(clear) == {16}, "15.9 % doubt after 4 of 4, below 10 % after 16 of 16, asked in steps of 4"
    halves = [pupil.asked[f"s{i}"] for i in range(20, 40)]
    assert max(halves) <= 24
    assert sum(n == 4 for n in halves) >= 5, "2 of 4 is surely partial"
    for one, asked in zip(found.samples, clear + halves, strict=True):
        assert one.extra["grade"]["of"] == asked
        assert one.extra["grade"]["confidence"] >= 0.9 or asked == 24
    fixed = graded(samples, Pupil(knows))
    assert {s.extra["grade"]["of"] for s in fixed.samples} == {4}
    partial = [sum(s.mastery == "partial" for s in one.samples[20:]) for one in (found, fixed)]
    assert partial[0] >= partial[1]


def test_a_bounded_number_is_asked_and_the_others_take_their_topics_rate() -> None:
    samples = [sample(f"{topic}{i}", topic) for topic in "abc" for i in range(20)]
    pupil = Pupil({s.id: {"a": 1.0, "b": 0.0, "c": 0.5}[s.id[0]] for s in samples})
    found = graded(samples, pupil, samples=9)
    by = {source: [s for s in found.samples if s.extra["graded_by"] == source] for source in ("rollouts", "topic")}
    assert (len(by["rollouts"]), len(by["topic"])) == (9, 51)
    assert sorted(s.id[0] for s in by["rollouts"]) == list("aaabbbccc"), "spread over the topics"
    for source in by:
        assert {s.mastery for s in by[source] if s.id[0] == "a"} == {"mastered"}
        assert {s.mastery for s in by[source] if s.id[0] == "b"} == {"unmastered"}
    own, guessed = by["rollouts"][0].extra["grade"], next(s for s in by["topic"] if s.id[0] == "a").extra["grade"]
    assert guessed["of_topic"] == 3
    assert guessed["high"] - guessed["low"] > own["high"] - own["low"]
    mixed = next(s for s in by["topic"] if s.id[0] == "c")
    rates = [s.pass_rate for s in by["rollouts"] if s.id[0] == "c"]
    assert mixed.pass_rate == pytest.approx(sum(rates) / 3)  # pyright: ignore[reportArgumentType]
    nobody = graded([sample("x", "d"), *samples], Pupil({"x": 1.0, **pupil.knows}), samples=3)
    assert sum(reason == NOT_CHOSEN for reason in nobody.ungraded.values()) in (1, 20)


def test_what_cannot_be_graded_is_listed_with_the_reason() -> None:
    samples = [
        sample("good", "a"),
        sample("open", "a", answer=None),
        sample("turns", "a", messages=[user("q"), assistant("r"), user("s"), assistant("right")]),
        sample("lost", "a", images=["0" * 64]),
    ]

    def missing(sha: str) -> Image.Image:
        raise UserError(f"{sha[:4]}.png: is missing")

    section = MasterySection(rollouts=2, samples=9)
    judge = Verifier(lambda a, b, _: a == b)
    found = examine(samples, Pupil({"good": 1.0, "lost": 1.0}), missing, section, judge, 0, model="m")
    assert found.ungraded == {
        "open": "has no reference answer",
        "turns": "is not a single question with a response",
        "lost": "picture: 0000.png: is missing",
    }
    assert [s.extra.get("ungraded") for s in found.samples] == [None, *found.ungraded.values()]
    assert [s.mastery for s in found.samples[1:]] == [None] * 3


def test_open_answers_are_compared_with_the_own_response_if_asked_for() -> None:
    samples = [sample("open", answer=None), sample("short", task="u")]
    pupil = Pupil({"open": 1.0, "short": 1.0})
    assert graded(samples, pupil).ungraded == {"open": "has no reference answer"}
    found = graded(samples, pupil, open_answers=True)
    assert [s.mastery for s in found.samples] == ["mastered", "mastered"]
    wrong = graded(
        [samples[0].model_copy(update={"messages": [user("open"), assistant("other")]})], pupil, open_answers=True
    )
    assert wrong.samples[0].mastery == "unmastered"


def test_cut_off_responses_are_wrong_and_said() -> None:
    found = graded([sample("cut"), sample("whole", task="u")], Pupil({"cut": 1, "whole": 1}, cut=["cut"]))
    assert [s.mastery for s in found.samples] == ["unmastered", "mastered"]
    assert found.samples[0].extra["grade"]["truncated"] == 4
    report = mastery_report.report(found, MasteryWeights())
    assert report["truncated"] == {"responses": 4, "share": 0.5}
    assert "50% cut off" in mastery_report.table(report)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raise", "hang", "die", "maybe"])
def test_a_response_without_a_verdict_is_no_wrong_answer(fault: str) -> None:
    """The verifier fails on some responses; what it said of the others counts, and the sample is named."""
    samples = [sample("mostly", task="u"), sample("good")]
    with Verifier("odd_verifiers:by_response", 0.3) as judge:
        found = graded(samples, Pupil({"mostly": 0.8, "good": 1.0}, wrong=fault), judge, rollouts=6)
    first, grade = found.samples[0], found.samples[0].extra["grade"]
    assert 0 < grade["unverified"] < 6
    assert (grade["of"], first.pass_rate, first.mastery) == (6 - grade["unverified"], 1.0, "mastered")
    report = mastery_report.report(found, MasteryWeights())
    assert report["unverified"]["responses"] == grade["unverified"]
    assert list(report["unverified"]["samples"]) == ["mostly"]
    assert "no verdict: sample mostly: " in mastery_report.table(report)


def test_a_sample_without_any_verdict_has_no_grade() -> None:
    with Verifier("odd_verifiers:by_response", 5) as judge:
        found = graded([sample("good", "a"), sample("bad", "a")], Pupil({"good": 1, "bad": 0}, wrong="raise"), judge)
    assert found.ungraded == {"bad": "the verifier gave no verdict (KeyError: 'no such unit')"}
    assert found.samples[1].mastery is None


def test_a_verifier_that_never_says_anything_stops_the_grading() -> None:
    with (
        Verifier("odd_verifiers:broken", 5, "sft.verifier") as judge,
        pytest.raises(UserError, match=r"sft\.verifier: gave no verdict on any response \(TypeError: broken\(\) takes"),
    ):
        graded([sample("good")], Pupil({"good": 1.0}), judge)


def test_verdicts_are_kept_and_another_reference_asks_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTED", str(tmp_path / "calls"))
    book, pupil = Book(tmp_path), Pupil({"good": 1.0})

    def calls() -> int:
        return len((tmp_path / "calls").read_text().splitlines())

    with Verifier("odd_verifiers:counted") as judge:
        first = graded([sample("good")], pupil, judge, book)
        second = graded([sample("good")], pupil, judge, book)
        assert second.samples == first.samples
        reports = [mastery_report.report(one, MasteryWeights()) for one in (first, second)]
        assert reports[0] == reports[1], "the report does not tell what was found and what was asked"
        assert (calls(), pupil.asked["good"]) == (4, 4)
        graded([sample("good", answer="right", aliases=["correct"])], pupil, judge, book)
        assert (calls(), pupil.asked["good"]) == (8, 4), "the responses are the same ones"


# ---------------------------------------------------------------------------------------------- again


def test_mastered_samples_are_asked_again_in_turn() -> None:
    samples = [sample(f"s{i}", task=f"t{i % 3}") for i in range(400)]
    first = graded(samples, Pupil({s.id: 1.0 if int(s.id[1:]) < 320 else 0.5 for s in samples}))
    before = {s.id: s.mastery for s in first.samples}
    mastered = {name for name, level in before.items() if level == "mastered"}
    turns: list[set[str]] = []
    for iteration in range(1, 5):
        pupil = Pupil({s.id: 1.0 for s in samples})
        again = graded(first.samples, pupil, iteration=iteration, mastered_again=0.25)
        assert set(again.kept) == mastered - pupil.asked.keys()
        assert pupil.asked.keys() >= before.keys() - mastered, "the others all"
        assert len(mastered & pupil.asked.keys()) == pytest.approx(len(mastered) / 4, rel=0.35)
        turns.append(mastered & pupil.asked.keys())
        kept = next(s for s in again.samples if s.id in again.kept)
        assert kept.extra["grade"]["age"] == 1
        assert kept.mastery == "mastered"
    assert sorted(name for turn in turns for name in turn) == sorted(mastered), "each once in four"
    everyone, nobody = (graded(first.samples, Pupil(pupil.knows), iteration=1, mastered_again=a) for a in (1.0, 0.0))
    assert not everyone.kept
    assert set(nobody.kept) == mastered


def test_transitions_count_who_was_asked_both_times() -> None:
    samples = [sample(name, task=name) for name in ("up", "loses", "same", "stays")]
    first = graded(samples, Pupil({"up": 0, "loses": 1, "same": 0, "stays": 1}))
    assert not regrade.keeps(first.samples[1], 0.5, 1), "these names happen to fall so"
    assert regrade.keeps(first.samples[3], 0.5, 1)
    second = graded(first.samples, Pupil({"up": 1, "loses": 0, "same": 0, "stays": 1}), iteration=1)
    report = mastery_report.report(second, MasteryWeights(), first.samples)
    assert report["transitions"] == {
        "mastered": {"mastered": 0, "partial": 0, "unmastered": 1},
        "partial": {"mastered": 0, "partial": 0, "unmastered": 0},
        "unmastered": {"mastered": 1, "partial": 0, "unmastered": 1},
    }
    assert (report["kept"], report["rolled_out"], report["skipped"]) == (1, 3, 0.25)


def test_a_topics_rate_counts_those_that_kept_theirs() -> None:
    samples = [sample(f"s{i}", "a") for i in range(30)]
    first = graded(samples, Pupil({s.id: 1.0 for s in samples}), samples=10)
    second = graded(first.samples, Pupil({s.id: 0.0 for s in samples}), samples=5, iteration=1, mastered_again=0.0)
    guess = next(s for s in second.samples if s.extra["graded_by"] == "topic")
    assert guess.pass_rate == pytest.approx(10 / 15)
    assert guess.extra["grade"]["of_topic"] == 15


def test_grades_are_found_again_by_id() -> None:
    first = graded([sample("a"), sample("b", task="u")], Pupil({"a": 1, "b": 0}))
    fresh = [sample("b", task="u"), sample("c")]
    found = regrade.with_earlier(fresh, first.samples)
    assert (found[0].mastery, found[0].extra["graded_by"], found[1].mastery) == ("unmastered", "rollouts", None)


# ---------------------------------------------------------------------------------------------- report


def test_the_report_groups_by_label_and_says_what_resampling_draws() -> None:
    car = [Label(axis="domain", l1="Automotive"), Label(axis="ability", l1="Knowledge")]
    samples = [sample(f"s{i}", labels=car if i < 6 else [], task=f"t{i % 2}") for i in range(10)]
    found = graded(samples, Pupil({s.id: 1.0 if int(s.id[1:]) < 6 else 0.0 for s in samples}))
    report = mastery_report.report(found, MasteryWeights(mastered=0, partial=1, unmastered=1))
    assert report["levels"] == {"mastered": 6, "partial": 0, "unmastered": 4, "ungraded": 0}
    row = report["groups"]["domain"]["Automotive"]
    assert (row["samples"], row["pass_rate"], row["mastered"]) == (6, 1.0, 6)
    assert report["groups"]["domain"][mastery_report.NO_LABEL]["unmastered"] == 4
    drawn = report["weights"]
    assert drawn["mastered"]["share"] == 0.6
    doubt = 1 - found.samples[0].extra["grade"]["mastered"]
    assert drawn["mastered"]["drawn"] == pytest.approx(6 * doubt / (6 * doubt + 4), abs=2e-3)
    text = mastery_report.table(report)
    assert "Automotive" in text
    assert mastery_report.NO_LABEL in text
