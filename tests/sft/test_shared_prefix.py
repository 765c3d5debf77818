"""Questions about one picture in the training loop: the picture is computed once, and what is learned is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from looped import Bench, assert_same
from PIL import Image

from open4ov.model import Pack, Qwen3VL
from open4ov.sample import Sample, assistant, user
from open4ov.sft import fit as loop
from open4ov.store import ImageStore

QUESTIONS = ("What colour is the circle?", "How many squares are there?", "left or right?", "What squares are there?")


@pytest.fixture
def bench(tiny_dir: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_dir, ImageStore(tmp_path / "images"))


@pytest.fixture
def samples(bench: Bench) -> list[Sample]:
    """Four questions about each of five pictures, first one about each, then the next; two without a picture."""
    pictures = [bench.store.put(Image.new("RGB", (64, 64), (40 * n, 90, 10))) for n in range(5)]
    found = [
        Sample(
            id=f"{row}-{column}",
            source="t",
            task="t",
            images=[picture],
            messages=[user(question, images=1), assistant(["red", "three", "left right"][(row + column) % 3])],
        )
        for row, question in enumerate(QUESTIONS)
        for column, picture in enumerate(pictures)
    ]
    texts = [Sample(id=f"text-{n}", source="t", task="t", messages=[user("1 + 1 ="), assistant("2")]) for n in range(2)]
    return [*found[:7], *texts, *found[7:]]


@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}, {"recompute": "op"}], ids=["plain", "adapters", "op"])
@pytest.mark.parametrize("frozen", [True, False])
def test_curves_are_those_without_sharing(
    bench: Bench, samples: list[Sample], options: dict[str, Any], frozen: bool
) -> None:
    """The same samples in each update, so that only rounding differs."""
    stage = {} if "lora_rank" in options else {"freeze_vision": frozen}
    told = {"accumulate": 100, "pack_tokens": 512, **options}
    runs = {
        share: bench.train([*samples, *samples], {**told, "share_prefix": share}, stage=stage)
        for share in (True, False)
    }
    (point,), (expected,) = runs[True][1].curve, runs[False][1].curve
    assert point["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert point["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)
    assert (point["tokens"], point["targets"]) == (expected["tokens"], expected["targets"])
    assert runs[True][1].summary["shared"] > 0.2
    assert runs[False][1].summary["shared"] == 0
    assert runs[True][1].summary["model_flops"] < 0.9 * runs[False][1].summary["model_flops"]


def test_an_interrupted_training_ends_with_the_same_bits(bench: Bench, samples: list[Sample], tmp_path: Path) -> None:
    options = {"checkpoint_every": 2, "pack_tokens": 192}
    whole, result = bench.train(samples, options)
    bench.train(samples, options, checkpoints=tmp_path / "c", stop_after=3)
    resumed, again = bench.train(samples, options, checkpoints=tmp_path / "c")
    assert again.curve == result.curve
    assert again.summary == result.summary
    assert result.summary["shared"] > 0.1
    assert len(result.curve) > 4
    assert_same(whole, resumed)


def test_packs_hold_as_many_samples_as_without_sharing(bench: Bench, samples: list[Sample]) -> None:
    """What is shared counts for each of them: as many tokens an update."""
    results = [bench.train(samples, {"pack_tokens": 192, "share_prefix": share})[1] for share in (True, False)]
    assert abs(results[0].summary["steps"] - results[1].summary["steps"]) <= 1
    assert results[0].summary["tokens"] == results[1].summary["tokens"]
    assert max(point["tokens"] for point in results[0].curve) <= 192


def test_text_alone_is_packed_and_computed_as_before(bench: Bench) -> None:
    words = ["red", "one two three", "left"]
    samples = [
        Sample(id=f"{n}", source="t", task="t", messages=[user("1 + 1 ="), assistant(words[n % 3])]) for n in range(12)
    ]
    models = [bench.train(samples, {"pack_tokens": 64, "share_prefix": share})[0] for share in (True, False)]
    assert_same(*models)


def test_pictures_go_to_the_tower_once_and_to_the_right_documents(bench: Bench, samples: list[Sample]) -> None:
    encoder, model = bench.encoder(), bench.model()
    whole = bench.encoder(share=False)
    shared, held = encoder.pack(samples)
    assert held is None
    assert len(shared.grids) == 5
    assert len(whole.pack(samples)[0].grids) == 20
    with torch.no_grad():
        found = dict(zip(shared.names, _means(model, shared), strict=True))
        for sample in samples:
            (expected,) = _means(model, whole.pack([sample])[0])
            assert found[f"sample {sample.id}"] == pytest.approx(expected, abs=1e-5)
        model.requires_grad_(False)
        encoder.freeze(model, samples)
        again, held = encoder.pack(samples)
        assert held is not None
        torch.testing.assert_close(model.loss(again, held), model.loss(shared), atol=1e-6, rtol=0)


def _means(model: Qwen3VL, batch: Pack) -> list[float]:
    """Of each document the mean log-probability of what is predicted."""
    values, _ = model.log_probs(batch)
    sizes = batch.lengths.tolist()
    return [
        float(part[mask].mean()) for part, mask in zip(values.split(sizes), batch.targets.split(sizes), strict=True)
    ]


def test_a_change_of_the_option_is_another_training(bench: Bench, samples: list[Sample], tmp_path: Path) -> None:
    options = {"checkpoint_every": 2, "pack_tokens": 192}
    bench.train(samples, {**options, "share_prefix": False}, checkpoints=tmp_path / "c", stop_after=3)
    _, result = bench.train(samples, options, checkpoints=tmp_path / "c")
    assert isinstance(result, loop.Fit)
    assert result.curve[0]["step"] == 1
    assert result.curve == bench.train(samples, options)[1].curve
