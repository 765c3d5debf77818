"""Rollouts by servers at addresses: equal policies, new weights, and a server that dies in the middle of a step.

The default tests speak to a real HTTP server that answers as vLLM does (`vllm_like.py`); those marked `vllm` start it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rollout_nodes import Node
from vllm_like import Like, asking, shaken

from open4ov.assets import base_dir
from open4ov.engine import Completion, Engine, Request
from open4ov.engine.rollouts.servers import Servers
from open4ov.engine.vllm import find_python
from open4ov.engine.vllm_plan import plan
from open4ov.engine.vllm_sync import WeightsDiffer, own_log_probs
from open4ov.engine.vllm_wire import SAFE_TEMPERATURE, Gone
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe_rl_rollout import COLDEST_OF_VLLM, RolloutSection
from open4ov.rl.generation import generator
from open4ov.rl.generation.generator import GeneratorGone
from open4ov.sample import user

PICTURE = Image.new("RGB", (64, 96), (200, 30, 40))
PAUSE = 0.01


@pytest.fixture
def parts(tiny_dir: Path) -> tuple[Qwen3VL, Processor]:
    return Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)


@pytest.fixture
def serve(tiny_dir: Path) -> Iterator[Callable[..., Like]]:
    begun: list[Like] = []

    def start(**options: Any) -> Like:
        begun.append(Like(tiny_dir, **options))
        return begun[-1]

    yield start
    for one in begun:
        if not one.died.is_set():
            one.close()


def section(likes: Like | list[Like], folder: Path, **options: Any) -> RolloutSection:
    url = [like.url for like in likes] if isinstance(likes, list) else likes.url
    return RolloutSection.model_validate({"backend": "vllm", "url": url, "folder": str(folder), **options})


def tokens(found: list[list[Completion]]) -> list[list[list[int]]]:
    return [[one.token_ids for one in group] for group in found]


def own(model: Qwen3VL, processor: Processor, request: Request, one: Completion) -> torch.Tensor:
    return own_log_probs(model, processor, request, one.token_ids)[-len(one.token_ids) :]


def test_log_probs_are_the_policys_and_follow_its_updates(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path
) -> None:
    model, processor = parts
    like = serve()
    rolls = generator.build(model, processor, section(like, tmp_path))
    assert (rolls.apart, rolls.weight_version) == (False, 0)
    requests = asking(4, PICTURE, temperature=0.8)
    before = rolls.generate(requests)
    shaken(model)
    assert rolls.update_weights() == 1
    after = rolls.generate(requests)
    assert {one.weight_version for group in after for one in group} == {1}
    assert tokens(before) != tokens(after)
    for request, group in zip(requests, after, strict=True):
        assert len(group) == 2
        for one in group:
            torch.testing.assert_close(
                torch.tensor(one.log_probs), own(model, processor, request, one), atol=1e-4, rtol=0
            )
    assert tokens(rolls.generate(requests)) == tokens(after)
    rolls.close()


@pytest.mark.slow
def test_a_server_that_comes_back_with_old_weights_gets_the_new_ones_again(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path
) -> None:
    """It dies in the middle of a step, after weights were updated; whoever starts it again starts the first ones."""
    model, processor = parts
    first = serve()
    with Servers(model, processor, first.url, tmp_path / "a", pause=PAUSE) as engine:
        shaken(model)
        engine.update_weights()
        expected = engine.generate(asking(6, PICTURE))
    with Servers(model, processor, first.url, tmp_path / "b", pause=PAUSE, concurrency=1, tries=500) as engine:
        engine.generate(asking(1, PICTURE))
        first.dies_at = first.asked + 3
        again: list[Like] = []
        back = threading.Thread(
            target=lambda: (first.died.wait(), time.sleep(0.2), again.append(serve(port=first.port)))
        )
        back.start()
        found = engine.generate(asking(6, PICTURE))
        back.join()
    assert tokens(found) == tokens(expected)
    assert first.died.is_set()
    assert again[0].loads == 1
    assert again[0].served == 4 + 4  # probes; the two that were answered before are not asked for again


def test_a_server_that_stays_away_ends_the_step_with_what_to_do(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open4ov.engine.rollouts.servers.LONGEST_PAUSE", PAUSE)
    like = serve()
    rolls = generator.build(*parts, section(like, tmp_path, tries=3))
    like.dies_at = like.asked + 2
    with pytest.raises(
        GeneratorGone, match=r"rl\.rollout\.url http.*no connection \(3 tries\).*same command again"
    ) as told:
        rolls.generate(asking(4, PICTURE))
    assert isinstance(told.value, UserError)
    with pytest.raises(GeneratorGone, match="the server is gone"):
        rolls.update_weights()
    rolls.close()


@pytest.mark.slow
def test_one_of_several_goes_away_and_comes_back(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its prompts go to the others at once. It is asked again with the weights of then only."""
    model, processor = parts
    likes = [serve(), serve(), serve()]
    rolls = generator.build(model, processor, section(likes, tmp_path, tries=1, concurrency=2))
    shaken(model)
    rolls.update_weights()
    requests = asking(9, PICTURE)
    wanted = tokens(rolls.generate(requests))
    likes[1].dies_at = likes[1].asked + 2
    assert tokens(rolls.generate(requests)) == wanted
    assert likes[1].died.is_set()
    assert f"{likes[1].url} is left out until the next step" in caplog.text
    shaken(model, 0.02)
    rolls.update_weights()
    likes[1] = serve(port=likes[1].port)
    found = rolls.generate(requests)
    assert likes[1].served > 4, "more than probes"
    assert {like.label for like in likes} == {likes[0].label}
    assert [like.loads for like in likes] == [3, 1, 3]
    for request, group in zip(requests, found, strict=True):
        for one in group:
            gap = torch.tensor(one.log_probs) - own(model, processor, request, one)
            assert float(gap.abs().max()) < 1e-4
    assert f"{likes[1].url} is back" in caplog.text


def test_the_one_whose_weights_are_others_is_named(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path
) -> None:
    """All the same whether it is so from the beginning or after an update."""
    model, processor = parts
    likes = [serve(), serve(stuck=True)]
    rolls = generator.build(model, processor, section(likes, tmp_path))  # its weights are those of the beginning
    shaken(model)
    with pytest.raises(WeightsDiffer, match=f"{likes[1].url}: .*log-probabilities differ"):
        rolls.update_weights()
    with pytest.raises(WeightsDiffer, match="update them again"):
        rolls.generate(asking(1, PICTURE))
    with pytest.raises(WeightsDiffer, match=f"{likes[1].url}: .*log-probabilities differ"):
        generator.build(model, processor, section(likes, tmp_path))


def test_a_response_may_say_the_placeholder_of_pictures(parts: tuple[Qwen3VL, Processor]) -> None:
    """It is a token like any other there; only the prompt's stand for the picture."""
    model, processor = parts
    request = Request([user("how many?", 1)], [PICTURE], temperature=1.0)
    said = [40, processor.image_id, 41]
    found = own_log_probs(model, processor, request, said)[-3:]
    plain = own_log_probs(model, processor, request, [40])[-1:]
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:1], plain, atol=1e-5, rtol=0)


def test_servers_of_vllm_are_not_taken_for_ours(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path
) -> None:
    like = serve()
    with pytest.raises(UserError, match=f"{like.url}: this is no server of open4ov's engine.*open4ov rollout"):
        generator.build(*parts, section(like, tmp_path, backend="served"))


def test_nobody_there_at_the_start(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path
) -> None:
    like = serve()
    like.close()
    with pytest.raises(GeneratorGone, match="no connection"):
        generator.build(*parts, section(like, tmp_path, tries=1))


def test_a_server_that_cannot_take_weights_is_told_apart(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path
) -> None:
    for path in ("/collective_rpc", "/inference/v1/generate"):
        like = serve(without=(path,))
        with pytest.raises(UserError, match=rf"{path} is not served.*--enable-scale-out.*VLLM_SERVER_DEV_MODE"):
            generator.build(*parts, section(like, tmp_path))


def test_log_probs_of_another_temperature_are_refused(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path
) -> None:
    with pytest.raises(WeightsDiffer, match="processed_logprobs"):
        generator.build(*parts, section(serve(raw=True), tmp_path))


def test_what_a_server_cannot_say_log_p_of_is_refused(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path
) -> None:
    rolls = generator.build(*parts, section(serve(), tmp_path))
    for options in ({"top_k": 5}, {"top_p": 0.9}, {"repetition_penalty": 1.1}):
        with pytest.raises(UserError, match=f"request 0: {next(iter(options))}: a vLLM server"):
            rolls.generate([Request([user("a")], temperature=1.0, **options)])
    rolls.close()


def test_the_recipe_knows_what_is_too_cold_for_vllm() -> None:
    assert COLDEST_OF_VLLM == SAFE_TEMPERATURE


def test_the_key_comes_from_the_environment(
    parts: tuple[Qwen3VL, Processor], serve: Callable[..., Like], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    like = serve()
    monkeypatch.delenv("ROLLOUT_KEY", raising=False)
    with pytest.raises(UserError, match="ROLLOUT_KEY is not set"):
        generator.build(*parts, section(like, tmp_path, key_env="ROLLOUT_KEY"))
    monkeypatch.setenv("ROLLOUT_KEY", "abc")
    generator.build(*parts, section(like, tmp_path, key_env="ROLLOUT_KEY")).close()
    assert like.keys == {"Bearer abc"}


@pytest.mark.slow
def test_a_process_of_ours_that_dies_in_mid_step_is_started_again(
    parts: tuple[Qwen3VL, Processor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights as they are by then, and the versions going on. One that dies every time ends the step."""
    model, processor = parts
    python = tmp_path / "python"
    here = Path(__file__).parent
    paths = f"{here}:{here.parents[2] / 'src'}"
    python.write_text(f"#!/bin/sh\nPYTHONPATH={paths} exec {sys.executable} {here / 'worker_like.py'}\n")
    python.chmod(0o755)
    monkeypatch.setenv("OPEN4OV_VLLM_PYTHON", str(python))
    monkeypatch.setenv("DIES_ONCE", str(tmp_path / "dies"))
    (tmp_path / "dies").touch()
    rolls = generator.build(model, processor, RolloutSection(backend="vllm", tries=2), version=4)
    shaken(model)
    requests = asking(2, PICTURE)
    assert rolls.update_weights() == 5  # the probes of start and update are eight requests: it died, and was started
    found = rolls.generate(requests)
    assert not (tmp_path / "dies").exists()
    assert {one.weight_version for group in found for one in group} == {rolls.weight_version}
    for request, group in zip(requests, found, strict=True):
        for one in group:
            gap = torch.tensor(one.log_probs) - own(model, processor, request, one)
            assert float(gap.abs().max()) < 1e-4
    monkeypatch.setattr("open4ov.engine.vllm.VLLM._answers", died)
    with pytest.raises(GeneratorGone, match=r"rl\.rollout\.backend vllm: vLLM is gone: .*same command again"):
        rolls.generate(requests)
    rolls.close()


def died(*_: object) -> None:
    raise Gone("vLLM's process has ended")


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return find_python().absolute()
    except UserError as error:
        pytest.skip(str(error))


class Real:
    """vLLM's own server in a process."""

    def __init__(self, python: Path, folder: Path, port: int, log: Path) -> None:
        (one,) = plan(folder, port=port, max_length=512, images=2, rollout=True)
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment = inherited | one.environment | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
        self._log = log.open("ab")
        command = [*one.command(str(python)), "--enforce-eager", "--dtype", "float32"]
        self.process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.vllm
def test_vllm_and_our_own_engine_share_the_prompts(python: Path, tmp_path: Path) -> None:
    """Both take each update, both answer by it, and greedily both say what the model says."""
    folder, weights = base_dir("nano"), tmp_path / "w"
    weights.mkdir()
    model, processor = Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)
    port, log = free_port(), tmp_path / "log"
    real, node = Real(python, folder, port, log), Node(folder, weights, tmp_path / "own")
    try:
        urls = [f"http://127.0.0.1:{port}", node.url]
        with Servers(model, processor, urls[0], weights, tries=200, pause=1, max_length=512):
            pass  # it is there
        engine = Servers(model, processor, urls, weights, tries=5, max_length=512, concurrency=4)
        assert not any(address.away for address in engine.addresses)
        shaken(model, 0.01)
        assert engine.update_weights() == 1
        before = node.tokens()
        requests = asking(16, PICTURE, temperature=0.8, max_tokens=40, ignore_eos=True)
        for request, group in zip(requests, engine.generate(requests), strict=True):
            for one in group:
                gap = torch.tensor(one.log_probs) - own(model, processor, request, one)
                assert float(gap.abs().max()) < 2e-3
        sampled = node.tokens() - before
        print(f"of {16 * 2 * 40} tokens our engine sampled {sampled}")
        assert sampled > 0
        greedy = asking(6, PICTURE, temperature=0.0, n=1)
        assert tokens(engine.generate(greedy)) == tokens(Engine(model, processor).generate(greedy))
        real.kill()
        assert tokens(engine.generate(greedy)) == tokens(Engine(model, processor).generate(greedy))
        assert [bool(address.away) for address in engine.addresses] == [True, False]
    except BaseException:
        print(log.read_text()[-5000:])
        raise
    finally:
        real.kill()
        node.kill()


@pytest.mark.vllm
def test_vllm_itself(python: Path, tmp_path: Path) -> None:
    """Log-probs after an update, then SIGKILL in the middle of a step and another server at the same address."""
    port = free_port()
    folder = base_dir("nano")
    model, processor = Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)
    real, log = Real(python, folder, port, tmp_path / "log"), tmp_path / "log"
    try:
        engine = Servers(
            model, processor, f"http://127.0.0.1:{port}", tmp_path / "w", tries=200, pause=1, max_length=512
        )
    except BaseException:
        real.kill()
        print(log.read_text()[-5000:])
        raise
    requests = asking(6, PICTURE, temperature=0.8, max_tokens=60, ignore_eos=True)
    try:
        shaken(model, 0.01)
        assert engine.update_weights() == 1
        found = engine.generate(requests)
        for request, group in zip(requests, found, strict=True):
            for one in group:
                gap = torch.tensor(one.log_probs) - own(model, processor, request, one)
                assert float(gap.abs().max()) < 2e-3
        greedy = asking(4, PICTURE, temperature=0.0, n=1)
        assert tokens(engine.generate(greedy)) == tokens(Engine(model, processor).generate(greedy))

        real.kill()
        real = Real(python, folder, port, log)
        again = engine.generate(requests)
        assert tokens(again) == tokens(found)
    finally:
        real.kill()
        engine.close()
