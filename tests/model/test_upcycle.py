"""Upcycling: the cut changes nothing until a token leaves experts out."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from oracle import conversations

from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.model.moe import MoE
from open4ov.model.upcycle import upcycle


def test_with_all_experts_and_a_blind_router_it_is_the_dense_model(tiny_dir: Path) -> None:
    dense, batch = Qwen3VL.from_pretrained(tiny_dir), pack(conversations(Processor.from_pretrained(tiny_dir))["batch"])
    sparse = upcycle(dense, experts=4, top_k=4)
    with torch.no_grad():
        for layer in sparse.text.layers:
            cast(MoE, layer.mlp).router.zero_()
        torch.testing.assert_close(sparse.hidden_states(batch), dense.hidden_states(batch), rtol=1e-4, atol=1e-5)
        fewer = upcycle(dense, experts=4, top_k=2)
        assert float((fewer.hidden_states(batch) - dense.hidden_states(batch)).abs().max()) > 0.1


def test_it_has_the_parameters_of_the_dense_model_and_routers(tiny_dir: Path, tmp_path: Path) -> None:
    dense = Qwen3VL.from_pretrained(tiny_dir)
    sparse = upcycle(dense, experts=5, top_k=2, aux_loss=0.25, seed=3)
    routers = sum(cast(MoE, layer.mlp).router.numel() for layer in sparse.text.layers)
    count = [sum(p.numel() for p in model.parameters()) for model in (sparse, dense)]
    assert count[0] == count[1] + routers
    assert sparse.config.text.router_aux_loss_coef == 0.25
    sparse.save_pretrained(tmp_path)
    again = Qwen3VL.from_pretrained(tmp_path)
    assert again.config == sparse.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), sparse.parameters(), strict=True))


def test_what_cannot_be_cut(tiny_dir: Path) -> None:
    dense = Qwen3VL.from_pretrained(tiny_dir)
    with pytest.raises(UserError, match="intermediate_size 80 cannot be cut into 7 experts"):
        upcycle(dense, experts=7, top_k=2)
    with pytest.raises(UserError, match=r"num_experts_per_tok \(5\) must be 1 to num_experts \(4\)"):
        upcycle(dense, experts=4, top_k=5)
    with pytest.raises(UserError, match="has 4 experts a layer already"):
        upcycle(upcycle(dense, experts=4, top_k=2), experts=2, top_k=1)
