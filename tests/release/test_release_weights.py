"""The weights of a release: plain ones are transformers' to the last bit, quantised ones PyTorch's own quantisation."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from oracle import conversations, inputs, reference
from safetensors.torch import load_file
from tiny import moe_config
from torch import Tensor

from open4ov.engine.vllm import find_python
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.release.weights import PRECISIONS, quantization_config, write_weights


@pytest.fixture(scope="module")
def experts_dir(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    processor = Processor.from_pretrained(tiny_dir)
    Qwen3VL(moe_config(processor), seed=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def written(source: Path, out: Path, precision: str, **more: int) -> dict[str, Tensor]:
    out.mkdir(parents=True, exist_ok=True)
    write_weights(source, out, precision, **more)  # pyright: ignore[reportArgumentType]
    return {name: tensor for path in sorted(out.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("kind", ["dense", "experts"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_transformers_reads_it_and_says_what_our_model_says(
    tiny_dir: Path, experts_dir: Path, tmp_path: Path, kind: str, precision: str
) -> None:
    source = tiny_dir if kind == "dense" else experts_dir
    written(source, tmp_path, precision)
    processor = Processor.from_pretrained(source)
    theirs, ours = reference(tmp_path), Qwen3VL.from_pretrained(tmp_path)
    run = Qwen3VL.from_pretrained(source)
    for documents in conversations(processor).values():
        with torch.no_grad():
            rows = theirs(**inputs(documents, processor)).logits.log_softmax(-1)
            expected = torch.cat([row[: len(d)] for row, d in zip(rows, documents, strict=True)])
            found, before = (m.logits(m.hidden_states(pack(documents))).log_softmax(-1) for m in (ours, run))
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
        if precision == "fp32":
            torch.testing.assert_close(found, before, atol=0, rtol=0)
        else:  # what bfloat16 costs; a router may then choose another expert here and there
            assert (found - before).abs().mean() < (0.1 if kind == "dense" else 0.3)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_int8_is_pytorchs_own_quantisation(tiny_dir: Path, tmp_path: Path) -> None:
    plain, packed = written(tiny_dir, tmp_path / "a", "fp32"), written(tiny_dir, tmp_path / "b", "int8")
    scaled = [name.removesuffix("_scale") for name in packed if name.endswith("_scale")]
    assert len(scaled) == 3 * 7  # q, k, v, o, gate, up, down of three layers
    for name in scaled:
        weight, scales = plain[name], packed[f"{name}_scale"]
        assert packed[name].dtype == torch.int8
        assert scales.shape == (len(weight), 1)
        zero = torch.zeros(len(weight), dtype=torch.long)
        oracle = torch.quantize_per_channel(weight, scales[:, 0].double(), zero, 0, torch.qint8).int_repr()
        assert torch.equal(packed[name], oracle)
        assert torch.equal(scales[:, 0], weight.abs().amax(1) / 127)
        assert ((packed[name] * scales - weight).abs() <= scales * 0.501).all()
    rest = packed.keys() - set(scaled) - {f"{name}_scale" for name in scaled}
    assert all(torch.equal(packed[name], plain[name].bfloat16()) for name in rest)


def test_fp8_is_within_half_a_step(tiny_dir: Path, tmp_path: Path) -> None:
    plain, packed = written(tiny_dir, tmp_path / "a", "fp32"), written(tiny_dir, tmp_path / "b", "fp8")
    for name in (name.removesuffix("_scale") for name in packed if name.endswith("_scale")):
        weight, scales = plain[name], packed[f"{name}_scale"]
        largest = weight.abs().amax(1, keepdim=True)
        assert packed[name].dtype == torch.float8_e4m3fn
        bound = torch.maximum(weight.abs() / 16, largest / (448 * 1024))  # fp8.py: 3 bits after the leading one
        assert ((packed[name].float() * scales - weight).abs() <= bound * 1.001).all()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_each_expert_is_a_linear_layer(experts_dir: Path, tmp_path: Path, precision: str) -> None:
    packed = written(experts_dir, tmp_path, precision)
    model = Qwen3VL.from_pretrained(experts_dir)
    for number, layer in enumerate(model.text.layers):
        prefix = f"model.language_model.layers.{number}.mlp"
        assert packed[f"{prefix}.gate.weight"].dtype == torch.bfloat16  # the router
        for expert in range(5):
            gate, up = layer.mlp.gate_up[expert].chunk(2)
            for part, weight in (("gate", gate), ("up", up), ("down", layer.mlp.down[expert])):
                name = f"{prefix}.experts.{expert}.{part}_proj.weight"
                back = packed[name].float() * packed[f"{name}_scale"]
                assert back.shape == weight.shape
                torch.testing.assert_close(back, weight.detach(), atol=0.03, rtol=0.07)


def test_the_configuration_tells_what_stays(tiny_dir: Path, tmp_path: Path) -> None:
    for precision in PRECISIONS:
        written(tiny_dir, tmp_path / precision, precision)
        config = json.loads((tmp_path / precision / "config.json").read_text())
        assert config["dtype"] == ("float32" if precision == "fp32" else "bfloat16")
        assert ("quantization_config" in config) == (precision in ("int8", "fp8"))
    assert quantization_config("int8")["format"] == "int-quantized"


def test_shards_are_named_by_their_number(tiny_dir: Path, tmp_path: Path) -> None:
    whole = written(tiny_dir, tmp_path / "a", "bf16")
    parts = written(tiny_dir, tmp_path / "b", "bf16", shard_bytes=20_000)
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert whole.keys() == parts.keys() == index["weight_map"].keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert sorted(set(index["weight_map"].values())) == sorted(
        path.name for path in (tmp_path / "b").glob("*.safetensors")
    )
    Qwen3VL.from_pretrained(tmp_path / "b")


def test_weights_that_are_not_finite_are_refused(tiny_dir: Path, tmp_path: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    with torch.no_grad():
        model.text.layers[0].attention.q.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "bad")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="not finite"):
        write_weights(tmp_path / "bad", tmp_path / "out", "bf16")


_THEIRS = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32)
stored = load_file(sys.argv[1] + "/model.safetensors")
names = [name.removesuffix("_scale") for name in stored if name.endswith("_scale")]
own = dict(model.named_parameters()) | dict(model.named_buffers())
for name in names:
    assert torch.equal(own[name].float(), stored[name].float()) and own[name].dtype == stored[name].dtype, name
    assert torch.equal(own[name + "_scale"], stored[name + "_scale"]), name
ids = torch.arange(5, 25)[None]
found = model(input_ids=ids).logits.log_softmax(-1)
plain = AutoModelForImageTextToText.from_pretrained(sys.argv[2], dtype=torch.float32)
print("equal", len(names), "far", float((found - plain(input_ids=ids).logits.log_softmax(-1)).abs().mean()))
"""


@pytest.mark.vllm
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_compressed_tensors_reads_what_is_quantised(tiny_dir: Path, tmp_path: Path, precision: str) -> None:
    written(tiny_dir, tmp_path, precision)
    command = [str(find_python()), "-c", _THEIRS, str(tmp_path), str(tiny_dir)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert "equal 21" in done.stdout, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 0.2
