"""The training loop on models of transformers: it learns, it resumes, it leaves a frozen tower alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from open4ov import training
from open4ov.errors import UserError
from open4ov.model.hf import HFModel, HFProcessor
from open4ov.recipe import SftSection, SftStage
from open4ov.sample import Sample, assistant, user
from open4ov.sft.fit import Fit, fit
from open4ov.sft.hf_encoding import HFEncoder
from open4ov.store import ImageStore

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (40, 40, 220), "yellow": (230, 220, 40)}


def samples(tmp_path: Path) -> tuple[list[Sample], ImageStore]:
    store = ImageStore(tmp_path / "images")
    made: list[Sample] = []
    for name, colour in COLOURS.items():
        sha = store.put(Image.new("RGB", (48, 32), colour))
        messages = [user("What colour?", images=1), assistant(name)]
        made.append(Sample(id=name, source="t", task="colour", images=[sha], messages=messages))
    made.append(Sample(id="sum", source="t", task="sum", messages=[user("1 + 1 ="), assistant("2")]))
    return made, store


def trained(
    directory: Path, data: tuple[list[Sample], ImageStore], times: int, freeze: bool = False, **kwargs: Any
) -> tuple[HFModel, Fit]:
    model = HFModel.from_pretrained(directory)
    encoder = HFEncoder(HFProcessor.from_pretrained(directory), data[1])
    options = SftStage(tokens=1, learning_rate=3e-3, freeze_vision=freeze)
    section = SftSection(pack_tokens=512, precision="fp32", checkpoint_every=2, compile=kwargs.pop("compile", False))
    return model, fit(model, encoder, data[0] * times, section, options, **kwargs)


def test_fit_lowers_the_loss_and_leaves_a_frozen_tower_alone(directory: Path, tmp_path: Path) -> None:
    data = samples(tmp_path)
    model, result = trained(directory, data, times=20, freeze=True)
    losses = [point["loss"] for point in result.curve]
    assert losses[-1] < losses[0] - 0.5, losses
    before = dict(HFModel.from_pretrained(directory).named_parameters())
    frozen = {id(p) for p in model.vision_parameters()}
    assert frozen
    for name, parameter in model.named_parameters():
        vision = any(part in name for part in ("vision", "visual", "projector", "connector", "newline"))
        assert vision is (id(parameter) in frozen), name
        assert torch.equal(parameter, before[name]) is vision, name


def test_fit_trains_the_tower_too_when_it_is_not_frozen(directory: Path, tmp_path: Path) -> None:
    model, _ = trained(directory, samples(tmp_path), times=1)
    before = dict(HFModel.from_pretrained(directory).named_parameters())
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert any("vision" in name or "visual" in name for name in moved)
    assert any("projector" in name or "connector" in name or "merger" in name for name in moved)


def test_an_interrupted_training_ends_with_the_same_bits(directories: dict[str, Path], tmp_path: Path) -> None:
    data = samples(tmp_path)
    whole, result = trained(directories["gemma3"], data, times=24)
    folder = tmp_path / "checkpoints"
    trained(directories["gemma3"], data, times=24, checkpoints=folder, stop_after=3)
    assert [path.name for path in folder.iterdir()] == ["step-2"]
    resumed, again = trained(directories["gemma3"], data, times=24, checkpoints=folder)
    assert again.curve == result.curve
    assert len(result.curve) > 4
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_compiling_is_refused_and_words_have_the_optimizer_group_of_words(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"sft\.compile: .* Gemma3ForConditionalGeneration"):
        trained(directories["gemma3"], samples(tmp_path), times=1, compile=True)
    for family, words in (("gemma3", 1), ("qwen2_5_vl", 2)):
        model = HFModel.from_pretrained(directories[family])
        groups = training.adamw(model, 1e-3).param_groups
        assert [len(g["params"]) for g in groups if g["eps"] == training.EMBEDDING_EPS] == [words]
        held = [id(p) for group in groups for p in group["params"]]
        assert len(held) == len(set(held)) == len(list(model.parameters()))
