"""Large checkpoints: shards with an index, read one after another without holding a second copy of the model."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import moe_config, tiny_config
from transformers import Qwen3VLForConditionalGeneration

from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.model.checkpoint import save

PEAK = """
import sys, torch
from pathlib import Path
from open4ov.model import Qwen3VL

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

with torch.device("meta"):
    # what PyTorch imports on its first use is not the model's
    torch.nn.Embedding(8, 8), torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)
torch.zeros(8, dtype=torch.bfloat16).float()
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
model = Qwen3VL.from_pretrained(sys.argv[1], dtype=torch.float32)
print(resident("VmHWM") - before, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure the peak of memory")
def test_peak_memory_is_the_model_and_a_shard(tiny_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(Processor.from_pretrained(tiny_dir))
    text = replace(config.text, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, vocab_size=8000)
    config = replace(config, text=text, vision=replace(config.vision, out_hidden_size=512))
    save(Qwen3VL(config), tmp_path, torch.bfloat16, shard_bytes=16 * 2**20)
    largest = max(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 4
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path], capture_output=True, text=True, check=True)
    peak, own = map(int, done.stdout.split())
    assert own > 8 * largest, "the bound below must mean something"
    assert peak < own + 1.2 * largest + 8 * 2**20, (peak, own, largest)


@pytest.mark.parametrize("make", [tiny_config, moe_config], ids=["dense", "experts"])
def test_shards_hold_every_tensor_once_and_replace_an_earlier_save(tiny_dir: Path, tmp_path: Path, make) -> None:
    model = Qwen3VL(make(Processor.from_pretrained(tiny_dir), tie=False), seed=3)
    save(model, tmp_path)
    single = load_file(tmp_path / "model.safetensors")
    save(model, tmp_path, shard_bytes=100_000)
    assert not (tmp_path / "model.safetensors").exists()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    found = {key: tensor for path in sorted(tmp_path.glob("*.safetensors")) for key, tensor in load_file(path).items()}
    assert found.keys() == single.keys() == index["weight_map"].keys()
    assert all(torch.equal(found[key], single[key]) for key in single)
    assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in single.values())
    for path in tmp_path.glob("*.safetensors"):
        held = load_file(path)
        assert len(held) == 1 or sum(4 * tensor.numel() for tensor in held.values()) <= 100_000
        assert {index["weight_map"][key] for key in load_file(path)} == {path.name}
    again = Qwen3VL.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    save(model, tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


def test_transformers_reads_our_shards(tiny_dir: Path, tmp_path: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    save(model, tmp_path, shard_bytes=50_000)
    oracle, info = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    assert torch.equal(oracle.get_parameter(name), model.text.layers[1].mlp.down.weight)


def test_what_is_wrong_is_listed(tiny_dir: Path, tmp_path: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    save(model, tmp_path)
    file, good = tmp_path / "model.safetensors", load_file(tmp_path / "model.safetensors")
    layer = "model.language_model.layers.0.mlp"
    bad = {**good, "model.extra.weight": torch.ones(2)}
    del bad[f"{layer}.up_proj.weight"], bad[f"{layer}.down_proj.weight"]
    save_file(bad, file)
    with pytest.raises(UserError) as error:
        Qwen3VL.from_pretrained(tmp_path)
    for name in (
        f"no tensor {layer}.up_proj.weight",
        f"no tensor {layer}.down_proj.weight",
        "unknown tensor model.extra",
    ):
        assert name in str(error.value)
    save_file({**good, f"{layer}.up_proj.weight": torch.ones(80, 48, dtype=torch.int32)}, file)
    with pytest.raises(UserError, match=r"holds torch\.int32, not floating-point numbers"):
        Qwen3VL.from_pretrained(tmp_path)
    file.unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is pickled, which can run code"):
        Qwen3VL.from_pretrained(tmp_path)
