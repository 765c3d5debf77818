"""Directories of other models: written and read back to the bit, or refused with what is wrong."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from hf_tiny import conversations

from open4ov.errors import UserError
from open4ov.model.hf import HFModel, HFProcessor


def test_a_round_trip_changes_no_bit(directory: Path, tmp_path: Path) -> None:
    model, processor = HFModel.from_pretrained(directory), HFProcessor.from_pretrained(directory)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = HFModel.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    for name in ("tokenizer.json", "preprocessor_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()
    for one, other in zip(conversations(processor), conversations(HFProcessor.from_pretrained(tmp_path)), strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert all(torch.equal(value, other.images[name]) for name, value in one.images.items())
    assert not list(tmp_path.glob("*.bin"))


def test_directories_without_what_is_needed(directories: dict[str, Path], tmp_path: Path) -> None:
    good = directories["internvl"]

    def changed(name: str, **text: tuple[str, str]) -> Path:
        copied = tmp_path / name
        shutil.copytree(good, copied)
        for stem, (old, new) in text.items():
            path = next(copied.glob(f"{stem}.*"))
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        return copied

    unknown = changed("unknown", config=('"model_type": "internvl",', '"model_type": "internvl_9",'))
    with pytest.raises(UserError, match=r"config\.json: model_type 'internvl_9' .*did you mean 'internvl'"):
        HFModel.from_pretrained(unknown)
    pickled = changed("pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is pickled"):
        HFModel.from_pretrained(pickled)
    indexed = changed("indexed")
    (indexed / "model.safetensors").unlink()
    torch.save({}, indexed / "pytorch_model.bin")
    (indexed / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "pytorch_model.bin"}}')
    with pytest.raises(UserError, match=r"index names pytorch_model\.bin; open4ov reads safetensors only"):
        HFModel.from_pretrained(indexed)
    with pytest.raises(UserError, match=r"nowhere.config\.json: no such file"):
        HFModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere: no such directory"):
        HFProcessor.from_pretrained(tmp_path / "nowhere")
    for name, message in (
        ("tokenizer.json", r"no tokenizer: one of tokenizer\.json"),
        ("preprocessor_config.json", r"preprocessor_config\.json"),
        ("chat_template.jinja", r"no chat template; chat_template\.jinja must be there"),
    ):
        directory = changed(f"without {name}")
        (directory / name).unlink()
        with pytest.raises(UserError, match=message) as error:
            HFProcessor.from_pretrained(directory)
        assert str(directory) in str(error.value)


def test_weights_that_lack_a_tensor(directories: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(directories["internvl"], tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    weights = load_file(file)
    gone = next(name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))
    del weights[gone]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"the weights lack .*layers\.1\.mlp\.up_proj\.weight"):
        HFModel.from_pretrained(tmp_path / "m")


def test_without_transformers(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for load in (HFModel.from_pretrained, HFProcessor.from_pretrained):
        with pytest.raises(UserError, match=r"pip install 'open4ov\[hf\]'"):
            load(directories["internvl"])
