"""The update of one step: mini-batches of whole groups, in parts where they are large, with one pass's gradient."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from online import assert_same, section, tasks

from open4ov import training
from open4ov.engine import Completion, VisionCache
from open4ov.model import Processor, Qwen3VL
from open4ov.rl import importance, losses
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.rl.rollout import Group, encoded_prompts
from open4ov.rl.update import Broken, Update, Updater

RESPONSES = [[[40, 41, 42], [50], [60, 61], [70, 71, 72, 73, 74]], [[80, 81], [90, 91, 92, 93], [33], [44, 45]],
             [[51, 52], [53, 54], [55], [56]]]  # fmt: skip
ADVANTAGES = [[1.0, -0.5, 0.25, -0.75], [0.5, -1.0, 0.3, 0.2], [0.0] * 4]


def groups(empty: bool = False) -> list[Group]:
    """Two live groups (with a picture and without) and a dead one. `empty`: one response more without a token."""
    made: list[Group] = []
    for task, responses, advantages in zip(tasks(3), RESPONSES, ADVANTAGES, strict=True):
        ids, own = [*responses], [*advantages]
        if empty:
            ids, own = [*ids[:1], [], *ids[1:]], [*own[:1], 0.7 if any(own) else 0.0, *own[1:]]
        said = [Completion("x" if one else "", one, [-1.0] * len(one), "stop", 0) for one in ids]
        tensor = torch.tensor(own, dtype=torch.float64)
        made.append(Group(task, said, (tensor > 0).double(), tensor, torch.zeros_like(tensor), tensor))
    return made


class Bench:
    def __init__(self, tiny_dir: Path, **options: Any) -> None:
        self.model, self.processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
        self.section = section(group=4, prompts=3, minibatches=1, **options)
        if self.section.freeze_vision:
            training.freeze_vision(self.model)
        self.pictures = VisionCache(self.model, self.processor)
        self.updater = Updater(self.model, self.processor, self.pictures, self.section)

    def gradients(
        self, given: list[Group], monkeypatch: pytest.MonkeyPatch, shift: float = 0.0
    ) -> tuple[dict[str, torch.Tensor], Update]:
        """Those of one update. `shift`: the old log-probabilities are lower by so much than the policy's own."""
        seen: dict[str, torch.Tensor] = {}

        def step(model: Qwen3VL, *_: Any, **__: Any) -> float:
            seen.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
            model.zero_grad(set_to_none=True)
            return 0.0

        with monkeypatch.context() as patch:
            patch.setattr(training, "step", step)
            batch = self.updater.prepare(given)
            for part in batch.minibatches[0]:
                with torch.no_grad():
                    part.old_logp = self.updater.score(part)[0] - shift
            update = self.updater.apply(batch, training.adamw(self.model, 1e-3), 1e-3)
        return seen, update


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("limit", "shift"), [(16, 0.0), (30, 0.1), (45, -0.5), (1000, 0.0)])
def test_parts_have_the_gradient_of_one_pass(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, limit: int, shift: float
) -> None:
    whole = Bench(tiny_dir)
    expected, update = whole.gradients(groups(), monkeypatch, shift)
    parts = Bench(tiny_dir, max_update_tokens=limit)
    batch = parts.updater.prepare(groups())
    sizes = [len(part.shared.pack.input_ids) for part in batch.minibatches[0]]
    if limit < 1000:
        assert len(sizes) > 1
    prompt = max(len(parts.processor.encode(t.prompt, t.images, generate=True, pixels=False)) for t in tasks(3))
    assert max(sizes) <= max(limit, prompt + 5), "a single response with its prompt is never cut"
    found, same = parts.gradients(groups(), monkeypatch, shift)
    assert_close(found, expected)
    for name in ("losses", "ratios", "least", "largest", "clipped_low", "clipped_high", "entropies", "norms", "replay"):
        assert getattr(same, name) == pytest.approx(getattr(update, name), abs=1e-5), name


@pytest.mark.parametrize("limit", [16, 30])
def test_figures_of_weights_do_not_depend_on_the_parts(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """One entry a mini-batch, each token and each response counted once, and a number even where the rollout held a
    token for impossible."""
    given = groups()
    given[0].responses[3].log_probs[:] = [-math.inf, -30.0, -1.0, -9.0, 0.0]
    whole, parts = Bench(tiny_dir), Bench(tiny_dir, max_update_tokens=limit)
    whole.updater.weighed = parts.updater.weighed = True
    expected, once = whole.gradients(given, monkeypatch)
    found, cut = parts.gradients(given, monkeypatch)
    assert_close(found, expected)
    assert len(parts.updater.prepare(given).minibatches[0]) > 1
    assert len(cut.importance) == len(once.importance) == 1
    assert cut.importance[0] == pytest.approx(once.importance[0], rel=1e-4)
    json.dumps(cut.figures(), allow_nan=False)


def test_minibatches_in_parts_with_weights_have_the_gradient_of_the_whole(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights that stay as they are the gradients of two mini-batches sum up to twice that of one."""
    one = Bench(tiny_dir)
    one.updater.weighed = True
    expected, _ = one.gradients(groups(), monkeypatch)
    two = Bench(tiny_dir, max_update_tokens=16)
    two.updater.weighed = True
    two.updater.section = two.section.model_copy(update={"minibatches": 2})
    batch = two.updater.prepare(groups())
    assert min(len(parts) for parts in batch.minibatches) > 1
    summed: dict[str, torch.Tensor] = {}

    def step(model: Qwen3VL, *_: Any) -> float:
        for name, p in model.named_parameters():
            if p.grad is not None:
                summed[name] = summed.get(name, torch.zeros_like(p)) + p.grad
        model.zero_grad(set_to_none=True)
        return 0.0

    monkeypatch.setattr(training, "step", step)
    update = two.updater.apply(batch, training.adamw(two.model, 1e-3), 1e-3)
    assert len(update.importance) == 2
    assert_close(summed, {name: 2 * value for name, value in expected.items()})


def test_the_gradient_is_that_of_the_formula(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out: every response of every group counts in the mean (eq. 11), the dead group's too."""
    bench = Bench(tiny_dir)
    found, update = bench.gradients(groups(), monkeypatch)
    model = bench.model
    shared = SharedPrefix.build(encoded_prompts(bench.processor, tasks(3), bench.pictures), RESPONSES)
    logp, _ = log_probs(model, shared)
    sums = [
        logp[shared.response == i].sum() / len(ids) for i, ids in enumerate([ids for own in RESPONSES for ids in own])
    ]
    ratio = torch.stack([(value - value.detach()).exp() for value in sums])
    loss = -(ratio * torch.tensor([value for own in ADVANTAGES for value in own])).mean()
    loss.backward()
    assert update.losses == [pytest.approx(loss.item(), abs=1e-6)]
    assert_close(found, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})


def test_tokens_of_another_policy_are_weighed(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By how likely the policy finds each, cut at the cap; the rollout said log p = -1 of all."""
    bench = Bench(tiny_dir, rollout={"tis_cap": 0.01})
    plain, _ = bench.gradients(groups(), monkeypatch)
    bench.updater.weighed = True
    found, update = bench.gradients(groups(), monkeypatch)
    model = bench.model
    shared = SharedPrefix.build(encoded_prompts(bench.processor, tasks(2), bench.pictures), RESPONSES[:2])
    logp, _ = log_probs(model, shared)
    weights = importance.weights(logp.detach(), torch.full_like(logp, -1.0), 0.01)
    advantages = torch.tensor([value for own in ADVANTAGES[:2] for value in own], dtype=torch.float64)
    value, _ = losses.loss("gspo", logp, logp.detach(), shared.response, advantages, bench.section, weights)
    (value * 8 / 12).backward()
    assert_close(found, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert not torch.allclose(found["text.norm.weight"], plain["text.norm.weight"])
    assert update.figures()["tis_weight"] == pytest.approx(float(weights.mean()), abs=1e-6)


def test_a_mean_over_tokens_is_one_over_all_parts(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DAPO's: long responses weigh more, and the dead group's tokens count."""
    whole, _ = Bench(tiny_dir, loss="dapo").gradients(groups(), monkeypatch)
    parts, _ = Bench(tiny_dir, loss="dapo", max_update_tokens=30).gradients(groups(), monkeypatch)
    assert_close(parts, whole)
    bench = Bench(tiny_dir, loss="dapo")
    shared = SharedPrefix.build(encoded_prompts(bench.processor, tasks(2), bench.pictures), RESPONSES[:2])
    logp, _ = log_probs(bench.model, shared)
    advantages = torch.tensor([value for own in ADVANTAGES[:2] for value in own])[shared.response]
    tokens = sum(len(ids) for own in RESPONSES for ids in own)
    (-((logp - logp.detach()).exp() * advantages).sum() / tokens).backward()
    assert_close(whole, {name: p.grad for name, p in bench.model.named_parameters() if p.grad is not None})


def test_a_response_without_a_token_counts_but_is_not_computed(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tiny_dir)
    without, _ = bench.gradients(groups(), monkeypatch)
    found, _ = bench.gradients(groups(empty=True), monkeypatch)
    assert_close(found, {name: value * 12 / 15 for name, value in without.items()})


def test_groups_stay_whole_and_old_log_probs_are_those_before_the_first_step(tiny_dir: Path) -> None:
    bench = Bench(tiny_dir)
    bench.updater.section = bench.section = bench.section.model_copy(update={"minibatches": 2})
    batch = bench.updater.prepare(groups())
    assert [[part.names for part in parts] for parts in batch.minibatches] == [[["t0"]], [["t1"]]]
    first, second = batch.minibatches[0][0], batch.minibatches[1][0]
    assert first.old_logp is None
    with torch.no_grad():
        expected = log_probs(bench.model, second.shared)[0]
    assert second.old_logp is not None
    torch.testing.assert_close(second.old_logp, expected, atol=0, rtol=0)
    update = bench.updater.apply(batch, training.adamw(bench.model, 1e-2), 1e-2)
    assert (update.ratios[0], len(update.norms)) == (1.0, 2)
    assert update.ratios[1] != 1.0


def test_a_trained_tower_has_the_gradient_of_its_pictures(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder's gradients do not depend on whether the tower learns; the tower's come from the pictures."""
    frozen, _ = Bench(tiny_dir).gradients(groups(), monkeypatch)
    found, _ = Bench(tiny_dir, freeze_vision=False).gradients(groups(), monkeypatch)
    assert any(float(value.abs().max()) > 0 for name, value in found.items() if name.startswith("vision."))
    assert_close({name: value for name, value in found.items() if name in frozen}, frozen)
    only_text = [replace(group, task=tasks(4)[3]) for group in groups()]
    blind, _ = Bench(tiny_dir, freeze_vision=False).gradients(only_text, monkeypatch)
    assert not any(name.startswith("vision.") for name in blind)


def test_what_is_not_finite_changes_nothing(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tiny_dir)
    before = Qwen3VL.from_pretrained(tiny_dir)
    batch = bench.updater.prepare(groups())
    compute = losses.loss
    monkeypatch.setattr(losses, "loss", lambda *a, **k: (compute(*a, **k)[0] * math.nan, compute(*a, **k)[1]))
    with pytest.raises(Broken) as caught:
        bench.updater.apply(batch, training.adamw(bench.model, 1e-2), 1e-2)
    assert caught.value.names == ["t0", "t1"]
    assert "the loss is nan: lower rl.learning_rate" in str(caught.value)
    assert_same(bench.model, before)
    assert all(parameter.grad is None for parameter in bench.model.parameters())
