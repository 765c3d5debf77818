"""Dispatchers other than the usual one, experts with adapters, half precision, recomputation, replayed routings."""

from __future__ import annotations

import sys
from types import ModuleType

import deep_ep_stand_in
import pytest
import torch
import torch.distributed as dist
import world
from moe_layers import HIDDEN, layer, local, mesh_of, on_mesh, outcome, own, worst
from torch import Tensor

from open4ov.errors import UserError
from open4ov.model.lora import LoraMoE
from open4ov.model.moe import MoE
from open4ov.parallel import dispatch, expert, replay
from open4ov.parallel.mesh import Mesh


def drawn(rank: int, tokens: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 + rank)
    return torch.randn(tokens, HIDDEN, generator=generator), torch.randn(tokens, HIDDEN, generator=generator)


def by_deep_ep() -> dict[str, float]:
    """Against the whole layer in bfloat16's precision; the shares of a token are added up in float32 there."""
    torch.cuda.is_available = lambda: True
    sys.modules["deep_ep"] = deep_ep_stand_in
    mesh = mesh_of(2)
    whole = layer(6, 3)
    x, up = drawn(dist.get_rank(), 9 + dist.get_rank())
    x, up = x.bfloat16().float(), up.bfloat16().float()
    found, expected = outcome(on_mesh(whole, mesh, "deepep"), x, up), outcome(whole, x, up)
    for part in (found.router, expected.router, expected.gate_up, expected.down):
        dist.all_reduce(part)
    expected.gate_up, expected.down = own(expected.gate_up, mesh), own(expected.down, mesh)
    names = ("out", "x", "router", "gate_up", "down")
    return {name: worst([getattr(found, name)], [getattr(expected, name)]) for name in names}


@pytest.mark.distributed
def test_deep_ep_as_its_documentation_has_it() -> None:
    scores = world.run(by_deep_ep, 2)[0]
    assert max(scores.values()) <= 2e-2, scores  # bfloat16 on the ways there and back
    assert min(scores.values()) > 0, "nothing was rounded"


def adapted() -> float:
    """The gradients of experts' adapters, which lie on the same ranks as the experts."""
    mesh, whole = mesh_of(2), layer(4)
    whole.__class__ = LoraMoE
    whole.adapt(3, 6.0, torch.Generator().manual_seed(2))  # pyright: ignore[reportAttributeAccessIssue]
    whole.requires_grad_(False)
    names = [name for name, _ in whole.named_parameters() if name.endswith(("_a", "_b"))]
    for name in names:
        torch.nn.init.normal_(whole.get_parameter(name), 0.0, 0.3, generator=torch.Generator().manual_seed(len(name)))
        whole.get_parameter(name).requires_grad_()
    x, up = drawn(dist.get_rank(), 7)
    mine = on_mesh(whole, mesh, "all_to_all")
    assert isinstance(mine, LoraMoE)
    outs: list[Tensor] = []
    for moe in (mine, whole):
        out = moe(x)  # of which nothing has a gradient: the backward pass meets the others' all the same
        (out * up).sum().backward()
        outs.append(out)
    found, expected = [outs[0]], [outs[1]]
    for name in names:
        found.append(local(mine.get_parameter(name).grad))
        whole_gradient = local(whole.get_parameter(name).grad)
        dist.all_reduce(whole_gradient)
        expected.append(own(whole_gradient, mesh))
    assert len(found) == 5
    return worst(found, expected)


@pytest.mark.distributed
def test_experts_with_adapters() -> None:
    assert world.run(adapted, 2)[0] <= 1e-5


def in_half_precision() -> tuple[float, list[torch.dtype]]:
    """Rows travel in the type that the products take."""
    mesh, whole, sent = mesh_of(2), layer(4), []
    x, up = drawn(dist.get_rank(), 7)
    mine = on_mesh(whole, mesh, "all_to_all")
    plain = dispatch.exchange

    def watched(x: Tensor, *arguments: object) -> Tensor:
        sent.append(x.dtype)
        return plain(x, *arguments)  # pyright: ignore[reportArgumentType]

    dispatch.exchange = watched
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = outcome(mine, x, up), outcome(whole, x, up)
    return worst([found.out, found.x], [expected.out, expected.x]), sent


@pytest.mark.distributed
def test_rows_travel_in_half_precision() -> None:
    worst_of, sent = world.run(in_half_precision, 2)[0]
    assert worst_of <= 1e-2
    assert sent == [torch.bfloat16] * 2


@pytest.mark.parametrize(
    ("dispatch", "experts", "sizes", "message"),
    [
        ("all_too_all", 4, {}, "parallel.dispatch: 'all_too_all' is unknown.*all_to_all"),
        ("all_to_all", 4, {"dp_shard": 3, "ep": 3}, "parallel.ep: 3 ranks cannot share the 4 experts"),
        ("all_to_all", 4, {"dp_shard": 8, "ep": 8}, "parallel.ep: 8 ranks cannot share the 4 experts"),
    ],
)
def test_what_cannot_work_is_refused(dispatch: str, experts: int, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        expert.apply(layer(experts), Mesh(**sizes), dispatch)


class _Deep(expert.DeepEP, MoE):
    pass


@pytest.mark.parametrize(
    ("cuda", "package", "message"),
    [
        (False, None, "deepep needs CUDA GPUs; use all_to_all"),
        (True, None, "deepep needs the package deep_ep"),
        (True, ModuleType("deep_ep"), "version 2 of DeepEP"),
    ],
)
def test_deep_ep_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, package: ModuleType | None, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setitem(sys.modules, "deep_ep", package)
    moe = layer(4)
    moe.__class__ = _Deep
    moe.ep = object()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match=message):
        moe.prepare()  # pyright: ignore[reportCallIssue]


def test_a_routing_is_recorded_and_forced() -> None:
    """A router that would choose otherwise gives the experts of another's choice the weights of its own."""
    first, second = layer(5, 2, seed=1), layer(5, 2, seed=1)
    torch.nn.init.normal_(second.router, generator=torch.Generator().manual_seed(9))
    x, y = drawn(0, 6)
    with replay.recorded(first) as routes:
        first(x)
        first(y)
    assert [len(routes[""]), *(tuple(chosen.shape) for chosen in routes[""])] == [2, (6, 2), (6, 2)]
    with replay.recorded(second) as own_choice:
        free = second(x)
    assert not torch.equal(own_choice[""][0], routes[""][0])
    longer = torch.cat([x, y[:3]])
    with replay.replayed(second, routes):
        second(longer)
        second(y)
        with pytest.raises(ValueError, match="pass 3, but 2 were recorded"):
            second(x)
    with replay.replayed(second, routes):
        out = second(longer)
        out.sum().backward()
    probs = (x @ second.router.T).softmax(-1)
    weights = probs.gather(1, routes[""][0])
    weights = weights / weights.sum(1, keepdim=True)
    expected = torch.zeros_like(x)
    for token in range(6):
        for slot in range(2):
            one = int(routes[""][0][token, slot])
            gate, up = (second.gate_up[one] @ x[token]).chunk(2)
            expected[token] += weights[token, slot] * (second.down[one] @ (torch.nn.functional.silu(gate) * up))
    torch.testing.assert_close(out[:6], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out[6:], second(y[:3]))  # tokens that fill up choose by themselves
    assert not torch.allclose(out[:6], free)
    torch.testing.assert_close(second(x), free)
