"""The shape of a Qwen3-VL: what `config.json` says, typed and checked. Field names are Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar, cast

from open4ov.errors import UserError

from .checks import check_fields

MODEL_TYPE, MOE_TYPE = "qwen3_vl", "qwen3_vl_moe"
ARCHITECTURES = {
    MODEL_TYPE: "Qwen3VLForConditionalGeneration",
    MOE_TYPE: "Qwen3VLMoeForConditionalGeneration",
}

C = TypeVar("C", "TextConfig", "VisionConfig")


@dataclass(frozen=True)
class TextConfig:
    """The decoder. `mrope_section` counts the frequency pairs of (time, height, width); it sums to head_dim / 2.

    With `num_experts` above 0 the feed-forward of a layer is a mixture of experts (see `sparse`).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 128
    mrope_section: tuple[int, int, int] = (24, 20, 20)
    rope_theta: float = 5_000_000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 262_144
    attention_bias: bool = False
    initializer_range: float = 0.02
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    norm_topk_prob: bool = True
    router_aux_loss_coef: float = 0.001

    def __post_init__(self) -> None:
        check_fields(self, "text_config.", _MAY_BE_ZERO)
        if self.num_experts and not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise UserError(
                f"text_config: num_experts_per_tok ({self.num_experts_per_tok}) must be 1 to "
                f"num_experts ({self.num_experts})"
            )
        if self.num_experts and self.moe_intermediate_size < 1:
            raise UserError("text_config: num_experts needs moe_intermediate_size, the width of an expert")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"text_config: num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise UserError(
                f"text_config: mrope_section {self.mrope_section} must sum to head_dim / 2 = {self.head_dim / 2}"
            )

    def sparse(self, layer: int) -> bool:
        """Whether that decoder layer (from 0) has experts."""
        every = (layer + 1) % self.decoder_sparse_step == 0
        return self.num_experts > 0 and every and layer not in self.mlp_only_layers


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower. `deepstack_visual_indexes`: blocks whose output is also handed to the first decoder layers."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    deepstack_visual_indexes: tuple[int, ...]
    num_position_embeddings: int = 2304
    in_channels: int = 3
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    rope_theta: float = 10_000.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        check_fields(self, "vision_config.")
        if self.hidden_size % self.num_heads or self.head_dim % 4:
            raise UserError(
                f"vision_config: hidden_size / num_heads ({self.hidden_size} / {self.num_heads}) must be 4, 8, 12..."
            )
        if any(not 0 <= i < self.depth for i in self.deepstack_visual_indexes):
            raise UserError(
                f"vision_config: deepstack_visual_indexes {self.deepstack_visual_indexes} outside 0..{self.depth - 1}"
            )
        if len(set(self.deepstack_visual_indexes)) < len(self.deepstack_visual_indexes):
            raise UserError(
                f"vision_config: deepstack_visual_indexes {self.deepstack_visual_indexes} must name a block once only"
            )
        if self.side**2 != self.num_position_embeddings:
            raise UserError(f"vision_config: num_position_embeddings ({self.num_position_embeddings}) must be a square")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def side(self) -> int:
        """Side of the square grid of learned positions."""
        return round(self.num_position_embeddings**0.5)

    @property
    def patch_dim(self) -> int:
        """Numbers in one patch: channels x frames x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class Config:
    """A Qwen3-VL, dense or with experts. Token ids are the tokenizer's."""

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    tie_word_embeddings: bool = True
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        check_fields(self, "", _TOKEN_IDS)
        ids = {name: getattr(self, name) for name in _TOKEN_IDS}
        outside = {name: number for name, number in ids.items() if number >= self.text.vocab_size}
        if outside:
            raise UserError(f"{_shown(outside)} must be below text_config.vocab_size ({self.text.vocab_size})")
        if len(set(ids.values())) < len(ids):
            raise UserError(f"{_shown(ids)} must all differ")
        if self.vision.out_hidden_size != self.text.hidden_size:
            raise UserError(
                f"vision_config.out_hidden_size ({self.vision.out_hidden_size}) must equal "
                f"text_config.hidden_size ({self.text.hidden_size})"
            )
        if len(self.vision.deepstack_visual_indexes) > self.text.num_hidden_layers:
            raise UserError("vision_config.deepstack_visual_indexes: more taps than decoder layers")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config.json") -> Config:
        """Reads what `config.json` holds; `where` names the file in errors.

        Raises UserError for another model type, a missing key or an unsupported option.
        """
        try:
            return cls._read(raw)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    @classmethod
    def _read(cls, raw: Mapping[str, Any]) -> Config:
        kind = raw.get("model_type")
        if not isinstance(kind, str) or kind not in ARCHITECTURES:
            known = " and ".join(map(repr, ARCHITECTURES))
            raise UserError(f"model_type is {kind!r}; open4ov reads {known}: give a Qwen3-VL")
        text, vision = dict(_section(raw, "text_config")), dict(_section(raw, "vision_config"))
        if any(source.get("quantization_config") is not None for source in (raw, text, vision)):
            raise UserError("quantization_config: the weights are quantised; give the unquantised checkpoint")
        rope = {**_table(text, "rope_scaling", "text_config"), **_table(text, "rope_parameters", "text_config")}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type not in ("default", "mrope"):
            raise UserError(f"text_config rope_type {rope_type!r} is not supported")
        for section, name, act in ((text, "text_config", "silu"), (vision, "vision_config", "gelu_pytorch_tanh")):
            if section.get("hidden_act", act) != act:
                raise UserError(f"{name}.hidden_act {section['hidden_act']!r} is not supported; only {act!r}")
        if kind == MOE_TYPE:
            text["num_experts"] = text.get("num_experts", text.get("num_local_experts"))
            if not text["num_experts"]:
                raise UserError(f"text_config has no num_experts, which {MOE_TYPE} needs")
        else:
            text = {key: value for key, value in text.items() if key not in _MOE_FIELDS}
        text |= {key: rope[key] for key in ("rope_theta", "mrope_section") if rope.get(key) is not None}
        vision["rope_theta"] = _table(vision, "rope_parameters", "vision_config").get("rope_theta")
        if vision.get("deepstack_visual_indexes") is None:
            vision["deepstack_visual_indexes"] = (8, 16, 24)
        ids = {name: raw[name] for name in _TOKEN_IDS if raw.get(name) is not None}
        if len(ids) < len(_TOKEN_IDS):
            raise UserError(f"missing {', '.join(name for name in _TOKEN_IDS if name not in ids)}")
        tie = [source["tie_word_embeddings"] for source in (raw, text) if source.get("tie_word_embeddings") is not None]
        ends = ("bos_token_id", "eos_token_id", "pad_token_id")
        extra = {key: source[key] for source in (raw, text) for key in ends if source.get(key) is not None}
        return cls(
            text=_build(TextConfig, text, "text_config"),
            vision=_build(VisionConfig, vision, "vision_config"),
            tie_word_embeddings=tie[0] if tie else False,
            extra=extra,
            **ids,
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`, readable by transformers (4.57 and later) and by what builds on it."""
        text, vision = asdict(self.text), asdict(self.vision)
        section = list(text.pop("mrope_section"))
        text["rope_scaling"] = {"rope_type": "default", "mrope_section": section, "mrope_interleaved": True}
        kind = MOE_TYPE if self.text.num_experts else MODEL_TYPE
        if kind == MODEL_TYPE:
            text = {key: value for key, value in text.items() if key not in _MOE_FIELDS}
        else:
            text["mlp_only_layers"] = list(self.text.mlp_only_layers)
        text |= {"model_type": f"{kind}_text", "hidden_act": "silu", "attention_dropout": 0.0, "use_cache": True}
        text |= self.extra
        del vision["rope_theta"]
        vision |= {"model_type": f"{kind}_vision", "hidden_act": "gelu_pytorch_tanh"}
        vision["deepstack_visual_indexes"] = list(self.vision.deepstack_visual_indexes)
        ids = {name: getattr(self, name) for name in _TOKEN_IDS}
        return {
            "architectures": [ARCHITECTURES[kind]],
            "model_type": kind,
            "text_config": text,
            "vision_config": vision,
            "tie_word_embeddings": self.tie_word_embeddings,
            **ids,
        }


_MOE_FIELDS = (
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "decoder_sparse_step",
    "mlp_only_layers",
    "norm_topk_prob",
    "router_aux_loss_coef",
)
_MAY_BE_ZERO = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef")
_TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def _shown(ids: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in ids.items())


def _section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = raw.get(name)
    if not isinstance(section, Mapping):
        raise UserError(f"missing {name}")
    return cast(Mapping[str, Any], section)


def _table(section: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    """A table inside a section, empty where it is missing or null."""
    table = section.get(key)
    if table is not None and not isinstance(table, Mapping):
        raise UserError(f"{name}.{key} must be a table, not {table!r}")
    return cast(Mapping[str, Any], table or {})


def _build(kind: type[C], raw: Mapping[str, Any], name: str) -> C:
    """A section of the file as a dataclass: keys that are null take their defaults, unknown ones are passed over."""
    known = {f.name: raw[f.name] for f in fields(kind) if raw.get(f.name) is not None}
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in known]
    if missing:
        raise UserError(f"{name}: missing {', '.join(missing)}")
    for key, value in known.items():
        if isinstance(value, list):
            known[key] = tuple(cast(list[Any], value))
    return kind(**known)
