"""`config.json` checked key by key: what is wrong is named, with the file, and nothing crashes later for it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

from open4ov.errors import UserError
from open4ov.model import Config

WHOLE = "a whole number of at least"


@pytest.fixture
def raw(tiny_dir: Path) -> dict[str, Any]:
    return json.loads((tiny_dir / "config.json").read_text())


def refused(raw: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        Config.from_dict(raw, where="some/config.json")
    text = str(error.value)
    assert text.startswith("some/config.json: ")
    assert text.count("config.json") == 1
    return text.removeprefix("some/config.json: ")


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("num_key_value_heads", 0, f"{WHOLE} 1"),
        ("num_attention_heads", 0, f"{WHOLE} 1"),
        ("hidden_size", 256.0, f"{WHOLE} 1"),
        ("hidden_size", "48", f"{WHOLE} 1"),
        ("num_hidden_layers", True, f"{WHOLE} 1"),
        ("vocab_size", -1, f"{WHOLE} 1"),
        ("head_dim", [16], f"{WHOLE} 1"),
        ("rope_theta", "x", "a number above 0"),
        ("rope_theta", 0, "a number above 0"),
        ("rope_theta", math.inf, "a number above 0"),
        ("rope_theta", 10**400, "a number above 0"),
        ("rms_norm_eps", "x", "a number above 0"),
        ("rms_norm_eps", math.nan, "a number above 0"),
        ("rms_norm_eps", True, "a number above 0"),
        ("attention_bias", "false", "true or false"),
        ("attention_bias", 0, "true or false"),
    ],
)
def test_wrong_text_values_are_named(raw: dict[str, Any], key: str, value: object, needed: str) -> None:
    raw["text_config"][key] = value
    assert refused(raw).startswith(f"text_config.{key} must be {needed}, not ")


@pytest.mark.parametrize("rope", ["x", 5, [1]])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rope_tables_must_be_tables(raw: dict[str, Any], key: str, rope: object) -> None:
    raw["text_config"][key] = rope
    assert refused(raw) == f"text_config.{key} must be a table, not {rope!r}"


@pytest.mark.parametrize("section", ["abc", [1, 2], [4, 2, 2.0], 5, [8, -4, 4]])
def test_the_rope_sections_must_be_three_numbers(raw: dict[str, Any], section: object) -> None:
    raw["text_config"]["rope_scaling"] = {"mrope_section": section}
    assert refused(raw).startswith("text_config.mrope_section must be a list of 3 whole numbers, not ")


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("num_heads", 0, f"{WHOLE} 1"),
        ("depth", "3", f"{WHOLE} 1"),
        ("patch_size", [16, 16], f"{WHOLE} 1"),
        ("spatial_merge_size", 0, f"{WHOLE} 1"),
        ("deepstack_visual_indexes", 5, "a list of whole numbers"),
        ("deepstack_visual_indexes", ["0"], "a list of whole numbers"),
        ("initializer_range", -0.1, "a number above 0"),
    ],
)
def test_wrong_vision_values_are_named(raw: dict[str, Any], key: str, value: object, needed: str) -> None:
    raw["vision_config"][key] = value
    assert refused(raw).startswith(f"vision_config.{key} must be {needed}, not ")


def test_a_block_is_tapped_once(raw: dict[str, Any]) -> None:
    raw["vision_config"]["deepstack_visual_indexes"] = [1, 1]
    assert "deepstack_visual_indexes (1, 1) must name a block once only" in refused(raw)


@pytest.mark.parametrize("key", ["image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"])
def test_token_ids_are_tokens_and_differ(raw: dict[str, Any], key: str) -> None:
    size = raw["text_config"]["vocab_size"]
    for value in ("x", -1, 2.0):
        assert refused({**raw, key: value}) == f"{key} must be {WHOLE} 0, not {value!r}"
    for value in (size, 10**6):
        said = refused({**raw, key: value})
        assert said == f"{key} {value} must be below text_config.vocab_size ({size})"
    other = "video_token_id" if key == "image_token_id" else "image_token_id"
    assert "must all differ" in refused({**raw, key: raw[other]})
    assert refused({**raw, key: None}) == f"missing {key}"


@pytest.mark.parametrize("value", ["false", 0, 1])
def test_tying_is_true_or_false(raw: dict[str, Any], value: object) -> None:
    assert refused({**raw, "tie_word_embeddings": value}) == f"tie_word_embeddings must be true or false, not {value!r}"


def test_quantised_checkpoints_are_refused(raw: dict[str, Any]) -> None:
    said = refused({**raw, "quantization_config": {"quant_method": "fp8"}})
    assert said == "quantization_config: the weights are quantised; give the unquantised checkpoint"
    Config.from_dict({**raw, "quantization_config": None})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_experts", "8", f"text_config.num_experts must be {WHOLE} 0"),
        ("num_experts_per_tok", 9, r"text_config: num_experts_per_tok (9) must be 1 to num_experts (4)"),
        ("decoder_sparse_step", 0, f"text_config.decoder_sparse_step must be {WHOLE} 1"),
        ("mlp_only_layers", "x", "text_config.mlp_only_layers must be a list of whole numbers"),
        ("router_aux_loss_coef", -1, "text_config.router_aux_loss_coef must be a number of at least 0"),
    ],
)
def test_wrong_experts_are_named(raw: dict[str, Any], key: str, value: object, said: str) -> None:
    raw["model_type"] = "qwen3_vl_moe"
    raw["text_config"] |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    raw["text_config"] |= {"router_aux_loss_coef": 0, "mlp_only_layers": None}
    assert Config.from_dict(raw).text.mlp_only_layers == ()
    raw["text_config"][key] = value
    assert refused(raw).startswith(said)


def test_all_that_is_wrong_in_a_section_is_named_at_once(raw: dict[str, Any]) -> None:
    raw["text_config"] |= {"hidden_size": 0, "rms_norm_eps": "x"}
    said = refused(raw)
    assert "text_config.hidden_size" in said
    assert "text_config.rms_norm_eps" in said
    del raw["text_config"]["hidden_size"], raw["text_config"]["vocab_size"]
    assert refused(raw) == "text_config: missing vocab_size, hidden_size"


def test_unknown_keys_and_null_are_accepted(raw: dict[str, Any]) -> None:
    plain = Config.from_dict(raw)
    raw["new"] = raw["text_config"]["new"] = raw["vision_config"]["new"] = {"a": 1}
    raw["text_config"] |= {"rms_norm_eps": None, "initializer_range": 0.1, "rope_parameters": None}
    assert Config.from_dict(raw) == plain


def test_configs_by_hand_are_checked_without_a_file(raw: dict[str, Any]) -> None:
    config = Config.from_dict(raw)
    with pytest.raises(UserError, match=r"^text_config\.num_key_value_heads must be"):
        replace(config.text, num_key_value_heads=0)
    with pytest.raises(UserError, match=r"^vision_config\.deepstack_visual_indexes must be a tuple of"):
        replace(config.vision, deepstack_visual_indexes=[0, 1])
    with pytest.raises(UserError, match=r"^vision_config\.num_heads must be"):
        replace(config.vision, num_heads=0)
    with pytest.raises(UserError, match=r"^text_config: num_attention_heads \(3\) must be a multiple"):
        replace(config.text, num_attention_heads=3)
    with pytest.raises(UserError, match=r"^image_token_id 1000000 must be below"):
        replace(config, image_token_id=10**6)


def test_a_model_type_of_any_kind_is_refused(raw: dict[str, Any]) -> None:
    assert refused({**raw, "model_type": ["qwen3_vl"]}).startswith("model_type is ['qwen3_vl']; open4ov reads")


@pytest.mark.parametrize(("family", "size"), [(Qwen3VLConfig, 4096), (Qwen3VLMoeConfig, 2048)])
def test_what_transformers_writes_passes(family: type[Qwen3VLConfig], size: int, tmp_path: Path) -> None:
    theirs = family(vision_config={"out_hidden_size": size})
    theirs.save_pretrained(tmp_path)
    for raw in (theirs.to_dict(), json.loads((tmp_path / "config.json").read_text())):
        ours = Config.from_dict(raw)
        assert ours.text.hidden_size == size
        assert ours.text.rope_theta == 500_000
        assert ours.text.num_experts == (60 if family is Qwen3VLMoeConfig else 0)
        assert ours.vision.deepstack_visual_indexes == (8, 16, 24)
