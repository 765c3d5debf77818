"""Experts: what transformers computes, in grouped products and in a loop; on disk in the hub's layout."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import conversations, inputs, reference
from safetensors.torch import load_file, save_file
from tiny import moe_config
from torch import Tensor
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import load_balancing_loss_func

from open4ov.model import Processor, Qwen3VL, TextConfig, pack
from open4ov.model.moe import KERNELS, MoE, Routing
from open4ov.recipe import UserError


@pytest.fixture(scope="module", params=["tied", "untied", "mixed"])
def directory(request: pytest.FixtureRequest, tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    processor = Processor.from_pretrained(tiny_dir)
    processor.save_pretrained(directory)
    changes = {"mlp_only_layers": (1,)} if request.param == "mixed" else {}
    Qwen3VL(moe_config(processor, request.param != "untied", **changes), seed=2).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", ["text", "several images", "batch"])
def test_logits_equal_transformers(directory: Path, case: str, kernel: str) -> None:
    processor, model = Processor.from_pretrained(directory), Qwen3VL.from_pretrained(directory)
    for module in model.modules():
        if isinstance(module, MoE):
            module.kernel = kernel
    documents = conversations(processor)[case]
    with torch.no_grad():
        theirs = reference(directory)(**inputs(documents, processor)).logits
        theirs = torch.cat([row[: len(d)] for row, d in zip(theirs, documents, strict=True)])
        ours = model.logits(model.hidden_states(pack(documents)))
    assert theirs.abs().max() > 1
    assert float((ours - theirs).abs().max()) <= 1e-4


def test_gradients_equal_transformers(directory: Path) -> None:
    processor, model, theirs = (
        Processor.from_pretrained(directory),
        Qwen3VL.from_pretrained(directory),
        reference(directory),
    )
    documents = conversations(processor)["batch"]
    model.loss(pack(documents)).backward()
    batch = inputs(documents, processor)
    labels = torch.full_like(batch["input_ids"], -100)
    for row, document in enumerate(documents):
        labels[row, : len(document)][document.targets] = document.input_ids[document.targets]
    theirs(**batch, labels=labels).loss.backward()
    moe, layer = model.text.layers[0].mlp, "model.language_model.layers.0.mlp"
    for name, gradient in (
        ("gate.weight", moe.router.grad),
        ("experts.gate_up_proj", moe.gate_up.grad),
        ("experts.down_proj", moe.down.grad),
    ):
        expected = theirs.get_parameter(f"{layer}.{name}").grad
        assert expected is not None
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3, msg=name)


def test_the_file_has_the_layout_of_the_hub(directory: Path) -> None:
    model, held = Qwen3VL.from_pretrained(directory), load_file(directory / "model.safetensors")
    ours = model.text.layers[2].mlp
    name = "model.language_model.layers.2.mlp.experts"
    assert held[f"{name}.gate_up_proj"].shape == (5, 48, 80)
    assert held[f"{name}.down_proj"].shape == (5, 40, 48)
    assert torch.equal(held[f"{name}.gate_up_proj"][3].T, ours.gate_up[3])
    assert torch.equal(held[f"{name}.down_proj"][3].T, ours.down[3])


def test_there_and_back_is_bit_exact(directory: Path, tmp_path: Path) -> None:
    """ours -> transformers -> ours -> transformers."""
    first = reference(directory)
    first.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    model = Qwen3VL.from_pretrained(tmp_path / "theirs")
    for name, tensor in Qwen3VL.from_pretrained(directory).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    model.save_pretrained(tmp_path / "ours")
    second = reference(tmp_path / "ours")
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


@pytest.mark.parametrize("width", [24, 48], ids=["hidden is twice the width", "hidden is the width"])
@pytest.mark.parametrize("transposed", [False, True], ids=["hub", "transformers"])
def test_square_experts_are_not_mistaken(tiny_dir: Path, tmp_path: Path, width: int, transposed: bool) -> None:
    """Where one tensor fits both ways, the other tells: [E, in, out] as released, or [E, out, in]."""
    model = Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir), moe_intermediate_size=width), seed=4)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if transposed:
        held = load_file(file)
        save_file({k: t.transpose(1, 2).contiguous() if ".experts." in k else t for k, t in held.items()}, file)
    for name, tensor in Qwen3VL.from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def layer(width: int, seed: int, dtype: torch.dtype = torch.float32) -> MoE:
    shape = TextConfig(100, 48, 80, 2, 4, 2, head_dim=16, mrope_section=(4, 2, 2))
    moe = MoE(replace(shape, num_experts=7, num_experts_per_tok=3, moe_intermediate_size=width))
    generator = torch.Generator().manual_seed(seed)
    for weight in moe.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.3, generator=generator)
    return moe.to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_grouped_products_equal_the_loop(dtype: torch.dtype, tolerance: float) -> None:
    moe = layer(40, 0, dtype)
    x = torch.randn(31, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    found: dict[str, list[Tensor]] = {}
    for kernel in KERNELS:
        moe.kernel = kernel
        moe.zero_grad()
        inputs = x.clone().requires_grad_(True)
        out = moe(inputs)
        out.float().square().sum().backward()
        assert inputs.grad is not None
        found[kernel] = [out.detach(), inputs.grad, *(p.grad for p in moe.parameters() if p.grad is not None)]
    assert len(found["loop"]) == 5
    for grouped, looped in zip(found["grouped"], found["loop"], strict=True):
        scale = float(looped.float().abs().max())
        assert float((grouped.float() - looped.float()).abs().max()) <= tolerance * max(scale, 1.0)


def test_widths_that_grouped_products_refuse_take_the_loop() -> None:
    assert layer(40, 0).kernel == "grouped"
    odd = layer(42, 0)
    assert odd.kernel == "loop"
    assert odd(torch.randn(5, 48)).shape == (5, 48)


def test_an_expert_without_tokens_gets_no_gradient() -> None:
    moe = layer(40, 0)
    with torch.no_grad():
        moe.router.zero_()
        moe.router[:3] = 1.0
    x = torch.rand(9, 48) + 0.1
    routings: list[Routing] = []
    moe(x, routings).sum().backward()
    assert routings[0].counts.tolist() == [9, 9, 9, 0, 0, 0, 0]
    assert moe.down.grad is not None
    assert not moe.down.grad[3:].any()
    assert moe.down.grad[:3].any()


def test_the_balancing_loss_equals_transformers_for_one_layer() -> None:
    moe = layer(40, 3)
    x = torch.randn(50, 48)
    routings: list[Routing] = []
    moe(x, routings)
    logits = x @ moe.router.T
    theirs = load_balancing_loss_func((logits,), num_experts=7, top_k=3)
    ours = routings[0].balance()
    torch.testing.assert_close(ours, theirs)
    (expected,), (found,) = (torch.autograd.grad(value, moe.router) for value in (theirs, ours))
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(found, expected)
    p = logits.softmax(-1).double()
    assert float(routings[0].entropy) == pytest.approx(float(-(p * p.log()).sum(-1).mean().detach()), rel=1e-5)
    even = Routing(torch.full((4,), 10.0), torch.full((4,), 0.25), torch.tensor(0.0), 20)
    assert float(even.balance()) == pytest.approx(2.0)


def test_the_loss_of_a_pack_holds_the_mean_of_the_layers(tiny_dir: Path) -> None:
    processor = Processor.from_pretrained(tiny_dir)
    documents = pack(conversations(processor)["batch"])
    plain = Qwen3VL(moe_config(processor), seed=2)
    with_loss = Qwen3VL(moe_config(processor, router_aux_loss_coef=0.5), seed=2)
    routings: list[Routing] = []
    plain.hidden_states(documents, routings=routings)
    expected = plain.loss(documents) + 0.5 * sum(r.balance() for r in routings) / 3
    torch.testing.assert_close(with_loss.loss(documents), expected)


def test_what_is_recorded_of_the_routers(tiny_dir: Path) -> None:
    processor = Processor.from_pretrained(tiny_dir)
    documents = pack(conversations(processor)["batch"])
    model = Qwen3VL(moe_config(processor), seed=2)
    assert model.figures() == {}
    model.loss(documents)
    routings: list[Routing] = []
    model.hidden_states(documents, routings=routings)
    figures = model.figures()
    assert figures["router_balance"] == pytest.approx(sum(float(r.balance().detach()) for r in routings) / 3, abs=1e-3)
    busiest = max(float(r.counts.max()) for r in routings) / (2 * len(documents.input_ids))
    assert figures["busiest_expert"] == pytest.approx(busiest, abs=1e-3)
    assert 0 < figures["router_entropy"] < math.log(5)
    dense = Qwen3VL.from_pretrained(tiny_dir)
    dense.loss(documents)
    assert dense.figures() == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 9}, r"num_experts_per_tok \(9\) must be 1 to num_experts \(5\)"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tiny_dir: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        moe_config(Processor.from_pretrained(tiny_dir), **changes)
