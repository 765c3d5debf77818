"""Where online and offline RL compute, and in what: every part of a training goes by `device` and `precision`."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from online import RED, section, tasks, train
from test_update import Bench, assert_close, groups
from torch import Tensor

from open4ov import training
from open4ov.engine import VisionCache
from open4ov.journal import Clock
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import DpoSection
from open4ov.rl.preference import scores
from open4ov.rl.preference import training as offline
from open4ov.rl.preference.prompts import Prompts
from open4ov.rl.preference.scores import Scorer
from open4ov.rl.replay import Replay
from open4ov.rl.rollout import Group
from open4ov.rl.sampling import Cursor
from open4ov.sample import Sample, assistant, user
from open4ov.training_pass import accumulate

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def tensors(held: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a dataclass and what it holds, with the field that it is in."""
    for field in dataclasses.fields(held):
        value = getattr(held, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Tensor):
                yield field.name, one
            elif dataclasses.is_dataclass(one):
                yield from tensors(one)
            elif hasattr(one, "_fields"):
                yield from ((name, x) for name, x in one._asdict().items() if isinstance(x, Tensor))


def pairs(picture: bool = False) -> list[Sample]:
    about: dict[str, Any] = {"source": "t", "task": "t", "images": ["a"] * picture, "extra": {"pair": "human"}}
    return [
        Sample(
            id=f"p{i}",
            messages=[user(f"{i} + 1 =", images=int(picture)), assistant(str(i + 1))],
            rejected=[assistant("I do not know")],
            **about,
        )
        for i in range(4)
    ]


def replayed() -> list[Sample]:
    about: dict[str, Any] = {"source": "t", "task": "t", "images": ["a"]}
    return [Sample(id=f"s{i}", messages=[user(f"{i}?", images=1), assistant("red")], **about) for i in range(8)]


def texts() -> list[Group]:
    """The groups of the bench, all of them about words: a tower has nothing to do."""
    return [dataclasses.replace(group, task=tasks(4)[3 * (i % 2)]) for i, group in enumerate(groups())]


def test_all_of_a_part_is_where_the_model_is(tiny_dir: Path) -> None:
    """Tensors of the CPU beside those of a card are what a card cannot compute. `meta` stands for one here."""
    bench = Bench(tiny_dir, precision="fp32")
    bench.model.to("meta")
    part = bench.updater.prepare(texts()).minibatches[0][0]
    found = [*tensors(part)]
    assert {"advantages", "rollout_logp", "response", "read", "before", "input_ids"} <= {name for name, _ in found}
    assert {name for name, x in found if x.device != bench.model.device} == set()


def test_scores_of_pairs_are_where_the_model_is(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    sums, lengths = Scorer(model, Prompts(processor, lambda _: RED))(pairs())
    assert sums.shape == lengths.shape == (4, 2)
    assert lengths.tolist() == [[2, 14]] * 4
    model.to("meta")

    def log_probs(model: Qwen3VL, shared: Any, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        assert {x.device.type for _, x in tensors(shared)} == {"meta"}
        value = torch.zeros(len(shared.response), device="meta")
        return value, value

    monkeypatch.setattr(scores, "log_probs", log_probs)
    sums, lengths = Scorer(model, Prompts(processor, lambda _: RED))(pairs())
    assert (sums.device.type, lengths.device.type) == ("meta", "meta")


def test_replayed_pictures_go_where_the_model_is(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    options = section(replay={"share": 0.5}, freeze_vision=False, precision="fp32")
    replay = Replay(
        replayed(), lambda _: RED, processor, VisionCache(model, processor), options, Cursor(["s1", "s2"], "x")
    )
    model.to("meta")
    monkeypatch.setattr(Processor, "pixels", lambda self, seen, device="cpu": torch.zeros(16, 8, device=device))
    seen: dict[str, Any] = {}

    def loss(pack: Any, features: Any = None) -> Tensor:
        seen.update(tensors(pack))
        raise StopIteration

    monkeypatch.setattr(model, "loss", loss)
    with pytest.raises(StopIteration):
        accumulate(model, [whole for whole in [replay.coming(model)] if whole])
    assert {x.device.type for x in seen.values()} == {"meta"}
    assert len(seen["pixels"]) == 16


@pytest.fixture
def autocasts(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[bool]]:
    """Who computes something of the model, and whether that is under autocast."""
    seen: dict[str, set[bool]] = {}

    def spied(name: str) -> None:
        compute = getattr(Qwen3VL, name)

        def watched(self: Qwen3VL, *args: Any, **kwargs: Any) -> Any:
            thread = "ahead" if threading.current_thread() is not threading.main_thread() else "trainer"
            what = f"{thread} {name}{' with gradient' if torch.is_grad_enabled() and name != 'encode_images' else ''}"
            seen.setdefault(what, set()).add(torch.is_autocast_enabled("cpu"))
            return compute(self, *args, **kwargs)

        monkeypatch.setattr(Qwen3VL, name, watched)

    for name in ("hidden_states", "encode_images", "loss"):
        spied(name)
    return seen


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("ahead", [False, True])
def test_online_rl_computes_all_of_it_in_the_precision(
    tiny_dir: Path, autocasts: dict[str, set[bool]], precision: str, ahead: bool
) -> None:
    arguments = {"images": Pictures(), "replayed": replayed()}
    changes: dict[str, Any] = {"replay": {"share": 0.5}, "rollout": {"ahead": ahead}, "reward": "online:odd"}
    _, result = train(tiny_dir, steps=2, precision=precision, arguments=arguments, max_tokens=3, **changes)
    assert len(result.curve) == 2
    for name, found in autocasts.items():
        assert found == {precision == "bf16"}, name
    assert {"trainer hidden_states with gradient", "trainer loss with gradient"} <= autocasts.keys()
    assert ("ahead hidden_states" in autocasts) is ahead


def test_offline_rl_computes_all_of_it_in_the_precision(tiny_dir: Path, autocasts: dict[str, set[bool]]) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    options = DpoSection(precision="bf16", batch=2, reference=True)
    offline.train(model, processor, pairs(picture=True), lambda _: RED, options, 0)
    assert autocasts == {
        "trainer encode_images": {True},
        "trainer hidden_states": {True},
        "trainer hidden_states with gradient": {True},
    }


class Pictures:
    """Of the replayed samples; nothing is shown of the groups."""

    def get(self, sha: str) -> Any:
        return RED

    def put(self, image: Any) -> str:
        return "a"


def test_another_precision_is_another_training(tiny_dir: Path, tmp_path: Path) -> None:
    """A checkpoint of one is not gone on with in the other."""
    train(tiny_dir, steps=2, precision="fp32", arguments={"checkpoints": tmp_path, "stop_after": 1}, checkpoint_every=1)
    seen: list[int] = []
    go_on = {"checkpoints": tmp_path, "progress": lambda _, done, total: seen.append(done)}
    train(tiny_dir, steps=2, precision="bf16", arguments=go_on, checkpoint_every=1)
    assert seen == [1, 2]


def test_gradients_are_clipped_as_the_recipe_says(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips: list[float] = []
    update = training.step

    def step(model: Any, optimizer: Any, rate: float, grad_clip: float) -> float:
        clips.append(grad_clip)
        return update(model, optimizer, rate, grad_clip)

    monkeypatch.setattr(training, "step", step)
    train(tiny_dir, steps=1, grad_clip=0.25, reward="online:odd", max_tokens=3)
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    offline.train(model, processor, pairs(), lambda _: RED, DpoSection(grad_clip=0.5), 0)
    assert set(clips) == {0.25, 0.5}


def test_times_are_taken_when_a_card_has_done_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    for device in ("cpu", "cuda"):
        clock = Clock(torch.device(device))
        with clock("rollout"):
            pass
    assert waited == ["cuda", "cuda"]


@cuda
@pytest.mark.parametrize("frozen", [True, False])
def test_an_update_on_a_card_has_the_gradient_of_the_cpu(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    options: dict[str, Any] = {"precision": "fp32", "max_update_tokens": 30, "freeze_vision": frozen}
    here, there = Bench(tiny_dir, **options), Bench(tiny_dir, **options)
    there.model.to("cuda")
    here.updater.weighed = there.updater.weighed = True
    expected, update = here.gradients(groups(), monkeypatch)
    found, same = there.gradients(groups(), monkeypatch)
    assert_close({name: value.cpu() for name, value in found.items()}, expected)
    assert same.figures() == pytest.approx(update.figures(), abs=1e-4)


@cuda
def test_scores_on_a_card_are_those_of_the_cpu(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    prompts = Prompts(processor, lambda _: RED)
    with torch.no_grad():
        expected = Scorer(model, prompts)(pairs(picture=True))
        found = Scorer(model.to("cuda"), prompts)(pairs(picture=True))
    torch.testing.assert_close(found[0].cpu(), expected[0], atol=1e-3, rtol=1e-4)
    assert found[1].tolist() == expected[1].tolist()


@cuda
@pytest.mark.parametrize("changes", [{}, {"rollout": {"offload": True}}, {"rollout": {"ahead": True}}])
def test_trainings_run_on_a_card(tiny_dir: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir).to("cuda")
    arguments = {"images": Pictures(), "replayed": replayed(), "checkpoints": tmp_path}
    changes = {
        "replay": {"share": 0.5},
        "reward": "online:odd",
        "freeze_vision": False,
        "checkpoint_every": 1,
    } | changes
    _, result = train(tiny_dir, model=model, steps=3, precision="bf16", arguments=arguments, **changes)
    assert len(result.curve) == 3
    processor = Processor.from_pretrained(tiny_dir)
    options = DpoSection(precision="bf16", batch=2, reference=True, checkpoint_every=1)
    fit = offline.train(model, processor, pairs(picture=True), lambda _: RED, options, 0, scratch=tmp_path / "dpo")
    assert len(fit.curve) == 2
