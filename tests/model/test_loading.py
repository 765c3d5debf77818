"""Large checkpoints: shards with an index, read one after another without holding a second copy of the model."""

from __future__ import annotations

import json
import re
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
from open4ov.model import Processor, Qwen3VL, lora
from open4ov.model.checkpoint import save

PEAK = """
import sys
import torch
from pathlib import Path
from open4ov.model import Qwen3VL

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

Qwen3VL.from_pretrained(sys.argv[2])  # what is imported and set up on the first use is not the model's
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
model = Qwen3VL.from_pretrained(sys.argv[1], dtype=torch.float32)
print(resident("VmHWM") - before, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


def test_faults_of_all_files_are_named_up_to_eight_and_counted(tiny_dir: Path, tmp_path: Path) -> None:
    save(Qwen3VL.from_pretrained(tiny_dir), tmp_path, shard_bytes=150_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert 4 <= len(files) <= 8
    spoilt: list[str] = []
    for number, file in enumerate(files):
        held = load_file(file)
        name = next(iter(held))
        held[name] = torch.ones(3) if number % 2 else held[name].to(torch.float8_e4m3fn)
        save_file(held, file)
        spoilt.append(f"{file.name}: {name} {'has shape [3]' if number % 2 else 'holds F8_E4M3 numbers'}")
    with pytest.raises(UserError) as error:
        Qwen3VL.from_pretrained(tmp_path)
    assert all(fault in str(error.value) for fault in spoilt), str(error.value)
    held = load_file(files[-1])
    save_file({**held, **{f"more.{n}": torch.ones(1) for n in range(9)}}, files[-1])
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"] |= {f"more.{n}": files[-1].name for n in range(9)}
    index.write_text(json.dumps(table))
    with pytest.raises(UserError, match=rf"; and {len(files) + 9 - 8} more$"):
        Qwen3VL.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_read(tiny_dir: Path, tmp_path: Path, kind: torch.dtype) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    save(model, tmp_path, kind)
    weight = Qwen3VL.from_pretrained(tmp_path).text.norm.weight
    assert torch.equal(weight, model.text.norm.weight.to(kind).float())


def test_a_tied_head_and_the_patch_kernel_must_have_their_shapes(tiny_dir: Path, tmp_path: Path) -> None:
    save(Qwen3VL.from_pretrained(tiny_dir), tmp_path)
    file, good = tmp_path / "model.safetensors", load_file(tmp_path / "model.safetensors")
    embed = good["model.language_model.embed_tokens.weight"]
    save_file({**good, "lm_head.weight": embed.clone()}, file)
    Qwen3VL.from_pretrained(tmp_path)
    save_file({**good, "lm_head.weight": embed[:7].clone()}, file)
    with pytest.raises(UserError, match=rf"lm_head.weight has shape \[7, 48\]; .* asks for \[{len(embed)}, 48\]"):
        Qwen3VL.from_pretrained(tmp_path)
    kernel = "model.visual.patch_embed.proj.weight"
    save_file({**good, kernel: good[kernel].permute(0, 2, 3, 4, 1).contiguous()}, file)
    with pytest.raises(UserError, match=r"\[32, 2, 16, 16, 3\]; config.json asks for \[32, 3, 2, 16, 16\]"):
        Qwen3VL.from_pretrained(tmp_path)


def test_experts_that_fit_neither_way_are_told_the_layout_of_the_hub(tiny_dir: Path, tmp_path: Path) -> None:
    save(Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir))), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["moe_intermediate_size"] = 44
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"down_proj has shape \[5, 40, 48\]; config.json asks for \[5, 44, 48\]"):
        Qwen3VL.from_pretrained(tmp_path)


def test_an_index_that_lies_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    save(Qwen3VL.from_pretrained(tiny_dir), tmp_path, shard_bytes=50_000)
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    name = "model.language_model.norm.weight"
    index.write_text(json.dumps({"weight_map": {**table, name: 5}}))
    with pytest.raises(UserError, match=rf"index\.json: weight_map must name a file for every tensor; for {name}.* 5"):
        Qwen3VL.from_pretrained(tmp_path)
    other = next(file for file in table.values() if file != table[name])
    index.write_text(json.dumps({"weight_map": {**table, name: other}}))
    with pytest.raises(UserError, match=rf"no tensor {name} in {other}, where the index puts it"):
        Qwen3VL.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["old.bin", "old.pt", "old.pth", "old.ckpt", "old.pkl"])
def test_pickled_weights_are_called_so(tiny_dir: Path, tmp_path: Path, name: str) -> None:
    save(Qwen3VL.from_pretrained(tiny_dir), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    with pytest.raises(UserError, match=rf"{re.escape(name)} is pickled, which can run code"):
        Qwen3VL.from_pretrained(tmp_path)


def test_saving_takes_away_what_it_wrote_and_nothing_else(tiny_dir: Path, tmp_path: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    theirs = ["model_backup.safetensors", "model-best.safetensors", "model-00001-of-00002.safetensors.safetensors"]
    for name in theirs:
        (tmp_path / name).write_bytes(b"precious")
    save(model, tmp_path, shard_bytes=50_000)
    save(model, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors*")) == sorted([*theirs, "model.safetensors"])


@pytest.mark.parametrize("make", [tiny_config, moe_config], ids=["dense", "experts"])
@pytest.mark.parametrize("targets", [["q"], lora.TARGETS])
def test_a_model_with_adapters_is_not_saved(tiny_dir: Path, tmp_path: Path, make, targets: list[str]) -> None:
    model = Qwen3VL(make(Processor.from_pretrained(tiny_dir)))
    lora.add(model, 2, targets=targets)
    with pytest.raises(UserError, match=r"merge the adapters first \(lora\.merge\), or save them apart \(lora\.save\)"):
        save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    lora.merge(model)
    save(model, tmp_path / "new")


def test_experts_with_adapters_alone_are_not_saved(tiny_dir: Path, tmp_path: Path) -> None:
    model = Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir)))
    lora.add(model, 2, targets=[lora.EXPERTS])
    with pytest.raises(UserError, match="merge the adapters first"):
        save(model, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure the peak of memory")
def test_peak_memory_is_the_model_and_a_shard(tiny_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(Processor.from_pretrained(tiny_dir))
    text = replace(config.text, hidden_size=512, intermediate_size=2048, num_hidden_layers=22, vocab_size=8000)
    config = replace(config, text=text, vision=replace(config.vision, out_hidden_size=512))
    save(Qwen3VL(config), tmp_path, torch.bfloat16, shard_bytes=32 * 2**20)
    largest = max(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 4
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path, tiny_dir], capture_output=True, text=True, check=True)
    peak, own = map(int, done.stdout.split())
    assert own > 8 * largest, "the bound below must mean something"
    assert peak < own + 1.2 * largest, (peak, own, largest)


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
    with pytest.raises(UserError, match="holds I32 numbers; open4ov reads float16"):
        Qwen3VL.from_pretrained(tmp_path)
    file.unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is pickled, which can run code"):
        Qwen3VL.from_pretrained(tmp_path)
