"""Other multimodal models: any `AutoModelForImageTextToText` of transformers, in the place of our Qwen3-VL.

What it does not do, since transformers' models cannot: documents are padded, not packed; images and prompts that
documents share are computed for each; a frozen vision tower is run again at each step; `torch.compile` is not applied.

Shapes: T tokens of all documents end to end, B documents, L longest, N targets, D hidden, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from open4ov.errors import UserError

from .hf_batch import HFBatch, HFEncoded, pack
from .hf_files import LOCAL, library, model_config
from .hf_processing import HFProcessor
from .losses import nll_sum, score
from .trainable import Trainable

LOGITS_AT_ONCE = 2**26
"""Logits held in memory at a time by `log_probs`, where the head can be applied apart from the model."""

PROJECTORS = ("projector", "merger", "connector", "embed_vision", "aligner", "image_newline")
"""What families call that which turns a tower's features into tokens of the language model."""

__all__ = ["HFBatch", "HFEncoded", "HFModel", "HFProcessor", "pack"]


class HFModel(Trainable[HFBatch, Any]):
    """Wraps a model of transformers, which stays reachable as `network`. Features of images, where a method takes
    `vision`, are what `encode_images` gave for the same batch."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        if network.base_model is network or not isinstance(network.get_output_embeddings(), nn.Module):
            raise UserError(f"{type(network).__name__}: cannot tell its head from its body; the hf adapter needs both")
        self._forward = set(inspect.signature(network.base_model.forward).parameters)
        self.plain_head = _head_is_plain(network)
        """Whether logits are the head's weight times the final hidden states. Where the family changes them after
        the head (a soft cap, a scale), or the head has a bias, losses go through the family's own logits."""

    @classmethod
    def from_pretrained(cls, directory: Path | str, dtype: torch.dtype = torch.float32) -> HFModel:
        """Reads a directory, in evaluation mode. Raises UserError without transformers, for an unknown family, for
        missing, pickled or incomplete weights. Tensors that the family does not know are left out."""
        directory = Path(directory)
        config = model_config(directory)
        try:
            network, report = library().AutoModelForImageTextToText.from_pretrained(
                directory, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL
            )
        except Exception as error:  # transformers raises what its parts raise
            raise UserError(f"{directory}: transformers cannot load the model: {error}") from error
        missing = sorted(report["missing_keys"])
        if missing:  # transformers would go on with random ones
            more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            raise UserError(f"{directory}: the weights lack {', '.join(missing[:8])}{more}")
        return cls(network.eval())

    def save_pretrained(self, directory: Path | str) -> None:
        """Writes `config.json`, `generation_config.json` and safetensors, in the type that the weights are held in."""
        self.network.save_pretrained(Path(directory))

    @property
    def device(self) -> torch.device:
        return self.network.device

    def pack(self, documents: Sequence[HFEncoded]) -> HFBatch:
        """The documents as a batch, padded on the right."""
        return pack(documents)

    def encode_images(self, batch: HFBatch) -> Any:
        """Features of all images of the batch, in the family's own form; None when it has no images, or the family no
        entry for images or no way to take their features back."""
        encode = getattr(self.network.base_model, "get_image_features", None)
        if encode is None or "pixel_values" not in batch.inputs or "mm_encoder_outputs" not in self._forward:
            return None
        batch = self._moved(batch)
        wanted = inspect.signature(encode).parameters
        return encode(**{k: v for k, v in batch.inputs.items() if k in wanted}, return_dict=True)

    def hidden_states(self, batch: HFBatch, vision: Any = None) -> Tensor:
        """Final, normalised hidden states [T, D]."""
        batch = self._moved(batch)
        out = self.network.base_model(**self._inputs(batch, vision), use_cache=False, return_dict=True)
        return out.last_hidden_state.flatten(0, 1)[batch.slots]

    def loss(self, batch: HFBatch, vision: Any = None) -> Tensor:
        """Mean negative log-likelihood (nats a token) over the batch's targets; a scalar. 0 for a batch without any.

        No load-balancing loss is added for families with experts."""
        batch = self._moved(batch)
        at = batch.predicted
        ids = batch.input_ids[at]
        if self.plain_head:
            hidden = self.hidden_states(batch, vision)
            total = nll_sum(hidden[at - 1], self.network.get_output_embeddings().weight, ids)
        else:
            logits = self._target_logits(batch, vision)
            total = nn.functional.cross_entropy(logits.float(), ids, reduction="sum")
        return total / max(len(at), 1)

    def log_probs(self, batch: HFBatch, vision: Any = None, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """log p(token | what stands before it in its document) [T] at `temperature`, and the entropy [T] in nats of the
        distribution that the token was drawn from (without gradient). Both 0 where `batch.targets` is False and at the
        first token of each document."""
        batch = self._moved(batch)
        at = batch.predicted
        ids = batch.input_ids[at]
        if self.plain_head:
            head = self.network.get_output_embeddings()
            rows = max(1, LOGITS_AT_ONCE // len(head.weight))
            values, entropies = score(head, self.hidden_states(batch, vision)[at - 1], ids, temperature, rows)
        else:
            logits = self._target_logits(batch, vision)
            values, entropies = score(lambda part: part, logits, ids, temperature, max(1, len(ids)))
        out = values.new_zeros(len(batch.input_ids))
        return out.index_copy(0, at, values), out.index_copy(0, at, entropies)

    def generate(
        self, documents: Sequence[HFEncoded], max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """Continues each document, by at most `max_tokens` tokens, up to and with its end-of-turn token.

        The documents are encoded with `generate=True`. `temperature` 0 takes the likeliest token; above it, tokens are
        drawn from the whole distribution: what `generation_config.json` says of top-k, top-p and penalties is not used,
        its end tokens are. What is drawn depends on what else is in the batch, what is likeliest does not.
        """
        batch = self._moved(pack(documents, left=True))
        ends = self.network.generation_config.eos_token_id
        ends: list[int] = [ends] if isinstance(ends, int) else list(ends or ())
        sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
        config = library().GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=temperature > 0,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else int(batch.input_ids[-1]),
            **sampling,
        )
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            out = self.network.generate(**batch.inputs, generation_config=config)
        rows: list[list[int]] = out[:, batch.inputs["input_ids"].shape[1] :].tolist()
        return [_until(row, ends) for row in rows]

    def vision_parameters(self) -> list[nn.Parameter]:
        """Every parameter outside the language model, its embedding and its head: tower, projector, separators.

        Raises UserError for a family that has no language model of its own within it."""
        network = self.network
        language = network.get_decoder()
        if language is network or language is network.base_model:
            raise UserError(
                f"{type(network).__name__}: cannot tell its vision tower from its language model; set freeze_vision: "
                "false"
            )
        parts = (language, network.get_input_embeddings(), network.get_output_embeddings())
        known = {id(p) for part in parts for p in part.parameters()}
        return [p for p in self.parameters() if id(p) not in known]

    def merger_parameters(self) -> list[nn.Parameter]:
        """Those outside the language model that are named as projectors are. Raises UserError when none is."""
        vision = {id(p) for p in self.vision_parameters()}
        named = [p for name, p in self.named_parameters() if id(p) in vision and any(w in name for w in PROJECTORS)]
        if not named:
            raise UserError(
                f"{type(self.network).__name__}: cannot tell its projector from its vision tower; use freeze_vision "
                "instead of parts.vision and parts.merger"
            )
        return named

    def word_parameters(self) -> list[Tensor]:
        """Embedding and, when it is not tied to it, head: [V, D] each."""
        embedding = self.network.get_input_embeddings().weight
        head = self.network.get_output_embeddings().weight
        return [embedding] if head is embedding else [embedding, head]

    def blocks(self) -> list[nn.Module]:
        """Raises UserError: what may be compiled differs from family to family."""
        raise UserError(f"sft.compile: the hf adapter does not compile {type(self.network).__name__}; set it to false")

    def _moved(self, batch: HFBatch) -> HFBatch:
        return batch.to(self.device, self.network.dtype)

    def _inputs(self, batch: HFBatch, vision: Any) -> dict[str, Any]:
        """What the network's forward takes. Raises UserError for image tokens without any picture."""
        if vision is None:
            config = self.network.config
            token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
            if token is not None and "pixel_values" not in batch.inputs and bool((batch.input_ids == token).any()):
                count = int((batch.input_ids == token).sum())
                raise UserError(f"a batch with {count} image tokens has no pictures; encode it with them")
            return batch.inputs
        rest: dict[str, Any] = {k: v for k, v in batch.inputs.items() if k != "pixel_values"}
        return {**rest, "mm_encoder_outputs": {"image": vision}}

    def _target_logits(self, batch: HFBatch, vision: Any) -> Tensor:
        """The family's own logits [N, V] from which the targets are predicted. All tokens' logits are held in between
        where the family's forward has no `logits_to_keep`."""
        inputs = self._inputs(batch, vision)
        mask = torch.zeros_like(batch.inputs["attention_mask"], dtype=torch.bool)
        mask.view(-1)[batch.slots[batch.predicted - 1]] = True
        if "logits_to_keep" in inspect.signature(self.network.forward).parameters:
            return self.network(**inputs, logits_to_keep=mask, use_cache=False, return_dict=True).logits
        return self.network(**inputs, use_cache=False, return_dict=True).logits[mask]


@torch.no_grad()
def _head_is_plain(network: Any) -> bool:
    """Whether a family's logits are `head.weight` times the final hidden states and nothing else.

    Seen rather than listed: one token goes through the model while the head's output is replaced by numbers large
    enough for any cap to change, and both what reaches the head and what becomes of its output must be unchanged.
    """
    head = network.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return False
    seen: dict[str, Tensor] = {}

    def after_body(_module: nn.Module, _args: Any, output: Any) -> None:
        seen["body"] = output.last_hidden_state

    def after_head(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["into head"] = args[0]
        seen["logits"] = torch.linspace(-100, 100, output.shape[-1], device=output.device).to(output).expand_as(output)
        return seen["logits"]

    hooks = [network.base_model.register_forward_hook(after_body), head.register_forward_hook(after_head)]
    token = torch.zeros(1, 1, dtype=torch.long, device=network.device)
    try:
        out = network(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False, return_dict=True)
    except Exception:  # a family that cannot read a lone token: its own logits are right in any case
        return False
    finally:
        for hook in hooks:
            hook.remove()
    return (
        len(seen) == 3
        and torch.equal(seen["body"], seen["into head"])
        and torch.equal(out.logits.float(), seen["logits"].float())
    )


def _until(row: list[int], ends: list[int]) -> list[int]:
    """The tokens up to and with the first that ends; the rest is padding."""
    stop = next((place for place, token in enumerate(row) if token in ends), len(row))
    return row[: stop + 1]
