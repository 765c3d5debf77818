"""Online RL whose responses come from servers of our own engine at addresses: processes, real HTTP, real weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import world  # pyright: ignore[reportMissingImports]  # `spread_rl` has put its folder on the path
from online import BLUE, RED, train
from rollout_nodes import Node
from spread_rl import online_run

from open4ov.engine import Completion, Engine, Request
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe_rl_rollout import RolloutSection
from open4ov.rl.generation import generator
from open4ov.rl.generation.generator import Generator, GeneratorGone
from open4ov.sample import user

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def nodes(tiny_dir: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    logs = tmp_path_factory.mktemp("logs")
    started = [Node(tiny_dir, folder, logs / name) for name in ("a", "b")]
    try:
        assert all(node.url for node in started)
        yield started
    finally:
        for node in started:
            node.kill()


def rollouts(nodes: list[Node], folder: Path, **options: Any) -> dict[str, Any]:
    return {"backend": "served", "url": [node.url for node in nodes], "folder": str(folder), **options}


def built(model: Qwen3VL, directory: Path, nodes: list[Node], folder: Path, **options: Any) -> Generator:
    section = RolloutSection.model_validate(rollouts(nodes, folder, **options))
    return generator.build(model, Processor.from_pretrained(directory), section)


def asking(count: int, **options: Any) -> list[Request]:
    made: list[Request] = []
    for number in range(count):
        prompt, images = (
            ([user("how many?", 1)], [RED, BLUE][number % 2 :][:1]) if number % 3 else ([user("1 + 1 =")], [])
        )
        plain = {"max_tokens": 10, "temperature": 0.9, "n": 3, "seed": 100 + number, **options}
        made.append(Request(prompt, images, **plain))
    return made


def tokens(found: list[list[Completion]]) -> list[list[list[int]]]:
    return [[one.token_ids for one in group] for group in found]


def alike(curve: list[dict[str, Any]], wanted: list[dict[str, Any]], within: float) -> None:
    for point, other in zip(curve, wanted, strict=True):
        words = {key: value for key, value in other.items() if isinstance(value, str)}
        assert {key: point[key] for key in words} == words
        numbers = {key: value for key, value in other.items() if key not in words}
        assert {k: v for k, v in point.items() if k not in words} == pytest.approx(numbers, abs=within, rel=within)


def changed(model: Qwen3VL, seed: int) -> None:
    """As an update would."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.text.parameters():
            weight.add_(torch.randn(weight.shape, generator=noise) * 0.05)


@pytest.mark.slow
def test_responses_are_those_of_the_engine_in_process(nodes: list[Node], folder: Path, tiny_dir: Path) -> None:
    """The same tokens for the same seeds, whoever of the two answers; log-probs up to rounding; stamped."""
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    rolls = built(model, tiny_dir, nodes, folder)
    before = [node.tokens() for node in nodes]
    for version in range(2):
        for options in ({}, {"temperature": 0.0, "n": 1}, {"first": 2, "n": 2}, {"top_k": 5, "presence_penalty": 0.5}):
            requests = asking(6, **options)
            found, wanted = rolls.generate(requests), Engine(model, processor).generate(requests)
            assert tokens(found) == tokens(wanted)
            for one, other in zip(chain(*found), chain(*wanted), strict=True):
                assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
                assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
                assert one.weight_version == version
        if version == 0:
            changed(model, 1)
            assert rolls.update_weights() == 1
    assert all(node.tokens() > was for node, was in zip(nodes, before, strict=True)), "each has its share"
    assert len({node.version() for node in nodes}) == 1
    rolls.close()


@pytest.mark.slow
def test_a_training_by_servers_is_that_of_the_engine_in_process(
    nodes: list[Node], folder: Path, tiny_dir: Path
) -> None:
    options: dict[str, Any] = {"steps": 3, "reward": "online:odd", "learning_rate": 3e-4}
    model, fit = train(tiny_dir, rollout=rollouts(nodes, folder), **options)
    other, wanted = train(tiny_dir, rollout={"tis": "always"}, **options)
    alike(fit.curve, wanted.curve, 2e-3)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_two_processes_train_by_two_servers(nodes: list[Node], folder: Path, tiny_dir: Path) -> None:
    """The first one gathers the weights, writes them, and asks; all have the same responses."""
    served = {"rollout": rollouts(nodes, folder), "steps": 2}
    before = [node.tokens() for node in nodes]
    (curve, weights, _), (other, others, _) = world.run(
        online_run_of, 2, tiny_dir, {"dp_shard": 2}, served, timeout=600
    )
    assert curve == other
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert [point["lag"] for point in curve] == [0, 0]
    alone, _, _ = online_run(tiny_dir, None, None, None, rollout={"tis": "always"})
    alike(curve, alone, 3e-3)
    assert all(node.tokens() > was for node, was in zip(nodes, before, strict=True))


def online_run_of(directory: Path, sizes: dict[str, int], options: dict[str, Any]) -> Any:
    return online_run(directory, sizes, None, None, **options)


@pytest.mark.slow
def test_one_that_is_killed_in_the_middle_of_a_step(
    nodes: list[Node], folder: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    """The other goes on with its prompts. Started again it has old weights, and gets the present ones before it is
    asked; when none is left, the step ends with what to do."""
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    pair = [nodes[0], Node(tiny_dir, folder, tmp_path / "c")]
    try:
        rolls = built(model, tiny_dir, pair, folder, tries=1, concurrency=2)
        changed(model, 2)
        rolls.update_weights()
        requests = asking(12)
        wanted = tokens(Engine(model, processor).generate(requests))

        def progress(done: int, total: int) -> None:
            assert total == 36
            pair[1].kill()

        assert tokens(rolls.generate(requests, progress)) == wanted
        assert pair[1].process.poll() is not None
        assert tokens(rolls.generate(requests)) == wanted, "it is away, and the other does all"
        port = pair[1].port
        pair[1] = Node(tiny_dir, folder, tmp_path / "d", port)
        assert pair[1].port == port
        assert pair[1].version() == "default"
        assert tokens(rolls.generate(requests)) == wanted
        assert pair[1].version() == pair[0].version()
        assert pair[1].tokens() > 60, "it has its share again"
        pair[1].kill()
        gone = built(model, tiny_dir, [pair[0], pair[1]], folder, tries=1)
        assert tokens(gone.generate(requests)) == wanted, "one that is not there from the beginning"
        with pytest.raises(GeneratorGone, match=r"rl\.rollout\.url .*: the server is gone: .*open4ov rollout DIR"):
            built(model, tiny_dir, [pair[1]], folder, tries=1)
    finally:
        pair[1].kill()


@pytest.mark.slow
def test_a_key_that_is_wrong_and_a_folder_that_is_not_its_own(
    folder: Path, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    node = Node(tiny_dir, folder, tmp_path / "k", 0, "secret,other")
    try:
        for key in ("wrong", "secre"):
            monkeypatch.setenv("ROLLOUT_KEY", key)
            with pytest.raises(UserError, match=rf"{node.url}: the key is not let in.*rl\.rollout\.key_env"):
                built(model, tiny_dir, [node], folder, key_env="ROLLOUT_KEY")
        with pytest.raises(UserError, match="the key is not let in"):
            built(model, tiny_dir, [node], folder)
        monkeypatch.setenv("ROLLOUT_KEY", "secret")
        built(model, tiny_dir, [node], folder, key_env="ROLLOUT_KEY").close()
        elsewhere = tmp_path / "elsewhere"
        with pytest.raises(UserError, match=rf"{node.url}: HTTP 400 .*no folder of weights in those that this server"):
            built(model, tiny_dir, [node], elsewhere, key_env="ROLLOUT_KEY")
        named = built(
            model, tiny_dir, [node], folder, served_folder=f"{folder}/../{folder.name}", key_env="ROLLOUT_KEY"
        )
        assert named.generate(asking(1))
    finally:
        node.kill()
