"""The panel: every combination of votes, agreement, verification scores, and precision and recall on known defects."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any, Literal

import pytest
from PIL import Image

from open4ov.data import defects, judge, labels, panel, verify
from open4ov.data.agreement import interval
from open4ov.data.topics import Topic
from open4ov.mllm import AnswerError, Asker, Picture, Prompt, Request
from open4ov.mllm.answers import Verification
from open4ov.recipe import DataSection
from open4ov.sample import Sample, Vote, assistant, content_id, user

Said = Literal["yes", "no", "abstain", "missing"]


def vote(said: str, judge: str = "j") -> Vote:
    score: Any = {"yes": 1, "no": 0}.get(said)
    return Vote(judge=judge, score=score, reason="r", missing=said == "missing")


def sample(name: str, said: tuple[str, ...] = (), **more: Any) -> Sample:
    return Sample(
        id=name, source="t", task="t", images=["sha"], answer="a", topics=["A ~ B ~ C"],
        messages=[user("q", images=1), assistant("a")],
        votes=[vote(one, f"j{n}") for n, one in enumerate(said)], **more,
    )  # fmt: skip


# yes votes, missing votes → the outcome at quorum 1, 2 and 3, written out by hand
OUTCOMES = {
    (0, 0): ("refused", "refused", "refused"),
    (0, 1): ("undecided", "refused", "refused"),
    (0, 2): ("undecided", "undecided", "refused"),
    (0, 3): ("undecided", "undecided", "undecided"),
    (1, 0): ("kept", "refused", "refused"),
    (1, 1): ("kept", "undecided", "refused"),
    (1, 2): ("kept", "undecided", "undecided"),
    (2, 0): ("kept", "kept", "refused"),
    (2, 1): ("kept", "kept", "undecided"),
    (3, 0): ("kept", "kept", "kept"),
}


@pytest.mark.parametrize("said", list(product(judge.SAYS, repeat=3)))
def test_the_truth_table_of_three_votes(said: tuple[str, ...]) -> None:
    votes = [vote(one) for one in said]
    assert [one.said for one in votes] == list(said)
    for quorum in (1, 2, 3):
        found = judge.verdict(votes, quorum)
        assert found.outcome == OUTCOMES[said.count("yes"), said.count("missing")][quorum - 1]
        counts = (found.yes, found.no, found.abstain, found.missing)
        assert counts == tuple(said.count(one) for one in judge.SAYS)
        assert judge.kept(votes, quorum) == (said.count("yes") >= quorum)


def test_kappa_of_a_panel_rests_on_those_who_voted() -> None:
    said = [("yes", "yes", "yes"), ("no", "no", "no"), ("yes", "yes", "no"), ("abstain", "yes", "yes"),
            ("missing", "no", "no")]  # fmt: skip
    found = judge.agreement([sample(str(n), one) for n, one in enumerate(said)])
    # by hand: rows (3,0) (0,3) (2,1); agreement (1 + 1 + 1/3)/3 = 7/9, by chance (5/9)² + (4/9)² = 41/81
    assert found["kappa"] == {"value": pytest.approx((7 / 9 - 41 / 81) / (1 - 41 / 81)), "samples": 3}
    # with abstention: also (2, 0, 1); agreement (1 + 1 + 1/3 + 1/3)/4 = 2/3, by chance (7² + 4² + 1²)/12² = 66/144
    assert found["kappa_abstain"] == {"value": pytest.approx((2 / 3 - 66 / 144) / (1 - 66 / 144)), "samples": 4}
    assert found["judges"]["j0"] == {"1": 2, "0": 1, "abstained": 1, "missing": 1}
    assert found["agreement"]["j1 = j2"] == {"share": 0.8, "votes": 5, "kappa": pytest.approx((0.8 - 0.48) / 0.52)}


def test_precision_and_recall_are_counted_by_judge_vote_and_kind() -> None:
    bad = {"extra": {"defect": "wrong_answer", "rejected_by": "judges"}}
    odd = {"extra": {"defect": "wrong_language"}}
    samples = [
        sample("a", ("yes", "yes", "yes")),
        sample("b", ("no", "yes", "yes")),
        sample("c", ("yes", "abstain", "missing"), extra={"rejected_by": "judges"}),
        sample("d", ("no", "no", "yes"), **bad),
        sample("e", ("no", "abstain", "no"), **bad),
        sample("f", ("yes", "yes", "no"), **odd),
    ]
    found = panel.measured(samples, quorum=2)
    assert (found["samples"], found["defects"], found["rate"]) == (6, 3, 0.5)
    assert found["kinds"] == {"wrong_answer": 2, "wrong_image": 0, "wrong_topic": 0, "wrong_language": 1}
    first, second, third = found["judges"].values()
    assert first["precision"] == {"hits": 2, "of": 3, **interval(2, 3)}
    assert first["recall"] == {"hits": 2, "of": 3, **interval(2, 3)}
    assert (second["precision"]["hits"], second["precision"]["of"], second["recall"]["of"]) == (1, 1, 3)
    assert (second["abstained"], second["missing"]) == (2, 0)
    assert (third["recall"]["hits"], third["missing"]) == (2, 1)
    assert (found["vote"]["precision"]["hits"], found["vote"]["precision"]["of"]) == (2, 3)
    assert found["vote"]["recall_by_kind"]["wrong_language"]["share"] == 0.0
    assert found["vote"]["recall_by_kind"]["wrong_image"]["share"] is None
    assert found["all"]["precision"]["hits"] == 2
    assert panel.measured([], 2)["vote"]["recall"]["share"] is None


def test_a_panel_of_known_skill_is_measured_as_such() -> None:
    """Judge 1 sees wrong answers and images, judge 2 wrong topics and languages, judge 3 everything but abstains on
    topics; all of it through the real asker. What the vote makes of it is worked out below."""
    sees = {
        "judge_1": {"wrong_answer": 0, "wrong_image": 0},
        "judge_2": {"wrong_topic": 0, "wrong_language": 0},
        "judge_3": {"wrong_answer": 0, "wrong_image": 0, "wrong_language": 0, "wrong_topic": None},
    }

    class Skilled:
        concurrency = 1

        def identity(self, role: str) -> str:
            return "s"

        def answer(self, request: Request) -> dict[str, Any]:
            kind = request.prompt.values["answer"]
            return {"score": sees[request.role].get(kind, 1), "reason": ""}

    samples = [sample(f"c{n}") for n in range(8)]
    for n, kind in enumerate(defects.KINDS * 5):
        samples.append(sample(f"d{n}", extra={"defect": kind}).model_copy(update={"answer": kind}))
    asker = Asker(DataSection(), {"default": Skilled()})
    judge.vote(asker, samples, labels.load(), lambda s: Picture("sha", lambda: Image.new("RGB", (4, 4))))
    found = panel.measured(samples, quorum=2)
    one, two, three = found["judges"].values()
    assert [j["recall"]["share"] for j in (one, two, three)] == [0.5, 0.5, 0.75]
    assert all(j["precision"]["share"] == 1.0 for j in (one, two, three))
    # answer and image: no, yes, no; language: yes, no, no; topic: yes, no, abstain. One yes at most: all refused
    assert found["vote"]["recall"]["share"] == 1.0
    loose = panel.measured(samples, quorum=1)
    assert loose["vote"]["recall"]["share"] == 0.0
    assert three["abstained"] == 5


def sample_of(symbol: int, language: str, task: str = "name") -> Sample:
    question = {"en": "What is this?", "zh": "这是什么？"}[language]
    answer = {"en": f"thing {symbol}", "zh": f"东西{'一二三四五六七八九'[symbol]}"}[language]
    topic = Topic("Naming", ("Nature", "Animals"), ("Recognition", "Category"))
    return Sample(
        id=content_id(symbol, language, task), source="t", task=task, language=language, images=[f"sha{symbol}"],  # type: ignore[arg-type]
        answer=answer, scene={"symbol": symbol}, topics=[topic.path], labels=topic.labels(),
        messages=[user(question, images=1), assistant(answer)],
    )  # fmt: skip


def test_defects_of_all_four_kinds_are_made_and_are_what_they_say() -> None:
    clean = [sample_of(symbol, language) for symbol in range(9) for language in ("en", "zh")]
    other = Topic("Counting", ("Nature", "Animals"), ("Counting", "Object counting"))
    made = defects.inject(clean, [other], 1.0, 3)
    counts = Counter(one.extra["defect"] for one in made)
    assert set(counts) == set(defects.KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1
    by_id = {one.id for one in clean}
    assert not by_id & {one.id for one in made}
    for one in made:
        (language, symbol) = one.language, (one.scene or {})["symbol"]
        right = sample_of(symbol, language).answer
        match one.extra["defect"]:
            case "wrong_topic":
                assert one.topics == [other.path]
                assert one.answer == right
            case "wrong_language":
                twin = sample_of(symbol, "zh" if language == "en" else "en")
                assert (one.answer, one.messages[1].text) == (twin.answer, twin.messages[1].text)
                assert one.messages[0].text == sample_of(symbol, language).messages[0].text
            case _:
                assert one.answer != right


def check(ok: bool = True, score: int | None = 5) -> dict[str, Any]:
    return {"ok": ok, "score": score, "reason": f"because {score}"}


class Verifier:
    concurrency = 1

    def __init__(self, **checks: dict[str, Any]) -> None:
        self.checks = {**dict.fromkeys(verify.DIMENSIONS, check()), **checks}

    def identity(self, role: str) -> str:
        return "v"

    def answer(self, request: Request) -> dict[str, Any]:
        return self.checks


def verified(**checks: dict[str, Any]) -> Sample:
    one = sample("s")
    asker = Asker(DataSection(), {"default": Verifier(**checks)})
    verify.verify(asker, [one], labels.load(), lambda s: Picture("sha", lambda: Image.new("RGB", (4, 4))))
    return one


def test_scores_and_reasons_of_every_dimension_are_kept() -> None:
    good = verified(completeness=check(True, 3))
    assert verify.passed(good)
    assert good.extra["verification"]["completeness"] == {"score": 3, "reason": "because 3"}
    assert set(good.extra["verification"]) == set(verify.DIMENSIONS)
    assert "check_reasons" not in good.extra
    bad = verified(authenticity=check(False, 1), relevance=check(True, 2))
    assert not verify.passed(bad)
    assert bad.extra["check_reasons"] == {
        "authenticity": "because 1",
        "relevance": "score 2 though called ok: because 2",
    }
    found = verify.scores([good, bad])
    assert found["relevance"] == {"holds": 1, "fails": 1, "scores": {"2": 1, "5": 1}}
    assert verify.scores([sample("x")])["accuracy"] == {"holds": 0, "fails": 0, "scores": {}}


def test_a_score_off_the_scale_is_no_answer() -> None:
    one = verified(accuracy=check(True, 6))
    assert one.checks == {}
    assert "accuracy" in one.extra["check_reasons"]["unverified"]


def test_a_verifier_without_degrees_leaves_no_scores() -> None:
    one = verified(**dict.fromkeys(verify.DIMENSIONS, check(True, None)))
    assert verify.passed(one)
    assert "verification" not in one.extra


def test_an_endpoint_must_score_every_dimension_by_anchors() -> None:
    assert Verification.model_json_schema()["$defs"]["Check"]["required"] == ["ok", "score", "reason"]
    values = {"topic": "t", "question": "q", "answer": "a", "response": "{r} 是"}
    text = Prompt("verify", values).text
    assert text.startswith("Verify")  # the version comment is not sent
    assert "{r} 是" in text
    for name in verify.DIMENSIONS:
        rubric = " ".join(text.split(f"- {name}: ")[1].split("\n- ")[0].split())
        assert all(f"{score}: " in rubric for score in (1, 3, 5))


def test_a_missing_vote_is_told_from_an_abstention() -> None:
    class Broken(Verifier):
        def answer(self, request: Request) -> dict[str, Any]:
            if request.role == "judge_3":
                raise AnswerError("timed out")
            return {"score": 1 if request.role == "judge_1" else None, "reason": "cannot tell"}

    one = sample("s")
    asker = Asker(DataSection(), {"default": Broken()})
    judge.vote(asker, [one], labels.load(), lambda s: Picture("sha", lambda: Image.new("RGB", (4, 4))))
    assert [v.said for v in one.votes] == ["yes", "abstain", "missing"]
    assert "timed out" in one.votes[2].reason
    assert judge.verdict(one.votes, 2).outcome == "undecided"
    again = Sample.model_validate_json(one.model_dump_json())
    assert [v.said for v in again.votes] == ["yes", "abstain", "missing"]
