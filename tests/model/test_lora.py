"""LoRA: nothing changes at first, only adapters are trained, and merging gives a plain model that computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import conversations
from safetensors.torch import load_file, save_file
from tiny import moe_config
from torch import Tensor

from open4ov.errors import UserError
from open4ov.model import Pack, Processor, Qwen3VL, lora, pack


@pytest.fixture(params=["dense", "experts"])
def model(request: pytest.FixtureRequest, tiny_dir: Path) -> Qwen3VL:
    if request.param == "dense":
        return Qwen3VL.from_pretrained(tiny_dir)
    return Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir)), seed=1)


@pytest.fixture
def batch(tiny_dir: Path) -> Pack:
    return pack(conversations(Processor.from_pretrained(tiny_dir))["batch"])


def trained(model: Qwen3VL, batch: Pack, steps: int = 3, **options: object) -> list[Tensor]:
    """Adapts the model and trains the adapters a little; the losses before each step."""
    parameters = lora.add(model, rank=4, alpha=8, **options)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    losses: list[Tensor] = []
    for _ in range(steps):
        losses.append(model.loss(batch))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def test_training_moves_adapters_only_and_merging_keeps_the_outputs(
    model: Qwen3VL, batch: Pack, tiny_dir: Path, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = model.loss(batch).detach()
    losses = trained(model, batch)
    torch.testing.assert_close(losses[0].detach(), plain)
    assert losses[-1] < losses[0] - 0.01
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    with torch.no_grad():
        adapted = model.hidden_states(batch)
        lora.merge(model)
        assert model.state_dict().keys() == before.keys()
        torch.testing.assert_close(model.hidden_states(batch), adapted, atol=1e-4, rtol=1e-4)
        Processor.from_pretrained(tiny_dir).save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        assert torch.equal(Qwen3VL.from_pretrained(tmp_path).hidden_states(batch), model.hidden_states(batch))
    assert all(p.requires_grad for p in model.parameters())


def test_adapters_are_saved_alone_and_fit_the_plain_model_again(model: Qwen3VL, batch: Pack, tmp_path: Path) -> None:
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(model, batch)
    lora.save(model, tmp_path / "adapters.safetensors")
    with torch.no_grad():
        adapted = model.hidden_states(batch)
    again = Qwen3VL(model.config)
    again.load_state_dict(start)
    lora.load(again, tmp_path / "adapters.safetensors")
    with torch.no_grad():
        assert torch.equal(again.hidden_states(batch), adapted)
    assert (tmp_path / "adapters.safetensors").stat().st_size < 0.3 * sum(4 * t.numel() for t in start.values())


def test_what_is_added_is_alpha_over_rank_times_b_a(model: Qwen3VL) -> None:
    """By hand, for a linear layer and for each expert, in the forward pass and in merging."""
    lora.add(model, rank=2, alpha=6)
    layer = model.text.layers[1]
    torch.manual_seed(0)
    for name, parameter in layer.named_parameters():
        if name.endswith(("_a", "_b")):
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    q = layer.attention.q
    wanted = {"q": q.weight + 3 * q.lora_b @ q.lora_a}
    x = torch.randn(5, 48)
    torch.testing.assert_close(q(x), x @ wanted["q"].T)
    if hasattr(layer.mlp, "gate_up"):
        moe = layer.mlp
        for name in ("gate_up", "down"):
            base, a, b = (getattr(moe, name + part) for part in ("", "_a", "_b"))
            wanted[name] = torch.stack([base[e] + 3 * b[e] @ a[e] for e in range(len(base))])
        for found, name in zip(moe.weights(), ("gate_up", "down"), strict=True):
            torch.testing.assert_close(found, wanted[name])
    wanted = {name: value.detach().clone() for name, value in wanted.items()}
    lora.merge(model)
    torch.testing.assert_close(layer.attention.q.weight, wanted.pop("q"))
    for name, value in wanted.items():
        torch.testing.assert_close(getattr(layer.mlp, name), value)


def test_a_file_that_lacks_or_adds_something_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    lora.add(model, 2)
    path = tmp_path / "a.safetensors"
    lora.save(model, path)
    whole = load_file(path)
    metadata = {"format": "pt", "scale": "1.0"}
    name = "text.layers.0.attention.q.lora_b"
    for state, fault in (
        ({k: v for k, v in whole.items() if k != name}, f"no tensor {name}"),
        (
            {**whole, "text.layers.0.attention.q.lora_c": whole[name].clone()},
            "unknown tensor text.layers.0.attention.q.lora_c",
        ),
    ):
        save_file(state, path, metadata=metadata)
        plain = Qwen3VL.from_pretrained(tiny_dir)
        with pytest.raises(UserError, match=fault):
            lora.load(plain, path)
        assert all(p.requires_grad for p in plain.parameters())
    save_file(whole, path, metadata=metadata)
    plain = Qwen3VL.from_pretrained(tiny_dir)
    lora.load(plain, path)
    assert {n for n, p in plain.named_parameters() if p.requires_grad} == whole.keys()


def test_targets_choose_the_layers(tiny_dir: Path, batch: Pack) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    parameters = lora.add(model, rank=2, targets=("q", "v"))
    assert len(parameters) == 3 * 2 * 2
    model.loss(batch).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        f"text.layers.{layer}.attention.{target}.lora_{side}" for layer in range(3) for target in "qv" for side in "ab"
    }


def test_what_does_not_fit_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    with pytest.raises(UserError, match="no target 'gat'; did you mean 'gate'"):
        lora.add(model, 4, targets=("gat",))
    with pytest.raises(UserError, match="none of the targets experts"):
        lora.add(model, 4, targets=("experts",))
    with pytest.raises(UserError, match="none named"):
        lora.add(model, 4, targets=())
    with pytest.raises(UserError, match="rank must be at least 1"):
        lora.add(model, 0)
    assert all(p.requires_grad for p in model.parameters()), "what fails changes nothing"
    with pytest.raises(UserError, match="no adapters to save"):
        lora.save(model, tmp_path / "x.safetensors")
    model = Qwen3VL.from_pretrained(tiny_dir)
    lora.add(model, 4)
    with pytest.raises(UserError, match="adapters already"):
        lora.add(model, 4)
    lora.save(model, tmp_path / "x.safetensors")
    sparse = Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir)))
    with pytest.raises(UserError, match="is for another model"):
        lora.load(sparse, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no adapters of open4ov"):
        lora.load(model, tiny_dir / "model.safetensors")
