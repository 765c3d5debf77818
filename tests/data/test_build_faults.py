"""`open4ov data build` against a server that fails in every known way: each fault counted and listed with its reason,
the sound part of the data made, and nothing turned into an empty text."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from data.fake_model import kind, pictures, recipe, reply
from mllm.endpoint import CONTENT, EXPECTED, FAULTS, Raw, completion, endpoint
from typer.testing import CliRunner

from open4ov.cli import data as commands
from open4ov.errors import UserError
from open4ov.images import open_image
from open4ov.mllm import line
from open4ov.sample import Sample
from open4ov.store import ImageStore, read_samples


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret-4711")
    monkeypatch.setattr(line, "backoff", lambda attempt: 0.01)
    monkeypatch.setattr(line, "PATIENCE", 2)


def build(images: Path, url: str, out: Path, *more: str, **provider: Any) -> dict[str, Any]:
    """The command as a user gives it; its report."""
    file = recipe(out.parent / "recipe.yaml", url, **provider)
    given = ["build", "--images", str(images), "--recipe", str(file), "--out", str(out), "--quiet", *more]
    result = CliRunner().invoke(commands, given)
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["images"] > 0
    return json.loads((out / "data" / "report.json").read_text())


def urls(images: Path, place: Path) -> dict[str, int]:
    """By data URL, as the server sees it, the number of a picture in its folder."""
    store, found = ImageStore(place), {}
    for number, file in enumerate(sorted(images.glob("*.png"))):
        png = store.png(store.put(open_image(file)))
        found["data:image/png;base64," + base64.b64encode(png).decode()] = number
    return found


def picture(body: dict[str, Any]) -> str:
    parts = body["messages"][0]["content"]
    return next((part["image_url"]["url"] for part in parts if part["type"] == "image_url"), "")


def nothing_is_empty(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.answer
        assert all(message.text.strip() for message in sample.messages)
        assert all(vote.reason for vote in sample.votes)


@pytest.mark.slow
def test_each_fault_of_an_endpoint_costs_one_image_and_is_listed(tmp_path: Path) -> None:
    """Every second picture meets a fault of its own when its density is asked."""
    names = sorted(FAULTS.keys() - CONTENT)
    images = pictures(tmp_path / "images", 2 * len(names))
    known = urls(images, tmp_path / "store")

    def faulty(body: dict[str, Any], number: int) -> Raw:
        at = known.get(picture(body), 1)
        return FAULTS[names[at // 2]] if kind(body) == "Density" and at % 2 == 0 else reply(body, number)

    with endpoint(faulty) as server:
        # `timeout` is for the two that never end; one question at a time, so that good ones come between bad ones
        report = build(images, server.url, tmp_path / "run", timeout=4.0, retries=0, concurrency=1)
    assert report["counts"]["images"] == 2 * len(names)
    assert report["counts"]["images_skipped"] == len(report["skipped"]) == len(names)
    assert {entry["step"] for entry in report["skipped"]} == {"scoring density"}
    assert report["asking"]["roles"]["density"]["faults"] == Counter(EXPECTED[name][0] for name in names)
    assert all("data.providers.default" in entry["reason"] for entry in report["skipped"])
    files = {image.id: image.extra["file"] for image in read_samples(tmp_path / "run" / "images" / "samples.parquet")}
    assert {files[entry["image"]] for entry in report["skipped"]} == {f"{2 * n:03}.png" for n in range(len(names))}
    kept = read_samples(tmp_path / "run" / "data" / "samples.parquet")
    assert len({sample.images[0] for sample in kept}) == len(names)
    nothing_is_empty(kept)
    written = b"".join(file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file())
    for secret in (b"sk-very-secret-4711", b"Sign in", b"of-theirs"):
        assert secret not in written


PAIR = {
    "topic": "Counting ~ Object counting ~ Counting dogs", "task": "counting", "type": "open", "language": "en",
    "question": "How many dogs are there?", "answer": "2", "aliases": [], "options": [], "response": "2",
}  # fmt: skip
RANKING = {"description": "d", "domain": ["Nature", "Others"], "ability": ["Counting", "Others"]}
# What a model may say at each step: (kind of answer, what it says, where it is listed, words of the reason)
CASES: dict[str, tuple[str, str | dict[str, Any], str, str]] = {
    "unknown label": ("Ranking", {**RANKING, "domain": ["Zoo", "Others"]}, "matching labels", "not on the list"),
    "a rank given twice": ("Ranking", {**RANKING, "ability": ["Counting", "counting", "Others"]}, "matching labels",
                           "a label is given twice"),
    "no boundary": ("Ranking", {**RANKING, "domain": ["Nature"]}, "matching labels", "Others is missing"),
    "nothing fits": ("Ranking", {**RANKING, "domain": ["Others", "Nature"]}, "matching labels", "no domain label"),
    "ranking cut short": ("Ranking", '{"description": "d", "domain": ["Nat', "matching labels", "EOF"),
    "no ranking": ("Ranking", "", "matching labels", "empty"),
    "a score above one": ("Density", {"subjects": 7, "space": 1, "ocr": 1, "knowledge": 1}, "scoring density",
                          "subjects"),
    "scores as words": ("Density", {"subjects": "high", "space": 1, "ocr": 1, "knowledge": 1}, "scoring density",
                        "subjects"),
    "questions in no language of ours": ("Pairs", {"pairs": [{**PAIR, "language": "fr"}]}, "writing questions",
                                         "language"),
    "Chinese called English": ("Pairs", {"pairs": [{**PAIR, "question": "图中有几只狗？"}]}, "writing questions",
                               "no question fits"),
    "empty answers": ("Pairs", {"pairs": [{**PAIR, "answer": " "}]}, "writing questions", "no question fits"),
    "a topic of its own": ("Pairs", {"pairs": [{**PAIR, "topic": "Zoo ~ A ~ B"}]}, "writing questions",
                           "no question fits"),
    "no pairs at all": ("Pairs", {"pairs": []}, "writing questions", "no question fits"),
    "a refusal": ("Pairs", "I'm sorry, but I can't help with that.", "writing questions", "refuses"),
    "a huge answer": ("Pairs", json.dumps({"pairs": [{**PAIR, "response": "x" * 200_000}]}), "writing questions",
                      "longer than"),
    "votes that are none": ("Judgement", {"score": 2, "reason": "r"}, "votes", "score"),
    "a vote refused": ("Judgement", "抱歉，我无法回答这个问题。", "votes", "refuses"),
    "a check without reasons": ("Verification", {"accuracy": {"ok": True}}, "checks", "accuracy"),
    "no checks": ("Verification", "", "checks", "empty"),
}  # fmt: skip


def test_each_answer_that_cannot_be_used_is_listed_where_it_was_asked(tmp_path: Path) -> None:
    """A picture for each case, and one without fault behind it."""
    names = list(CASES)
    images = pictures(tmp_path / "images", 2 * len(names))
    known = urls(images, tmp_path / "store")

    def odd(body: dict[str, Any], number: int) -> Raw:
        at = known.get(picture(body), 1)
        asked, says, _, _ = CASES[names[at // 2]]
        if at % 2 or kind(body) != asked:
            return reply(body, number)
        return Raw(completion(says if isinstance(says, str) else json.dumps(says), (10, 5)))

    with endpoint(odd) as server:
        report = build(images, server.url, tmp_path / "run", retries=0)
    files = {image.id: image.extra["file"] for image in read_samples(tmp_path / "run" / "images" / "samples.parquet")}
    skipped = {files[entry["image"]]: (entry["step"], entry["reason"]) for entry in report["skipped"]}
    kept = read_samples(tmp_path / "run" / "data" / "samples.parquet")
    rejected = read_samples(tmp_path / "run" / "data" / "rejected.parquet")
    of_file = {sample.extra["file"]: sample for sample in (*kept, *rejected)}
    for number, name in enumerate(names):
        _, _, place, words = CASES[name]
        file = f"{2 * number:03}.png"
        if place == "votes":
            votes = of_file[file].votes
            assert all(vote.missing and words in vote.reason for vote in votes), (name, votes)
        elif place == "checks":
            sample = next(one for one in rejected if one.extra["file"] == file and one.extra["rejected_by"] != "judges")
            assert words in sample.extra["check_reasons"]["unverified"], (name, sample.extra)
        else:
            assert skipped[file][0] == place, (name, skipped[file])
            assert words in skipped[file][1], (name, skipped[file])
        assert file not in {sample.extra["file"] for sample in kept}, name
        assert f"{2 * number + 1:03}.png" in {sample.extra["file"] for sample in kept}, name
    assert report["undecided"] == 6
    assert report["counts"]["images_skipped"] == sum(
        place not in ("votes", "checks") for _, _, place, _ in CASES.values()
    )
    assert report["synthesis"]["dropped"]["empty question, answer or response"] == 1
    assert report["synthesis"]["dropped"]["question in another language"] == 1
    assert report["synthesis"]["dropped"]["topic not offered"] == 1
    reasons = report["false_rejections"]["reasons"]
    assert reasons["verification: no usable answer"] == 4
    nothing_is_empty(kept)


def test_where_nothing_is_left_the_reasons_are_listed_all_the_same(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 3)

    def bad(body: dict[str, Any], number: int) -> Raw:
        return Raw(completion("{}")) if kind(body) == "Density" else reply(body, number)

    said = r"none of the 3 images gave a sample"
    with endpoint(bad) as server, pytest.raises(UserError, match=said):
        build(images, server.url, tmp_path / "run", retries=0)
    report = json.loads((tmp_path / "run" / "data.failed" / "report.json").read_text())
    assert [entry["step"] for entry in report["skipped"]] == ["scoring density"] * 3
    assert report["asking"]["roles"]["density"]["faults"] == {"schema": 3}
    assert not (tmp_path / "run" / "data").exists()
    with endpoint(reply) as server:
        build(images, server.url, tmp_path / "run", retries=0)
    assert not (tmp_path / "run" / "data.failed").exists()


def test_topics_without_a_usable_answer_are_listed(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 1)

    def odd(body: dict[str, Any], number: int) -> Raw:
        plants = kind(body) == "Topics" and "Plants" in body["messages"][0]["content"][-1]["text"]
        return Raw(completion('{"topics": "none"}')) if plants else reply(body, number)

    with endpoint(odd) as server:
        report = build(images, server.url, tmp_path / "run", retries=0)
    barren = report["labels"]["pairs_without_topics"]
    assert barren
    assert all("Plants" in entry["pair"] and "topics" in entry["reason"] for entry in barren)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\ndomain: &d\n- {id: a, name: A, l2: *d}\nability: []\n", "is below itself"),
        ("version: 1\ndomain: []\nability: []\ndomain: []\n", r"'domain' is given twice \(first in line 2\)"),
        (json.dumps({"version": 1, "domain": [{"id": "a", "name": "A", "description": "d", "l2": []}] * 2,
                     "ability": []}), r"domain\.0\.l2"),
    ],
)  # fmt: skip
def test_a_label_tree_that_is_none_stops_before_anything_is_sent(tmp_path: Path, text: str, said: str) -> None:
    images = pictures(tmp_path / "images", 1)
    (tmp_path / "labels.yaml").write_text(text)
    with endpoint(reply) as server:
        with pytest.raises(UserError, match=said):
            build(images, server.url, tmp_path / "run", "--set", f"data.labels={tmp_path / 'labels.yaml'}")
        assert server.bodies == []


def test_images_are_named_once_and_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--images .*nowhere: is not a folder"):
        build(tmp_path / "nowhere", "http://127.0.0.1:9/v1", tmp_path / "run")
    with pytest.raises(UserError, match="name the images twice"):
        build(tmp_path, "http://127.0.0.1:9/v1", tmp_path / "run", "--set", "images.vertical=x")


@pytest.mark.slow
def test_the_command_from_a_shell(tmp_path: Path) -> None:
    """As the documentation writes it, with a folder whose name YAML would read otherwise."""
    images = pictures(tmp_path / "yes: [no", 1)
    with endpoint(reply) as server:
        file = recipe(tmp_path / "r.yaml", server.url)
        command = [sys.executable, "-m", "open4ov.cli", "data", "build", "--images", str(images), "--recipe", str(file)]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "run"), "--quiet"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["images"], told["kept"], told["rejected"]) == (1, 2, 1)
    assert told["costs"]["money"] > 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")) == [
        "asked", "data", "image-store", "images", "run.json",
    ]  # fmt: skip
