"""What each sample took, step by step: parts that sum to the whole, the same bytes however a run came to its end, and
what trace, report and card say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.fake_model import USAGE, kind, pictures, recipe, reply
from hypothesis import given
from hypothesis import strategies as st
from mllm.endpoint import FAULTS, Raw, completion, endpoint

from open4ov import pipeline
from open4ov.errors import UserError
from open4ov.formats.convert import export_set
from open4ov.mllm import ProviderError, line
from open4ov.mllm.costs import borne, figures, merged, per_kept, shares
from open4ov.mllm.took import Account, Took
from open4ov.progress import Quiet
from open4ov.recipe import PriceSection, load
from open4ov.sample import Sample, Step
from open4ov.store import read_samples
from open4ov.trace import lines, trace

PRICE = (2.0, 10.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    monkeypatch.setattr(line, "backoff", lambda attempt: 0.01)


def build(root: Path, url: str, images: Path, *more: str, **provider: Any) -> dict[str, Any]:
    chosen = load(recipe(root.parent / f"{root.name}.yaml", url, str(images), cache_as="m", **provider), more)
    pipeline.run(chosen, root, Quiet(), until="data")
    return json.loads((root / "data" / "report.json").read_text())


def money(read: float, written: float) -> float:
    return (read * PRICE[0] + written * PRICE[1]) / 1e6


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 40))
def test_parts_of_an_answer_sum_to_it(read: int, written: int, among: int) -> None:
    parts = shares(Step(stage="rank", input=read, output=written, cost=1.5), among)
    assert len(parts) == among
    assert sum(part.input or 0 for part in parts) == read
    assert sum(part.output or 0 for part in parts) == written
    assert sum(part.cost or 0 for part in parts) == pytest.approx(1.5)
    assert max(part.input or 0 for part in parts) - min(part.input or 0 for part in parts) <= 1


@given(st.permutations([(n, n * 7 % 5, n % 3) for n in range(12)]))
def test_an_account_does_not_depend_on_the_order(order: list[tuple[int, int, int]]) -> None:
    prices = (None, PriceSection(input=0.1, output=0.3), PriceSection(input=0.7, output=0.9))

    def totals(rows: list[tuple[int, int, int]]) -> Any:
        account = Account()
        for read, written, price in rows:
            account.add("rank", Took(read, written, price=prices[price]))
        return account.totals()

    assert totals(order) == totals(sorted(order))
    assert totals(order)["rank"].unpriced == 4


def test_what_is_not_known_stays_unknown() -> None:
    account = Account()
    account.add("rank", Took(10, 5))
    sample = Sample(id="a", source="s", task="t", steps=[Step(stage="rank", input=4, output=5)])
    found = figures(account.totals(), kept=borne([sample]))
    assert found["total"] == {"answers": 1, "input": 10, "output": 5, "estimated": 0, "unpriced": 1, "money": None}
    assert found["no_sample"] == {"input": 6, "output": 0, "money": None}
    assert merged([found, found])["total"] | {"answers": 1} == {
        **found["total"],
        "input": 20,
        "output": 10,
        "unpriced": 2,
    }
    assert per_kept(found, 3)["tokens"] == 5
    assert per_kept(found, 3)["money"] is None
    assert per_kept({}, 3) == per_kept(found, 0) == {"money": None, "tokens": None, "roles": {}}


def test_every_step_of_a_sample_says_what_it_took(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 2)
    with endpoint(reply) as server:
        report = build(tmp_path / "run", server.url, images)
        asked = [kind(body) for body in server.bodies]
    kept = read_samples(tmp_path / "run" / "data" / "samples.parquet")
    rejected = read_samples(tmp_path / "run" / "data" / "rejected.parquet")
    assert (len(kept), len(rejected)) == (4, 2)

    # by hand: an image's ranking, density and questions among its three samples; votes and check for each alone
    for of_image in (["rank", "Ranking"], ["density", "Density"], ["synthesize", "Pairs"]):
        stage, schema = of_image
        for picture in {sample.images[0] for sample in kept}:
            mine = [step for sample in (*kept, *rejected) if sample.images[0] == picture
                    for step in sample.steps if step.stage == stage]  # fmt: skip
            assert sum(step.input or 0 for step in mine) == USAGE[schema][0]
            assert sum(step.output or 0 for step in mine) == USAGE[schema][1]
            assert {step.among for step in mine} == {3}
            assert sum(step.cost or 0 for step in mine) == pytest.approx(money(*USAGE[schema]))
    for sample in kept:
        steps = {step.stage: step for step in sample.steps}
        assert list(steps) == ["rank", "density", "topics", "synthesize", "judge_1", "judge_2", "judge_3", "verify"]
        assert {(step.by, step.provider) for step in sample.steps} == {("m", "default")}
        assert (steps["judge_2"].input, steps["judge_2"].output) == USAGE["Judgement"]
        assert steps["judge_2"].cost == pytest.approx(money(301, 17))
        assert steps["verify"].prompt == "verify@2"
        assert steps["topics"].input is None
    assert "verify" not in {step.stage for sample in rejected for step in sample.steps}

    # the report's sums are those of what the server counted, and of the samples
    costs = report["costs"]
    every = [USAGE[name] for name in asked]
    assert costs["total"]["answers"] == len(asked) == sum(one["answers"] for one in costs["steps"].values())
    assert (costs["total"]["input"], costs["total"]["output"]) == tuple(map(sum, zip(*every, strict=True)))
    assert costs["total"]["money"] == pytest.approx(sum(money(*one) for one in every))
    assert {name: costs["kept"][name] for name in ("input", "output")} == {
        name: borne(kept)[name] for name in ("input", "output")
    }
    for name in ("input", "output", "money"):
        parts = [costs[group][name] for group in ("kept", "rejected", "no_sample")]
        assert sum(parts) == pytest.approx(costs["total"][name])
    assert costs["no_sample"]["input"] == costs["steps"]["topics"]["input"]  # nothing else is left over
    assert report["cost_per_kept"]["money"] * len(kept) == pytest.approx(costs["total"]["money"])
    assert sum(one["money"] for one in report["cost_per_kept"]["roles"].values()) == pytest.approx(
        report["cost_per_kept"]["money"]
    )
    assert report["asking"]["spent"]["total"]["money"] == pytest.approx(costs["total"]["money"])

    export_set(tmp_path / "run", tmp_path / "set", "messages", name="set")
    card = (tmp_path / "set" / "README.md").read_text()
    line = f"| judge_1 | 4 | {4 * 301:,} | {4 * 17} | {4 * 318:,} | {money(4 * 301, 4 * 17):.6g} |"
    assert line in card
    tokens = costs["total"]["input"] + costs["total"]["output"]
    assert f"took {tokens:,} tokens and {costs['total']['money']:.6g}" in card


def test_a_run_taken_up_again_gives_the_same_bytes_and_trace_knows_what_was_kept(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 3)
    with endpoint(reply) as server:
        whole = build(tmp_path / "whole", server.url, images)
        sent = len(server.bodies)

    def failing(body: dict[str, Any], number: int) -> Raw | int:
        return 401 if number >= sent * 3 // 4 else reply(body, number)

    with endpoint(failing) as server, pytest.raises(ProviderError):
        build(tmp_path / "cut", server.url, images)
    with endpoint(reply) as server:
        cut = build(tmp_path / "cut", server.url, images)
        again = len(server.bodies)
    assert 0 < again < sent // 2
    for name in ("samples.parquet", "rejected.parquet", "topics.parquet", "summary.json"):
        assert (tmp_path / "cut" / "data" / name).read_bytes() == (tmp_path / "whole" / "data" / name).read_bytes()
    assert cut["costs"] == whole["costs"]
    assert cut["cost_per_kept"] == whole["cost_per_kept"]
    digests = [json.loads((tmp_path / run / "data" / "stage.json").read_text())["files"] for run in ("whole", "cut")]
    assert digests[0]["samples.parquet"] == digests[1]["samples.parquet"]

    last = read_samples(tmp_path / "cut" / "data" / "samples.parquet")[-1]
    told = {event["stage"]: event for event in trace(tmp_path / "cut", last.id) if event["sample"] == last.id}
    assert told["rank"]["answer"] == "kept from before"
    assert told["verify"]["answer"] == "fresh"
    assert told["judge_1"]["prompt"] == "judge@2"
    assert told["cost"]["tokens"] == sum(step.known_tokens or 0 for step in last.steps)
    assert told["cost"]["cost"] == pytest.approx(sum(step.cost or 0 for step in last.steps))
    assert told["cost"]["unknown"] == []
    text = "\n".join(lines(trace(tmp_path / "cut", last.id)))
    assert "its part of an answer for 3 samples" in text
    assert "of the whole tree; no sample bears its cost" in text

    (tmp_path / "cut" / "asked" / "steps.sqlite").unlink()
    told = {event["stage"]: event for event in trace(tmp_path / "cut", last.id) if event["sample"] == last.id}
    assert told["rank"]["answer"] is None
    assert "not known whether fresh or kept" in told["rank"]["what"]


def test_answers_of_no_use_cost_too(tmp_path: Path) -> None:
    """A judge that never gives an answer that fits: its vote is missing, and what it took is the sample's."""
    images = pictures(tmp_path / "images", 1)

    def broken(body: dict[str, Any], number: int) -> Raw:
        if body["model"] == "bad":
            return Raw(completion("no JSON at all", (50, 3)))
        return reply(body, number)

    with endpoint(broken) as server:
        other = {"kind": "openai", "base_url": server.url, "model": "bad", "api_key_env": "TEST_KEY", "cache_as": "b"}
        report = build(
            tmp_path / "run", server.url, images,
            f"data.providers.bad={json.dumps(other)}", "data.roles.judge_3=bad",
        )  # fmt: skip
    kept = read_samples(tmp_path / "run" / "data" / "samples.parquet")
    step = next(step for step in kept[0].steps if step.stage == "judge_3")
    assert (step.input, step.output, step.cost, step.provider) == (100, 6, None, "bad")  # asked, and asked again
    assert kept[0].votes[2].missing
    total = report["costs"]["steps"]["judge_3"]
    assert (total["answers"], total["input"], total["unpriced"], total["money"]) == (3, 300, 3, None)
    told = {event["stage"]: event for event in trace(tmp_path / "run", kept[0].id)}
    assert "cost not known: no price" in told["judge_3"]["what"]
    assert "tokens not known" not in told["judge_3"]["what"]


def test_estimated_tokens_are_said_to_be(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 1)
    with endpoint(lambda body, number: Raw(reply(body, number).body.replace(b'"usage"', b'"used"'))) as server:
        report = build(tmp_path / "run", server.url, images)
    kept = read_samples(tmp_path / "run" / "data" / "samples.parquet")
    assert all(step.estimated for step in kept[0].steps if step.stage != "topics")
    assert report["costs"]["total"]["estimated"] == report["costs"]["total"]["answers"]
    assert (
        "partly estimated" in {event["stage"]: event for event in trace(tmp_path / "run", kept[0].id)}["cost"]["what"]
    )


def test_the_annotations_own_questions_bear_no_writing(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 1)
    entry = {"question": "What shade is the wall?", "answer": "grey"}
    (images / "000.json").write_text(json.dumps({"qa": [entry]}))
    with endpoint(reply) as server:
        build(tmp_path / "run", server.url, images)
    every = [
        *read_samples(tmp_path / "run" / "data" / "samples.parquet"),
        *read_samples(tmp_path / "run" / "data" / "rejected.parquet"),
    ]
    own = next(sample for sample in every if "shade" in sample.messages[0].text)
    stages = {step.stage: step for step in own.steps}
    assert "synthesize" not in stages
    assert stages["annotation"].input is None
    assert {step.among for sample in every for step in sample.steps if step.stage == "rank"} == {4}
    assert {step.among for sample in every for step in sample.steps if step.stage == "synthesize"} == {3}


def test_known_defects_bear_their_votes_only(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 3)
    with endpoint(reply) as server:
        report = build(tmp_path / "run", server.url, images, "data.inject_defects=0.5")
    rejected = read_samples(tmp_path / "run" / "data" / "rejected.parquet")
    spoilt = [sample for sample in rejected if "defect" in sample.extra]
    assert spoilt
    for sample in spoilt:
        assert {step.stage for step in sample.steps if step.input} <= {"judge_1", "judge_2", "judge_3", "verify"}
        assert "synthesize" in {step.stage for step in sample.steps}
    assert report["costs"]["no_sample"]["input"] == report["costs"]["steps"]["topics"]["input"]


def test_a_step_writes_only_what_it_knows() -> None:
    sample = Sample(
        id="a", source="s", task="t", steps=[Step(stage="x", input=1), Step.model_validate({"stage": "y", "z": 2})]
    )
    assert sample.model_dump()["steps"] == [{"stage": "x", "input": 1}, {"stage": "y", "z": 2}]
    assert Sample.model_validate_json(sample.model_dump_json()) == sample


def test_a_catalog_cannot_propose_labels() -> None:
    from open4ov.data import labels, labels_expand
    from open4ov.mllm import Asker
    from open4ov.mllm.embedding import embed_texts
    from open4ov.recipe import DataSection

    with pytest.raises(UserError, match=r"data\.roles\.labels: provider 'default' is the catalog"):
        labels_expand.expand(Asker(DataSection()), labels.load(), embed_texts)


def test_faults_of_the_server_are_no_cost(tmp_path: Path) -> None:
    """A reply that never came through took nothing that a sample could bear; the book may count it as spent."""
    images = pictures(tmp_path / "images", 1)
    with endpoint(lambda body, number: FAULTS["close"] if number % 5 == 0 else reply(body, number)) as server:
        report = build(tmp_path / "run", server.url, images, retries=3)
    assert report["asking"]["spent"]["total"]["input"] > report["costs"]["total"]["input"]
    assert report["costs"]["total"]["input"] % 1 == 0
    assert report["costs"]["no_sample"]["input"] == report["costs"]["steps"]["topics"]["input"]
