"""The dry run: what it counts is what a run with such answers sends, and it sends nothing itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from endpoint import Raw, completion, endpoint
from PIL import Image
from typer.testing import CliRunner

from open4ov.cli import app
from open4ov.data import construct
from open4ov.errors import UserError
from open4ov.mllm import ROLES, Asker, Prompt, Request, estimate, guessing
from open4ov.mllm.answers import Density, Judgement, Pairs, Ranking, Topics, Verification
from open4ov.mllm.showing import encode
from open4ov.recipe import DataSection, PriceSection, ProviderSection
from open4ov.sample import Sample
from open4ov.store import ImageStore

SCHEMAS = {"topics": Topics, "rank": Ranking, "density": Density, "synthesize": Pairs, "verify": Verification}


@pytest.fixture
def images(tmp_path: Path) -> tuple[ImageStore, list[Sample]]:
    store = ImageStore(tmp_path / "image-store")
    shas = [store.put(Image.new("RGB", (320, 64 * (n + 1)), (n, 9, 9))) for n in range(3)]
    return store, [Sample(id=f"i{n}", source="folder", task="image", images=[sha]) for n, sha in enumerate(shas)]


def section(url: str, concurrency: int = 8, **more: Any) -> DataSection:
    settings: dict[str, Any] = {
        "concurrency": concurrency,
        "kind": "openai",
        "base_url": url,
        "model": "m",
        "api_key_env": "TEST_KEY",
        "retries": 0,
    }
    price = PriceSection(input=1.0, output=1000.0)
    return DataSection(
        providers={"default": ProviderSection(**settings, price=price), "b": ProviderSection(**settings)},
        roles={"judge_2": "b"},
        **more,
    )


def test_made_up_answers_fit_their_schemas() -> None:
    for role in ROLES:
        schema = SCHEMAS.get(role, Judgement)
        axis = {"l1": "X", "l2": "Y", "things": []}
        picture = type("P", (), {"sha": "ab"})()
        names = [{"name": name} for name in "ABCDE"]
        values: dict[str, Any] = {
            "topics": [{"path": "p"}], "budget": 3, "languages": ["en", "zh"], "limit": 4, "domain": axis,
            "ability": axis, "labels": {"domain": names, "ability": names},
        }  # fmt: skip
        answer = guessing.made_up(Request(role, Prompt(role, values), (picture,), schema))  # type: ignore[arg-type]
        assert schema.model_validate(answer)
    with pytest.raises(UserError, match="no estimate"):
        guessing.made_up(Request("else", Prompt("judge", {}), (), Judgement))


@pytest.mark.slow
@pytest.mark.parametrize("most", [False, True])
def test_it_counts_what_a_run_with_these_answers_sends(
    most: bool, images: tuple[ImageStore, list[Sample]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is an endpoint that gives the same answers, and counts the requests that reach it."""
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")
    store, samples = images
    given: dict[str, str] = {}
    answer = guessing.Guesser.answer

    def record(self: guessing.Guesser, request: Request) -> dict[str, Any]:
        found = answer(self, request)
        shown = [encode(picture, ProviderSection()).url for picture in request.images]
        if self.most == most:
            given["".join([*shown, request.prompt.text])] = json.dumps(found)
        return found

    def reply(body: dict[str, Any], number: int) -> Raw:
        *shown, text = body["messages"][0]["content"]
        return Raw(completion(given["".join([*(one["image_url"]["url"] for one in shown), text["text"]])]))

    monkeypatch.setattr(guessing.Guesser, "answer", record)
    with endpoint(reply) as server:
        chosen = section(server.url)
        found = construct.estimate(samples, chosen, store, 0)
        assert server.bodies == []
        asker = Asker(chosen, place=tmp_path)
        result = construct.make(samples, chosen, store, 0, asker=asker)
    roles = asker.report()["roles"]
    if most:  # bounds: the endpoint counts no more than them
        for line in found["lines"]:
            took, bound = roles[line["role"]], line["most"]
            assert took["requests"] == bound["calls"] >= line["calls"]
            assert took["input"] < bound["input"]
            assert took["output"] < bound["output"] == 4096 * bound["calls"]
        assert found["total"]["most"]["calls"] > found["total"]["calls"]
        return
    assert len(result.samples) == found["total"]["calls"] - sum(
        line["calls"] for line in found["lines"] if line["role"] != "verify"
    )
    sent = Counter(line["role"] for line in found["lines"] for _ in range(line["calls"]))
    assert {role: roles[role]["requests"] for role in roles} == dict(sent)
    assert set(sent) == set(ROLES)
    for line in found["lines"]:  # the endpoint counts nothing, so the run estimates by the same rules
        took = roles[line["role"]]
        assert took["input"] == pytest.approx(line["input"], rel=0.02)
        assert took["output"] == pytest.approx(line["output"], rel=0.25)
        assert line["priced"] == (line["provider"] == "default")
    total = found["total"]
    topics = next(line for line in found["lines"] if line["role"] == "topics")
    assert found["without_topics"]["calls"] == total["calls"] - topics["calls"]
    assert total["money"] == pytest.approx(
        sum((line["input"] + 1000 * line["output"]) / 1e6 for line in found["lines"] if line["priced"])
    )
    assert total["image_tokens"] > 0
    report = result.report["asking"]
    assert report["spent"]["total"]["requests"] == total["calls"]
    assert set(report["roles"]) == set(ROLES)


@pytest.mark.slow
def test_what_is_kept_is_not_asked_again(
    images: tuple[ImageStore, list[Sample]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is stopped by its budget; the dry run then says what the same command will send when it may go on. The
    oracle is again an endpoint that gives the answers of the dry run, kept ones aside."""
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")
    store, samples = images
    given: dict[str, str] = {}
    make_up = guessing.made_up

    def record(request: Request, density: float) -> dict[str, Any]:
        found = make_up(request, density)
        shown = [encode(picture, ProviderSection()).url for picture in request.images]
        if density < 1:  # what is likely
            given["".join([*shown, request.prompt.text])] = json.dumps(found)
        return found

    def reply(body: dict[str, Any], number: int) -> Raw:
        *shown, text = body["messages"][0]["content"]
        return Raw(completion(given["".join([*(one["image_url"]["url"] for one in shown), text["text"]])], (900, 20)))

    monkeypatch.setattr(guessing, "made_up", record)
    with endpoint(reply) as server:
        # one question at a time: else chance decides which are kept when the budget ends, and what is left with them
        small, large = (section(server.url, 1, budget={"tokens": tokens}) for tokens in (40_000, 10**8))
        first = construct.estimate(samples, small, store, 0, tmp_path)
        assert first["total"]["kept"] == 0
        assert first["spent"] == {"tokens": 0, "money": 0.0}
        assert not (tmp_path / "asked").exists()  # looked for, not made
        with pytest.raises(UserError, match=r"data\.budget\.tokens"):
            construct.make(samples, small, store, 0, asker=Asker(small, place=tmp_path))
        sent = len(server.bodies)
        assert 0 < sent < first["total"]["calls"]
        second = construct.estimate(samples, small, store, 0, tmp_path)
        assert len(server.bodies) == sent
        assert second["total"]["kept"] == sent
        assert second["total"]["calls"] == first["total"]["calls"] - sent
        assert second["total"]["input"] < first["total"]["input"]
        assert second["spent"]["tokens"] == sent * 920
        text = estimate.to_text(second, small)
        assert f"{sent} answers are kept" in text
        assert f"Spent so far: {sent * 920:,} tokens" in text
        assert f"of which {40_000 - sent * 920:,} are left" in text
        construct.make(samples, large, store, 0, asker=Asker(large, place=tmp_path))
        assert len(server.bodies) == sent + second["total"]["calls"]
        last = construct.estimate(samples, large, store, 0, tmp_path)
        assert (last["total"]["calls"], last["total"]["money"]) == (0, 0)
        assert last["total"]["kept"] == len(server.bodies)


@pytest.mark.slow
def test_the_table_names_its_rules_and_the_budget_that_is_too_small(images: tuple[ImageStore, list[Sample]]) -> None:
    store, samples = images
    chosen = section("http://127.0.0.1:9/v1", budget={"tokens": 100})
    found = construct.estimate(samples, chosen, store, 0)
    text = estimate.to_text(found, chosen)
    assert "32 x 32 pixels" in text
    assert "no price" in text
    assert "data.budget.tokens is 100" in text
    assert "nothing would be sent" in estimate.to_text(
        construct.estimate(samples, DataSection(), store, 0), DataSection()
    )


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is set and nobody listens: a dry run needs neither."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "r.yaml").write_text(
        "name: a\nimages: {vertical: photos, general_count: 0}\ndata:\n  providers:\n"
        "    default: {kind: openai, base_url: 'http://127.0.0.1:9/v1', model: m, api_key_env: UNSET_KEY}\n"
    )
    monkeypatch.chdir(tmp_path)

    def run(*more: str) -> Any:
        return CliRunner().invoke(app, ["run", "r.yaml", "--out", "out", "--dry-run", *more])

    told = run("--quiet").output
    assert "judge_3" in told
    assert "judge_1, judge_2, judge_3 ask one model" in told  # before anything is paid
    assert "Topics are asked once" in told
    assert "UNSET_KEY is not set" in told
    assert not (tmp_path / "out").exists()
    event = json.loads(run("--json").output.splitlines()[-1])
    assert event["event"] == "estimate"
    assert {line["role"] for line in event["lines"]} == set(ROLES)
    assert "judge_3" not in run("--quiet", "--until", "images").output
    assert "no such stage" in str(run("--until", "dta").exception)
