"""What TRL's own loss function says of the cases in tests/golden/trl_losses.json: a script for TRL's interpreter.

    scripts/trl_venv.sh .venv-trl
    .venv-trl/bin/python tests/rl/trl_losses.py < CASES > tests/golden/trl_losses.json

It calls `GRPOTrainer._compute_loss` of TRL 1.16, unchanged, on log-probabilities that are given instead of computed by
a model; nothing of open4ov is imported. A case: `loss` (gspo, grpo, dapo), `logp`, `old`, `weights` (a list for each of
B responses; weights may be null), `advantages`, `low`, `high`. Added: `value`, `gradient` (by logp), `clipped_low`,
`clipped_high`. `python tests/rl/trl_losses.py --cases` prints the cases alone.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

NAMES = {"gspo": ("grpo", "sequence"), "grpo": ("grpo", "token"), "dapo": ("dapo", "token")}
"""loss -> TRL's loss_type and importance_sampling_level"""


def cases() -> list[dict[str, Any]]:
    """Random ones, their ratios on both sides of the bounds; lengths from 1 to 7; with and without weights."""
    random.seed(7)
    made: list[dict[str, Any]] = []
    for name, low, high, spread in (("gspo", 3e-4, 4e-4, 4e-4), ("grpo", 0.2, 0.2, 0.3), ("dapo", 0.2, 0.28, 0.3)):
        for weighted in (None, "token", "sequence"):
            sizes = [random.randint(1, 7) for _ in range(5)]
            old = [[round(random.uniform(-4, -0.1), 4) for _ in range(n)] for n in sizes]
            shift = [random.gauss(0, spread) for _ in sizes]
            logp = [[v + s + random.gauss(0, spread / 2) for v in row] for row, s in zip(old, shift, strict=True)]
            weights = None
            if weighted:
                weights = [[round(random.uniform(0.2, 2), 4) for _ in range(n)] for n in sizes]
                if weighted == "sequence":
                    weights = [[row[0]] * len(row) for row in weights]
            advantages = [round(random.uniform(-2, 2), 4) for _ in sizes]
            made.append(
                {"loss": name, "low": low, "high": high, "weighted": weighted, "logp": logp, "old": old,
                 "weights": weights, "advantages": advantages}
            )  # fmt: skip
    return made


def answered(case: dict[str, Any]) -> dict[str, Any]:
    import torch
    from trl import GRPOTrainer

    def padded(rows: list[list[float]], value: float = 0.0) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.float64)

    logp = padded(case["logp"]).requires_grad_()
    mask = padded([[1.0] * len(row) for row in case["logp"]])
    kind, level = NAMES[case["loss"]]
    trainer: Any = object.__new__(GRPOTrainer)
    same = SimpleNamespace(
        gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x, num_processes=1
    )
    settings = {
        "_get_per_token_logps_and_entropies": lambda *_, **__: (logp, torch.zeros_like(logp), None),
        "model": SimpleNamespace(training=True),
        "accelerator": same,
        "args": SimpleNamespace(delta=None, steps_per_generation=1),
        "_metrics": {"train": defaultdict(list)},
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": level,
        "loss_type": kind,
        "beta": 0.0,
        "epsilon_low": case["low"],
        "epsilon_high": case["high"],
        "use_vllm": case["weights"] is not None,
        "vllm_importance_sampling_correction": True,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
    }
    for name, value in settings.items():
        object.__setattr__(trainer, name, value)
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
        "completion_mask": mask,
        "advantages": torch.tensor(case["advantages"], dtype=torch.float64),
        "old_per_token_logps": padded(case["old"]),
        "num_items_in_batch": mask.sum(),
    }
    if case["weights"] is not None:
        inputs["importance_sampling_ratio"] = padded(case["weights"], 1.0)
    loss = trainer._compute_loss(None, inputs)
    loss.backward()
    gradient = [row[: len(own)] for row, own in zip(logp.grad.tolist(), case["logp"], strict=True)]
    metrics = trainer._metrics["train"]
    return {
        **case,
        "value": loss.item(),
        "gradient": gradient,
        "clipped_low": metrics["clip_ratio/low_mean"][0],
        "clipped_high": metrics["clip_ratio/high_mean"][0],
    }


def main() -> None:
    if sys.argv[1:] == ["--cases"]:
        json.dump(cases(), sys.stdout)
        return
    import trl

    asked = json.load(sys.stdin)
    source = (
        f"TRL {trl.__version__}, GRPOTrainer._compute_loss in float64, by tests/rl/trl_losses.py: "
        "`trl_losses.py --cases | PYTHON_OF_TRL trl_losses.py`"
    )
    json.dump({"source": source, "cases": [answered(case) for case in asked]}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
