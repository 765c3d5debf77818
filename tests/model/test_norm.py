"""The norm with a gradient of its own, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from open4ov.model.norm import RMSNorm


@pytest.mark.parametrize("shape", [(7, 48), (5, 3, 16)])
def test_value_and_gradient(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(shape[-1], eps=1e-3)
    torch.nn.init.uniform_(norm.weight, -2, 2)
    x, up = torch.randn(shape, requires_grad=True), torch.randn(shape)
    found = norm(x)
    expected = F.rms_norm(x, (shape[-1],), norm.weight, 1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    parameters = (x, norm.weight)
    for one, other in zip(
        torch.autograd.grad(found, parameters, up), torch.autograd.grad(expected, parameters, up), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Input #0 requires gradient")
def test_numerical_gradient() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(6, eps=1e-2)  # computes in float32: steps and tolerances are that coarse
    x = torch.randn(4, 6, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,), eps=1e-2, atol=1e-3, rtol=1e-2)


def test_types() -> None:
    """Half precision comes out as it went in; under autocast a float32 row comes out in autocast's type."""
    norm, x = RMSNorm(8, 1e-6), torch.randn(3, 8)
    assert norm(x).dtype == torch.float32
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x.bfloat16()).float(), norm(x), rtol=2e-2, atol=2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x).dtype == torch.bfloat16
