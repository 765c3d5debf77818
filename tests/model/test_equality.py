"""Our Qwen3-VL computes what transformers' does: the oracle reads the very directory that we wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import conversations, inputs, reference
from tiny import tiny_config
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from open4ov.model import Encoded, Processor, Qwen3VL, pack

CASES = ("text", "one image", "several images", "batch")


def both(model: Qwen3VL, oracle: Qwen3VLForConditionalGeneration, documents: list[Encoded], processor: Processor):
    """Logits of all real tokens, ours and the oracle's, [T, V]."""
    theirs = oracle(**inputs(documents, processor)).logits
    theirs = torch.cat([row[: len(d)] for row, d in zip(theirs, documents, strict=True)])
    return model.logits(model.hidden_states(pack(documents))), theirs


def largest_difference(a: Tensor, b: Tensor) -> float:
    assert b.abs().max() > 1, "logits too small for the comparison to mean anything"
    return float((a - b).abs().max())


@pytest.fixture(scope="module", params=["tied", "untied"])
def directory(request: pytest.FixtureRequest, tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "tied":
        return tiny_dir
    directory = tmp_path_factory.mktemp("untied")
    processor = Processor.from_pretrained(tiny_dir)
    processor.save_pretrained(directory)
    model = Qwen3VL(tiny_config(processor, tie=False), seed=2)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(directory: Path, case: str) -> None:
    processor, model = Processor.from_pretrained(directory), Qwen3VL.from_pretrained(directory)
    documents = conversations(processor)[case]
    with torch.no_grad():
        assert largest_difference(*both(model, reference(directory), documents, processor)) <= 1e-4


def test_blocks_tapped_out_of_order_have_the_mergers_of_the_list(tiny_dir: Path, tmp_path: Path) -> None:
    """The features come in the order of the blocks, each through the merger at its block's place in the list."""
    processor = Processor.from_pretrained(tiny_dir)
    config = tiny_config(processor)
    config = replace(config, vision=replace(config.vision, deepstack_visual_indexes=(2, 0)))
    model = Qwen3VL(config, seed=5)
    model.save_pretrained(tmp_path)
    documents = conversations(processor)["several images"]
    with torch.no_grad():
        assert largest_difference(*both(model, reference(tmp_path), documents, processor)) <= 1e-4


def test_half_precision_is_no_coarser_than_transformers(directory: Path) -> None:
    """Both in bfloat16, against the exact logits: our rounding errors are not the larger ones."""
    processor, exact = Processor.from_pretrained(directory), Qwen3VL.from_pretrained(directory)
    documents = conversations(processor)["batch"]
    with torch.no_grad():
        ours, theirs = both(
            Qwen3VL.from_pretrained(directory, torch.bfloat16),
            reference(directory, torch.bfloat16),
            documents,
            processor,
        )
        wanted = exact.logits(exact.hidden_states(pack(documents)))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    errors = [float((x.float() - wanted).square().mean().sqrt()) for x in (ours, theirs)]
    assert 0 < errors[0] <= 1.2 * errors[1]


def test_gradients_equal_transformers(directory: Path) -> None:
    processor, model, oracle = (
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
    oracle(**batch, labels=labels).loss.backward()
    pairs = {
        "model.visual.patch_embed.proj.weight": model.vision.patch.weight,
        "model.visual.pos_embed.weight": model.vision.position.weight,
        "model.visual.blocks.2.attn.qkv.weight": model.vision.blocks[2].attention.qkv.weight,
        "model.visual.deepstack_merger_list.1.linear_fc1.weight": model.vision.taps[1].fc1.weight,
        "model.language_model.embed_tokens.weight": model.text.embed.weight,
        "model.language_model.layers.0.self_attn.k_proj.weight": model.text.layers[0].attention.k.weight,
        "model.language_model.layers.1.self_attn.q_norm.weight": model.text.layers[1].attention.q_norm.weight,
        "model.language_model.layers.2.mlp.down_proj.weight": model.text.layers[2].mlp.down.weight,
    }
    for name, parameter in pairs.items():
        theirs = oracle.get_parameter(name).grad
        assert theirs is not None
        assert parameter.grad is not None
        assert theirs.abs().max() > 1e-4, name
        torch.testing.assert_close(parameter.grad.reshape(theirs.shape), theirs, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("tie", [True, False])
def test_reads_what_transformers_writes(tiny_dir: Path, tmp_path: Path, tie: bool) -> None:
    processor = Processor.from_pretrained(tiny_dir)
    torch.manual_seed(3)
    config = Qwen3VLConfig.from_pretrained(tiny_dir)
    config.tie_word_embeddings = tie
    oracle = Qwen3VLForConditionalGeneration(config).eval()
    oracle.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = Qwen3VL.from_pretrained(tmp_path)
    documents = conversations(processor)["batch"]
    with torch.no_grad():
        ours, theirs = both(model, oracle, documents, processor)
    assert model.config.tie_word_embeddings is tie
    assert largest_difference(ours, theirs) <= 1e-4


def test_positions_equal_transformers(tiny_dir: Path) -> None:
    processor, oracle = Processor.from_pretrained(tiny_dir), reference(tiny_dir)
    for document in conversations(processor)["batch"]:
        batch = inputs([document], processor)
        positions, delta = oracle.model.get_rope_index(
            batch["input_ids"], batch["mm_token_type_ids"], image_grid_thw=batch.get("image_grid_thw")
        )
        assert torch.equal(document.positions, positions[:, 0])
        assert document.next_position == len(document) + int(delta)
