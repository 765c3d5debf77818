"""Questions that got no answer are told, and asked again when the user says so: nothing is lost for good."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from data.fake_model import digest, kind, pictures, recipe, reply
from mllm.endpoint import Raw, completion, endpoint

from open4ov import pipeline
from open4ov.errors import UserError
from open4ov.mllm import line
from open4ov.progress import Quiet
from open4ov.recipe import load
from open4ov.store import read_samples


class Notes(Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, stage: str, text: str) -> None:
        self.said.append(f"{stage}: {text}")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret-4711")
    monkeypatch.setattr(line, "backoff", lambda attempt: 0.01)


class Ill:
    """A server that fails some questions while it is ill: every density whose mark is even, and the third judge."""

    def __init__(self, fault: Raw | None = None) -> None:
        self.ill, self.answered = True, Counter[str]()
        self.fault = fault or Raw(b"oops", 500, {"Content-Type": "text/plain"})

    def __call__(self, body: dict[str, Any], number: int) -> Raw:
        mark = digest(body)
        if self.ill and kind(body) == "Density" and int(mark, 16) % 2 == 0:
            return self.fault
        if self.ill and body["model"] == "m of judge_3" and int(mark, 16) % 4 == 0:
            return self.fault
        self.answered[mark] += 1
        return reply(body, number)


def made(run: Path) -> list[str]:
    return [sample.model_dump_json(exclude={"steps"}) for sample in read_samples(run / "data" / "samples.parquet")]


def test_what_got_no_answer_is_told_and_asked_again_on_demand(tmp_path: Path) -> None:
    images, run, server = pictures(tmp_path / "images", 8), tmp_path / "run", Ill()
    with endpoint(server) as place:
        chosen = load(recipe(tmp_path / "r.yaml", place.url, str(images), panel=True, retries=0, concurrency=1))
        told = Notes()
        pipeline.run(chosen, run, told, until="data")
        report = json.loads((run / "data" / "report.json").read_text())
        lost, steps = report["counts"]["images_skipped"], report["unanswered"]["steps"]
        assert 0 < lost < 8
        assert steps["density"] == {"server_error": lost}
        assert steps.keys() == {"density", "judge_3"}
        asked = lost + steps["judge_3"]["server_error"]
        assert report["unanswered"]["questions"] == report["unanswered"]["passing"] == asked
        (line,) = told.said
        for part in (f"{asked} questions got no usable answer", f"density: {lost} server_error",
                     f"{lost} images fell out", "--retry-unanswered"):  # fmt: skip
            assert part in line
        before = made(run)

        told, sent = Notes(), len(place.bodies)
        assert pipeline.run(chosen, run, told, until="data")[1].status == "skipped"
        assert len(place.bodies) == sent
        assert len(told.said) == 1
        assert "--retry-unanswered" in told.said[0]

        server.ill = False
        told = Notes()
        pipeline.run(chosen, run, told, until="data", retry=True)
        assert told.said == []
        assert set(server.answered.values()) == {1}  # whatever was answered is not sent again
        report = json.loads((run / "data" / "report.json").read_text())
        assert report["unanswered"] == {"questions": 0, "passing": 0, "steps": {}}
        assert report["counts"]["images_skipped"] == 0

        told, sent = Notes(), len(place.bodies)
        assert pipeline.run(chosen, run, told, until="data", retry=True)[1].status == "skipped"
        assert len(place.bodies) == sent
        assert "nothing is asked again" in told.said[0]

        straight = tmp_path / "straight"  # the same as of a run without a fault
        pipeline.run(chosen, straight, Quiet(), until="data")
    assert made(run) == made(straight)
    assert len(before) < len(made(run))


def test_refusals_are_told_and_open_no_stage(tmp_path: Path) -> None:
    images, run = pictures(tmp_path / "images", 8), tmp_path / "run"
    server = Ill(Raw(completion(None, refusal="I will not")))
    with endpoint(server) as place:
        chosen = load(recipe(tmp_path / "r.yaml", place.url, str(images), panel=True, retries=0, concurrency=1))
        told = Notes()
        pipeline.run(chosen, run, told, until="data")
        assert "refusal" in told.said[0]
        assert "--retry" not in told.said[0]
        sent = len(place.bodies)
        pipeline.run(chosen, run, Notes(), until="data", retry=True)
        assert len(place.bodies) == sent


def test_a_stage_that_kept_nothing_for_want_of_answers_begins_anew(tmp_path: Path) -> None:
    """Nobody has trained on it, so no option is needed."""
    images, run, down = pictures(tmp_path / "images", 2), tmp_path / "run", True

    def ill(body: dict[str, Any], number: int) -> Raw:
        return Raw(b"oops", 500) if down and kind(body) == "Density" else reply(body, number)

    with endpoint(ill) as place:
        chosen = load(recipe(tmp_path / "r.yaml", place.url, str(images), retries=0))
        with pytest.raises(UserError, match="none of the 2 images"):
            pipeline.run(chosen, run, Quiet(), until="data")
        down = False
        pipeline.run(chosen, run, Quiet(), until="data")
    assert len(read_samples(run / "data" / "samples.parquet")) == 4
