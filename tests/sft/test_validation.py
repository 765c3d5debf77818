"""Held-out loss during training, and the early end with the best weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from looped import Bench, assert_same, coloured

from open4ov import recipe_sft
from open4ov.errors import UserError
from open4ov.recipe import SftSection
from open4ov.recipe_sft import ValidationSection
from open4ov.sample import Sample
from open4ov.sft import validation
from open4ov.sft.validation import Watch
from open4ov.store import ImageStore


@pytest.fixture
def bench(tiny_dir: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_dir, ImageStore(tmp_path / "images"))


@pytest.fixture
def samples(bench: Bench) -> list[Sample]:
    return coloured(bench.store, 12)


def seen(watch: Watch, losses: list[float]) -> list[bool]:
    """Whether it had stopped after each loss."""
    stopped: list[bool] = []
    for step, loss in enumerate(losses, 1):
        watch.see(step, loss, lambda step=step: {"w": torch.tensor(float(step))})
        stopped.append(watch.stopped)
    return stopped


def test_patience_counts_from_the_best() -> None:
    watch = Watch(ValidationSection(every=1, patience=2))
    assert seen(watch, [3.0, 2.0, 2.5, 1.9, 1.9, 2.0]) == [False, False, False, False, False, True]
    assert (watch.best, watch.best_step, float(watch.best_weights["w"])) == (1.9, 4, 4.0)
    endless = Watch(ValidationSection(every=1))
    assert seen(endless, [1.0, 2.0, 3.0, 4.0]) == [False] * 4
    assert endless.best_weights == {}, "nothing is kept that is not needed"
    assert seen(Watch(ValidationSection(every=1, patience=1)), [float("nan"), 1.0, float("nan")]) == [
        False,
        False,
        True,
    ]


def test_the_loss_is_the_mean_over_the_targets_of_the_held_out(bench: Bench, samples: list[Sample]) -> None:
    held = coloured(bench.store, 5, first=30)
    options = {"pack_tokens": 64, "validation": {"every": 5, "samples": 4}}
    model, result = bench.train(samples, options, validation=held)
    measured = {point["step"]: point["val_loss"] for point in result.curve if "val_loss" in point}
    assert list(measured) == [5, 10, 12]
    length = bench.encoder().length
    chosen, _ = validation.chosen(held, 4, length, 64)
    assert validation.chosen(held[::-1], 4, length, 64) == (chosen, 0)
    total, count = 0.0, 0
    with torch.no_grad():
        for sample in chosen:
            batch, _ = bench.encoder().pack([sample])
            log_p, _ = model.log_probs(batch)
            total, count = total - float(log_p.sum()), count + len(batch.predicted)
    assert measured[12] == pytest.approx(total / count, abs=2e-5)
    assert result.summary["validation"] == {
        "best_loss": min(measured.values()),
        "best_step": min(measured, key=lambda step: measured[step]),
        "stopped_early": False,
        "too_long": 0,
    }


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_stage_that_ends_early_has_the_best_weights(
    bench: Bench, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    options: dict[str, Any] = {"pack_tokens": 64, "checkpoint_every": 3, "ema": ema}
    best, _ = bench.train(samples, options, stop_after=4)
    options["validation"] = {"every": 2, "patience": 2}
    told = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.1}
    done: list[int] = []
    monkeypatch.setattr(validation, "measure", lambda *_: told[done[-1]])
    arguments = {"validation": samples[:2], "progress": lambda text, step, steps: done.append(step + 1)}

    done[:] = [1]
    model, result = bench.train(samples, options, **arguments)
    assert len(result.curve) == 8
    assert result.summary["validation"] == {"best_loss": 2.0, "best_step": 4, "stopped_early": True, "too_long": 0}
    assert_same(model, best)
    done[:] = [1]
    bench.train(samples, options, checkpoints=tmp_path / "c", stop_after=7, **arguments)
    done[:] = [7]
    resumed, again = bench.train(samples, options, checkpoints=tmp_path / "c", **arguments)
    assert again.curve == result.curve
    assert_same(resumed, best)
    assert again.carry is not None
    later, last = bench.train(samples, options, resumed, carry=again.carry, total_tokens=9999, **arguments)
    assert last.curve == result.curve, "nothing is trained any more"
    assert_same(later, best)


def test_without_held_out_samples_it_is_an_error(bench: Bench, samples: list[Sample]) -> None:
    with pytest.raises(UserError, match=r"sft\.validation\.every: there are no samples of the split val"):
        bench.train(samples, {"validation": {"every": 5}})


def test_what_fits_no_pack_is_not_measured_and_it_is_said(bench: Bench, samples: list[Sample]) -> None:
    """No loss of zero, which would be the best for ever."""
    long = [
        s.model_copy(update={"id": f"long {s.id}", "messages": [*s.messages, *s.messages[1:] * 40]})
        for s in coloured(bench.store, 3, first=40)
    ]
    options = {"pack_tokens": 64, "validation": {"every": 5}}
    with pytest.raises(UserError, match=r"sft\.validation\.every: none of 3 samples of the split val fits"):
        bench.train(samples, options, validation=long)
    _, alone = bench.train(samples, options, validation=samples[:2])
    _, result = bench.train(samples, options, validation=[*long, *samples[:2]])
    assert result.summary["validation"] == {**alone.summary["validation"], "too_long": 3}


def test_its_options_without_it_have_no_effect() -> None:
    def idle(**section: Any) -> list[str]:
        sft = SftSection.model_validate({"validation": section})
        return [".".join(map(str, loc)) for loc, _, _ in recipe_sft.idle(sft)]

    assert idle(samples=5, patience=2) == ["sft.validation.patience", "sft.validation.samples"]
    assert idle(every=5, samples=5, patience=2) == []
