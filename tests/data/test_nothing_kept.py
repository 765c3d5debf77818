"""When no sample is kept, what was made and why it fell out is there to be looked at, and the run can go on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.fake_model import kind, pictures, recipe, reply
from mllm.endpoint import Raw, completion, endpoint

from open4ov import pipeline
from open4ov.errors import UserError
from open4ov.mllm import line
from open4ov.progress import Quiet
from open4ov.recipe import load
from open4ov.review.apply import apply
from open4ov.review.collection import Collection
from open4ov.review.decisions import Decision, Reviewer
from open4ov.store import read_samples
from open4ov.trace import trace


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret-4711")
    monkeypatch.setattr(line, "backoff", lambda attempt: 0.01)


def harsh(body: dict[str, Any], number: int) -> Raw:
    if kind(body) == "Judgement":
        return Raw(completion('{"score": 0, "reason": "too dark to tell"}', (10, 5)))
    return reply(body, number)


def test_votes_and_reasons_are_kept_aside_when_every_sample_is_refused(tmp_path: Path) -> None:
    images, run = pictures(tmp_path / "images", 3), tmp_path / "run"
    with endpoint(harsh) as server:
        chosen = load(recipe(tmp_path / "r.yaml", server.url, str(images)))
        with pytest.raises(UserError, match=r"none of the 3 images gave a sample.*data\.failed") as told:
            pipeline.run(chosen, run, Quiet(), until="data")
        assert "9 × judge_1:m said 0" in str(told.value)
        assert not (run / "data").exists()
        sent = len(server.bodies)
        with pytest.raises(UserError, match=r"data\.failed"):  # nothing has changed, so nothing is asked
            pipeline.run(chosen, run, Quiet(), until="data")
        assert len(server.bodies) == sent
    aside = run / "data.failed"
    rejected = read_samples(aside / "rejected.parquet")
    assert len(rejected) == 9
    assert {vote.reason for sample in rejected for vote in sample.votes} == {"too dark to tell"}
    assert json.loads((aside / "report.json").read_text())["counts"]["rejected"] == 9
    assert json.loads((aside / "failed.json").read_text())["reason"].startswith("data: none of the 3 images")
    for folder in (run, aside):
        seen = Collection(folder)
        assert seen.counts({})["stage"] == {"rejected by judges": 9}
        assert seen.reviews == run / "reviews"  # not where the next start clears away
        assert seen.images.png(seen.samples[0].images[0])
    assert any("too dark to tell" in event["what"] for event in trace(run, rejected[0].id))
    Reviewer(run / "reviews", "ann").decide(Decision(sample=rejected[0].id, verdict="accept"))
    assert apply(run, tmp_path / "reviewed")["kept"] == 1

    with endpoint(reply) as server:  # a better model: the stage is made, and what was aside goes
        chosen = load(recipe(tmp_path / "r.yaml", server.url, str(images), model="better"))
        pipeline.run(chosen, run, Quiet(), until="data")
    assert (run / "data" / "samples.parquet").exists()
    assert not aside.exists()


def test_what_an_annotation_asks_is_kept_though_the_model_writes_nothing(tmp_path: Path) -> None:
    """Prose in the place of questions: the model would write it again, so nothing is offered to be asked again."""
    images, run = pictures(tmp_path / "images", 2), tmp_path / "run"
    own = {"question": "How many dogs bark?", "answer": "2", "language": "en"}
    (tmp_path / "images" / "000.json").write_text(json.dumps({"qa": [own]}))

    def prose(body: dict[str, Any], number: int) -> Raw:
        return Raw(completion("I would rather not.")) if kind(body) == "Pairs" else reply(body, number)

    with endpoint(prose) as server:
        chosen = load(recipe(tmp_path / "r.yaml", server.url, str(images), retries=0))
        pipeline.run(chosen, run, Quiet(), until="data")
    kept = read_samples(run / "data" / "samples.parquet")
    assert [sample.messages[0].text for sample in kept] == ["How many dogs bark?"]
    report = json.loads((run / "data" / "report.json").read_text())
    assert [entry["step"] for entry in report["skipped"]] == ["writing questions"] * 2
    assert report["unanswered"]["questions"] == 2
    assert report["unanswered"]["passing"] == 0
