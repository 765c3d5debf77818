"""Votes, quorum and verification: what is missing never counts as agreement."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from PIL import Image

from open4ov.data import judge, labels, verify
from open4ov.mllm import AnswerError, Asker, Picture, Request
from open4ov.recipe import DataSection
from open4ov.sample import Sample, Vote, assistant, user


def sample(name: str = "s") -> Sample:
    return Sample(
        id=name, source="t", task="t", images=["sha"], answer="a", topics=["A ~ B ~ C"],
        messages=[user("q", images=1), assistant("a")],
    )  # fmt: skip


def picture(sample: Sample) -> Picture:
    return Picture(sample.images[0], lambda: Image.new("RGB", (4, 4)))


@pytest.mark.parametrize("scores", list(product((0, 1, None), repeat=3)))
def test_quorum_counts_ones_only(scores: tuple[Any, ...]) -> None:
    votes = [Vote(judge=f"j{i}", score=score) for i, score in enumerate(scores)]
    for quorum in (1, 2, 3):
        assert judge.kept(votes, quorum) == (len([score for score in scores if score == 1]) >= quorum)


class Panel:
    """judge_1 says 1, judge_2 abstains, judge_3 breaks; verification fails one dimension or breaks."""

    concurrency = 1

    def identity(self, role: str) -> str:
        return "p"

    def answer(self, request: Request) -> dict[str, Any]:
        if request.role == "judge_3" or request.prompt.values["question"] == "broken":
            raise AnswerError("gave up")
        if request.role == "verify":
            ok = {"ok": True, "reason": ""}
            return {**dict.fromkeys(verify.DIMENSIONS, ok), "authenticity": {"ok": False, "reason": "invented"}}
        return {"score": 1 if request.role == "judge_1" else None, "reason": "r"}


def test_a_judge_without_a_usable_answer_abstains_by_name() -> None:
    one = sample()
    judge.vote(Asker(DataSection(), {"default": Panel()}), [one], labels.load(), picture)
    assert [(vote.judge, vote.score) for vote in one.votes] == [
        ("judge_1:p", 1),
        ("judge_2:p", None),
        ("judge_3:p", None),
    ]
    assert "gave up" in one.votes[2].reason
    assert not judge.kept(one.votes, 2)
    assert judge.kept(one.votes, 1)


def test_agreement_counts_pairs_only_where_both_voted() -> None:
    samples = [sample(str(n)) for n in range(4)]
    for one, (a, b) in zip(samples, [(1, 1), (1, 0), (None, 1), (0, 0)], strict=True):
        one.votes = [Vote(judge="a", score=a), Vote(judge="b", score=b)]
    found = judge.agreement(samples)
    assert found["judges"] == {
        "a": {"1": 2, "0": 1, "abstained": 1, "missing": 0},
        "b": {"1": 2, "0": 2, "abstained": 0, "missing": 0},
    }
    assert found["agreement"] == {
        "a = b": {"share": pytest.approx(2 / 3), "votes": 3, "kappa": pytest.approx((2 / 3 - 4 / 9) / (5 / 9))}
    }
    nobody = {"value": None, "samples": 0}
    assert judge.agreement([]) == {"judges": {}, "agreement": {}, "kappa": nobody, "kappa_abstain": nobody}


def test_one_failed_dimension_fails_and_no_answer_is_no_pass() -> None:
    failed, broken = sample("failed"), sample("broken")
    broken.messages[0] = user("broken", images=1)
    verify.verify(Asker(DataSection(), {"default": Panel()}), [failed, broken], labels.load(), picture)
    assert failed.checks == {**dict.fromkeys(verify.DIMENSIONS, True), "authenticity": False}
    assert failed.extra["check_reasons"] == {"authenticity": "invented"}
    assert broken.checks == {}
    assert "gave up" in broken.extra["check_reasons"]["unverified"]
    assert not verify.passed(failed)
    assert not verify.passed(broken)
    failed.checks["authenticity"] = True
    assert verify.passed(failed)
    del failed.checks["accuracy"]
    assert not verify.passed(failed)
