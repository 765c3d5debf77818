"""Quantised weights: how far a product may be off, what stays as it is, new weights, and what is refused."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
import torch._dynamo.utils
from test_generate import mixed_requests, picture
from tiny import moe_config
from torch import Tensor, nn

from open4ov.engine import Engine, Request, deepgemm, fp8
from open4ov.engine.int8 import Int8Experts, Int8Matrix
from open4ov.engine.quantize import QuantisedLinear, QuantisedMoE, Report, load, quantised, weight_bytes
from open4ov.engine.quantize import quantize as quantise
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, lora
from open4ov.sample import user

NANO = Path(__file__).parents[2] / "src" / "open4ov" / "assets" / "nano"


@pytest.fixture
def model(tiny_dir: Path) -> Qwen3VL:
    return Qwen3VL.from_pretrained(tiny_dir).requires_grad_(False)


@pytest.fixture(scope="module")
def processor(tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir)


def matrix(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    """Outputs of very different sizes, so that a scale of the wrong axis shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, inputs, generator=generator) * torch.logspace(-3, 1, outputs)[:, None]


def rows(count: int, inputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(count, inputs, generator=generator) * torch.logspace(-2, 2, count)[:, None]


def int8_bound(x: Tensor, weight: Tensor) -> Tensor:
    """Derived in int8.py: half a level of the weights and half a level of the row."""
    s, a = weight.abs().amax(1) / 127, x.abs().amax(1, keepdim=True)
    from_weights = x.abs().sum(1, keepdim=True) * s / 2
    from_rows = (weight.abs().sum(1) + weight.shape[1] * s / 2) * a / 126
    return from_weights + from_rows + 1e-5 * (x.abs() @ weight.abs().T)


@pytest.mark.parametrize("count", [1, 7, 64])
def test_int8_products_are_off_by_no_more_than_derived(count: int) -> None:
    x, weight = rows(count, 96), matrix(40, 96)
    found, exact = Int8Matrix(weight)(x), x @ weight.T
    bound = int8_bound(x, weight)
    assert ((found - exact).abs() <= bound).all()
    # a scale for the whole matrix would drown the small outputs: the smallest keeps its digits
    assert ((found - exact).abs()[:, 0] < 0.1 * exact.abs()[:, 0].amax()).all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    x, packed = rows(9, 96), Int8Matrix(matrix(40, 96))
    assert torch.equal(packed(x)[3], packed(x[3:4])[0])
    assert torch.equal(packed(x.view(3, 3, 96)).view(9, 40), packed(x))
    assert torch.equal(packed(torch.zeros(2, 96)), torch.zeros(2, 40))


def test_int8_experts_are_their_matrices() -> None:
    weight = torch.stack([matrix(24, 48, seed) for seed in range(4)])
    x, counts = rows(10, 48), torch.tensor([3, 0, 6, 1])
    found = Int8Experts(weight)(x, counts)
    parts = [Int8Matrix(one)(part) for one, part in zip(weight, x.split(counts.tolist()), strict=True)]
    assert torch.equal(found, torch.cat(parts))
    assert Int8Experts(weight)(x[:0], torch.zeros(4, dtype=torch.long)).shape == (0, 24)


def test_fp8_numbers_are_off_by_no_more_than_derived() -> None:
    x = rows(30, 64)
    values, scales = fp8.to_fp8(x)
    bound = torch.maximum(x.abs() / 16, x.abs().amax(1, keepdim=True) / (448 * 1024))
    assert ((values.float() * scales - x).abs() <= bound * (1 + 1e-6)).all()
    assert scales.shape == (30, 1)
    assert values.float().abs().amax() == 448


def test_fp8_products_are_off_by_no_more_than_derived() -> None:
    x, weight = rows(12, 64), torch.stack([matrix(32, 64, seed) for seed in range(3)])
    found = fp8.Fp8Matrix(weight[0])(x)
    relative = x.abs() @ weight[0].abs().T * (2 / 16 + 1 / 256 + 1 / 128)
    floor = 64 * x.abs().amax(1, keepdim=True) * weight[0].abs().amax(1) / (448 * 512)
    assert ((found.float() - x @ weight[0].T).abs() <= relative + floor).all()
    counts = torch.tensor([5, 0, 7])
    parts = [fp8.Fp8Matrix(one)(part) for one, part in zip(weight, x.split(counts.tolist()), strict=True)]
    assert torch.equal(fp8.Fp8Experts(weight)(x, counts), torch.cat(parts))


def test_rows_of_every_width_get_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would stop at eight kernels of a function: four widths, each for one row and for more."""
    dynamo = torch._dynamo
    dynamo.reset()
    monkeypatch.setattr(dynamo.config, "recompile_limit", 8)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    fp8._compiled.cache_clear()
    counts = dynamo.utils.counters["frames"]
    before = counts["ok"]
    for width in range(16, 16 * 7, 16):
        for count in (1, 2, 3):
            x = rows(count, width)
            dynamo.mark_static(x, 1)
            found = fp8._compiled()(x)
            assert all(torch.equal(a, b) for a, b in zip(found, fp8.to_fp8(x), strict=True))
    assert counts["ok"] - before == 12
    fp8._compiled.cache_clear()
    dynamo.reset()


def test_rows_of_deepgemm_begin_at_its_blocks() -> None:
    """Its product by definition, over the layout it is given: -1 marks rows that belong to nobody."""
    block, counts = 8, torch.tensor([3, 0, 8, 9])
    weight = torch.randn(4, 128, 256)
    x = torch.randn(20, 256)

    def product(rows: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], out: Tensor, experts: Tensor) -> None:
        a = rows[0].float().unflatten(-1, (-1, 128)) * rows[1][..., None]
        scales = held[1].repeat_interleave(128, 1).repeat_interleave(128, 2)
        b = held[0].float() * scales
        for place, expert in enumerate(experts.tolist()):
            if expert >= 0:
                out[place] = (b[expert] @ a.flatten(-2)[place]).to(out.dtype)
        starts = [experts.tolist().index(expert) for expert in (0, 2, 3)]
        assert all(start % block == 0 for start in starts)

    library = SimpleNamespace(
        m_grouped_fp8_gemm_nt_contiguous=product, get_mk_alignment_for_contiguous_layout=lambda: block
    )
    found = deepgemm.GroupedExperts(weight, library)(x, counts)
    exact = torch.cat([part @ one.T for part, one in zip(x.split(counts.tolist()), weight, strict=True)])
    assert (found.float() - exact).abs().max() < 0.15 * exact.abs().max()
    assert not deepgemm.fits(torch.zeros(2, 100, 256))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU of capability 8.9 or more")
def test_fp8_on_a_gpu() -> None:
    x, weight = rows(32, 256).cuda(), matrix(128, 256).cuda()
    found, exact = fp8.Fp8Matrix(weight)(x).float(), x @ weight.T
    assert (found - exact).norm() < 0.05 * exact.norm()
    experts, counts = torch.stack([matrix(128, 256, seed) for seed in range(3)]).cuda(), torch.tensor([9, 0, 23]).cuda()
    one_by_one = fp8.loop(*fp8.to_fp8(x), *fp8.to_fp8(experts), counts)
    torch.testing.assert_close(fp8.Fp8Experts(experts)(x, counts), one_by_one, rtol=0.02, atol=1e-3)


def test_parts_that_are_not_named_stay_bit_identical(model: Qwen3VL) -> None:
    plain = copy.deepcopy(model)
    report = quantise_(model)
    assert report.layers == 7 * model.config.text.num_hidden_layers
    left = {name: value for name, value in model.named_parameters() if not name.endswith("revision")}
    assert all(torch.equal(value, plain.get_parameter(name)) for name, value in left.items())
    assert {name.split(".")[0] for name in left} >= {"vision", "text"}
    assert "text.embed.weight" in left
    assert not any(isinstance(module, QuantisedLinear) for module in model.vision.modules())


def quantise_(model: Qwen3VL, *parts: str) -> Report:
    return quantise(model, "int8", parts or ("language",))


@pytest.mark.parametrize("experts", [False, True])
def test_it_answers_nearly_as_before(tiny_dir: Path, processor: Processor, experts: bool) -> None:
    plain = Qwen3VL(moe_config(processor), seed=1) if experts else Qwen3VL.from_pretrained(tiny_dir)
    small = copy.deepcopy(plain)
    quantise_(small)
    assert any(isinstance(module, QuantisedMoE) for module in small.modules()) == experts
    request = Request([user("How many squares are there?", 1)], [picture(1)], max_tokens=1, prompt_log_probs=True)
    before, after = (Engine(one, processor).generate([request])[0][0].prompt_log_probs for one in (plain, small))
    gap = (torch.tensor(before) - torch.tensor(after)).abs()
    assert 0 < gap.mean() < 0.1
    assert all(len(one) == 1 for one in Engine(small, processor).generate([request]))


def test_the_shipped_models_answers_mostly_stay() -> None:
    """Greedy, 24 questions with pictures: three in four are the same to the letter."""
    processor = Processor.from_pretrained(NANO)
    asked = [Request([user("Describe the image.", 1)], [picture(n, (96, 96))], max_tokens=24) for n in range(12)]
    asked += [Request([user(f"What is {n} + {n + 3}?")], max_tokens=12) for n in range(12)]
    texts = [[one[0].text for one in Engine(load(NANO, kind), processor).generate(asked)] for kind in (None, "int8")]
    same = sum(a == b for a, b in zip(*texts, strict=True))
    assert same >= 18, f"{same} of {len(asked)}"


@pytest.mark.parametrize("kind", [None, "int8"])
def test_an_adapter_is_merged_before(tiny_dir: Path, tmp_path: Path, processor: Processor, kind: str | None) -> None:
    adapted = Qwen3VL.from_pretrained(tiny_dir)
    for parameter in lora.add(adapted, rank=2):
        parameter.data += 0.2
    lora.save(adapted, tmp_path / "adapter.safetensors")
    found = Engine(load(tiny_dir, kind, tmp_path / "adapter.safetensors"), processor).generate(mixed_requests())
    lora.merge(adapted)
    if kind:
        quantise_(adapted)
    assert [one[0].token_ids for one in found] == [
        one[0].token_ids for one in Engine(adapted, processor).generate(mixed_requests())
    ]
    plain = Engine(load(tiny_dir, kind), processor).generate(mixed_requests())
    assert [one[0].token_ids for one in found] != [one[0].token_ids for one in plain]


def test_bytes_go_down(model: Qwen3VL) -> None:
    before = weight_bytes(model)
    held = sum(p.nbytes for name, p in model.text.layers.named_parameters() if p.ndim == 2)
    report = quantise_(model)
    assert report.before == before
    assert report.after == weight_bytes(model)
    outputs = sum(p.shape[0] for name, p in Qwen3VL(model.config).text.layers.named_parameters() if p.ndim == 2)
    assert before - report.after == held - held // 4 - 12 * outputs - 4 * report.layers  # bytes, scales, revisions
    assert "int8" in str(report)


def test_new_weights_are_quantised_on_the_way_in(tiny_dir: Path, processor: Processor) -> None:
    small, other = Qwen3VL.from_pretrained(tiny_dir), Qwen3VL.from_pretrained(tiny_dir)
    state = {name: value * 1.3 for name, value in other.state_dict().items()}
    other.load_state_dict(state)
    quantise_(other)
    quantise_(small)
    engine = Engine(small, processor)
    asked = mixed_requests()
    before = engine.generate(asked)
    assert engine.update_weights(state) == 1
    found = engine.generate(asked)
    expected = Engine(other, processor).generate(asked)
    assert [one[0].token_ids for one in found] == [one[0].token_ids for one in expected]
    assert [one[0].token_ids for one in found] != [one[0].token_ids for one in before]
    small.load_state_dict(Qwen3VL.from_pretrained(tiny_dir).state_dict())  # the engine was not told: it looks itself
    assert [one[0].token_ids for one in engine.generate(asked)] == [one[0].token_ids for one in before]


def test_weights_that_do_not_fit(model: Qwen3VL) -> None:
    state = model.state_dict()
    quantise_(model)
    name = "text.layers.0.mlp.up.weight"
    for wrong in (state[name][:-1], state[name] * float("nan")):
        with pytest.raises(RuntimeError, match=name.replace(".", r"\.")):
            model.load_state_dict({**state, name: wrong})
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({key: value for key, value in state.items() if key != name})


def test_what_is_refused(tiny_dir: Path, tmp_path: Path, processor: Processor) -> None:
    def fresh() -> Qwen3VL:
        return Qwen3VL.from_pretrained(tiny_dir)

    for kind, parts, said in (
        ("int4", ("language",), "no kind is called 'int4'"),
        ("int8", ("languages",), "no part is called 'languages'; did you mean|no part"),
        ("int8", ("head",), "head is its embedding"),
        ("int8", (), "no parts are named"),
        ("fp8", ("language",), "NVIDIA GPU"),
    ):
        model = fresh()
        with pytest.raises(UserError, match=said):
            quantise(model, kind, parts)
        assert not quantised(model)
    with pytest.raises(UserError, match="float32 and bfloat16"):
        quantise_(fresh().half())
    broken = fresh()
    broken.text.layers[1].mlp.up.weight.data[0, 0] = float("inf")
    with pytest.raises(UserError, match="not finite"):
        quantise_(broken)
    assert not quantised(broken)
    adapted = fresh()
    lora.add(adapted, rank=2)
    with pytest.raises(UserError, match="merge them first"):
        quantise_(adapted)
    lora.merge(adapted)
    quantise_(adapted)
    with pytest.raises(UserError, match="quantised already"):
        quantise_(adapted)
    with pytest.raises(UserError, match="cannot be saved"):
        adapted.save_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match="none of the targets"):
        lora.add(adapted, rank=2)
    with pytest.raises(UserError, match="no weights to read"):
        _ = adapted.text.layers[0].mlp.up.weight
    layer = adapted.text.layers[0].mlp.up
    assert isinstance(layer, nn.Linear)
    with pytest.raises(UserError, match="cannot be trained"):
        layer(torch.randn(2, layer.in_features, requires_grad=True))


def test_bfloat16_answers_in_bfloat16(model: Qwen3VL, processor: Processor) -> None:
    small = model.to(torch.bfloat16)
    quantise_(small)
    layer = small.text.layers[0].mlp.up
    with torch.no_grad():
        assert layer(torch.randn(3, layer.in_features, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert Engine(small, processor).generate([Request([user("one")], max_tokens=3)])[0][0].token_ids
