"""LoRA adapters as PEFT writes them: a folder of `adapter_config.json` and `adapter_model.safetensors`.

Read only, and only what computes as our own does: plain LoRA on the decoder's linear layers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from open4ov.errors import UserError

from .checkpoint import hf_name
from .files import read_json

if TYPE_CHECKING:
    from .qwen3_vl import Qwen3VL

_PREFIX = "base_model.model."
_PARTS = {".lora_A.weight": ".lora_a", ".lora_B.weight": ".lora_b"}
_OTHERS = ("use_dora", "alpha_pattern", "modules_to_save", "lora_bias", "use_qalora", "layer_replication",
           "trainable_token_indices", "alora_invocation_tokens")  # fmt: skip
"""Settings under which an adapter computes something else, when they hold anything"""


def read_peft(model: Qwen3VL, folder: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors by our names, and the scale of each layer's: alpha / rank, or alpha / sqrt(rank) with `use_rslora`.

    Raises UserError for a missing or unreadable file, another kind of adapter than LoRA, settings that are not read,
    and tensors of layers that the model's decoder has not.
    """
    where = folder / "adapter_config.json"
    settings: dict[str, Any] = read_json(where)
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{where}: peft_type is {settings.get('peft_type')!r}; only LORA is read")
    for name in _OTHERS:
        if settings.get(name):
            raise UserError(f"{where}: {name} is not read; merge the adapter into its model with PEFT instead")
    if settings.get("bias", "none") != "none":
        raise UserError(f"{where}: bias must be none; merge the adapter into its model with PEFT instead")
    alpha = settings.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"{where}: lora_alpha must be a number, not {alpha!r}")
    path = folder / "adapter_model.safetensors"
    layers = {
        hf_name(f"{name}.weight").removesuffix(".weight"): name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("text.layers.")
    }
    state: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                state[_ours(path, key, layers)] = file.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no adapters: {error}") from None
    ranks = {
        name.rpartition(".")[0]: tensor.shape[0] if tensor.dim() else 1
        for name, tensor in state.items()
        if name.endswith(".lora_a")
    }
    root = bool(settings.get("use_rslora"))
    owners = {name.rpartition(".")[0] for name in state}
    return state, {owner: alpha / _root(ranks.get(owner, 1), root) for owner in owners}


def _root(rank: int, root: bool) -> float:
    return math.sqrt(max(rank, 1)) if root else max(rank, 1)


def _ours(path: Path, key: str, layers: dict[str, str]) -> str:
    for theirs, ours in _PARTS.items():
        layer = layers.get(key.removeprefix(_PREFIX).removesuffix(theirs))
        if key.startswith(_PREFIX) and key.endswith(theirs) and layer is not None:
            return layer + ours
    raise UserError(f"{path}: {key} belongs to no linear layer of this model's decoder")
