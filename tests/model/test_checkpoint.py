"""Directories: written whole, read strictly, refused with words that help."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from open4ov.model import Config, Processor, Qwen3VL
from open4ov.model.checkpoint import each, save
from open4ov.recipe import UserError


@pytest.fixture
def copy(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip_is_bit_identical(tiny_dir: Path, tmp_path: Path) -> None:
    Qwen3VL.from_pretrained(tiny_dir).save_pretrained(tmp_path)
    Processor.from_pretrained(tiny_dir).save_pretrained(tmp_path)
    names = {path.name for path in tiny_dir.iterdir()}
    assert names == {path.name for path in tmp_path.iterdir()}
    for name in names:
        assert (tmp_path / name).read_bytes() == (tiny_dir / name).read_bytes(), name


def test_dtype_of_file_and_model(tiny_dir: Path, tmp_path: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    again = Qwen3VL.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.text.embed.weight.dtype == torch.float32
    assert torch.equal(again.text.embed.weight, model.text.embed.weight.bfloat16().float())
    assert Qwen3VLForConditionalGeneration.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_transformers_reads_every_tensor(tiny_dir: Path) -> None:
    _, info = Qwen3VLForConditionalGeneration.from_pretrained(tiny_dir, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(tiny_dir).convert_tokens_to_ids("<|im_end|>") > 0


def test_config_round_trip_and_hub_form(tiny_dir: Path) -> None:
    raw = json.loads((tiny_dir / "config.json").read_text())
    config = Config.from_dict(raw)
    assert Config.from_dict(config.to_dict()) == config
    text = raw["text_config"]
    newer = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}
    assert Config.from_dict({**raw, "text_config": {**text, "rope_parameters": newer}}) == config


def test_other_models_are_refused(copy: Path) -> None:
    edit(copy / "config.json", model_type="llava")
    with pytest.raises(UserError, match="model_type is 'llava'"):
        Qwen3VL.from_pretrained(copy)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=name):
        Qwen3VL.from_pretrained(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_missing_processor_files_are_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=name):
        Processor.from_pretrained(copy)


def test_broken_files_are_named(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable"):
        Qwen3VL.from_pretrained(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        Qwen3VL.from_pretrained(copy)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        Processor.from_pretrained(copy)


def test_missing_and_misshapen_tensors_are_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    name = "model.language_model.norm.weight"
    save_file({**tensors, name: torch.ones(3)}, copy / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} has shape \[3\]; config.json asks for \[48\]"):
        Qwen3VL.from_pretrained(copy)
    del tensors[name]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match=f"no tensor {name}"):
        Qwen3VL.from_pretrained(copy)


def test_missing_config_keys_are_named(copy: Path) -> None:
    raw = json.loads((copy / "config.json").read_text())
    del raw["text_config"]["hidden_size"]
    with pytest.raises(UserError, match=r"text_config.*hidden_size"):
        Config.from_dict(raw)


def test_a_failed_save_leaves_the_old_file(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (copy / "model.safetensors").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("open4ov.model.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        Qwen3VL.from_pretrained(copy).save_pretrained(copy)
    assert (copy / "model.safetensors").read_bytes() == before
    assert not list(copy.glob(".model*"))


def test_tensors_one_after_another_are_the_models(tiny_dir: Path, tmp_path: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    save(model, tmp_path, torch.bfloat16, shard_bytes=100_000)
    found = dict(each(tmp_path))
    expected = Qwen3VL.from_pretrained(tmp_path).state_dict()
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == torch.float32 and torch.equal(found[name], expected[name]) for name in expected)
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="names files that are not there"):
        each(tmp_path)
