"""TRL's DPOTrainer as a worker of `python -m bench.dpo`, in TRL's environment (scripts/trl_venv.sh).

    python -m bench.dpo_peer SETTINGS

SETTINGS is JSON: model, data, out (folders), steps, pairs (a step), parts (forward passes of a step), beta, rate,
precision, threads, compile, reference. With `reference` it is as TRL has it for data with pictures: a second model
scores every pair. Without, that model's log-probabilities are put to zero by hand, which makes its loss that without a
reference (eq. 13) and takes away the reference's cost; TRL has no setting for that. The vision tower is frozen by
requires_grad. The template ends a response with its closing token, as ours does, without a line end behind it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value  # pyright: ignore[reportMissingImports]
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration, TrainerCallback
from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

from bench.rl_pace import Phases
from bench.sft_pace import Pace

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>' }}{% if message.role != 'assistant' %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Counting(DPOTrainer):
    """Keeps what each step saw."""

    losses: list[float]
    norms: list[float]
    scores: list[float]
    tokens: int

    def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> torch.Tensor:
        self.tokens += int(inputs["completion_mask"].sum())
        loss = super().training_step(model, inputs, *rest, **named)
        self.losses.append(float(loss))
        seen = self._metrics["train"]
        self.scores.append((seen["logps/chosen"][-1] + seen["logps/rejected"][-1]) / 2)
        if self.args.max_steps == 1:  # asked for by the check of the first step only
            gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
            self.norms.append(float(torch.stack(gradients).norm()))
        return loss


class Turns(TrainerCallback):
    """Hands the figures of each optimizer step over and lets the trainer wait its turn."""

    def __init__(self, pace: Pace, phases: Phases) -> None:
        self.pace, self.phases = pace, phases
        self.trainer: Counting | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        trainer = self.trainer
        assert trainer is not None
        figures = {
            "loss": sum(trainer.losses),  # each part gives its share of the step's mean
            "norm": sum(trainer.norms[-1:]),
            "logp": sum(trainer.scores) / len(trainer.scores),
            "tokens": trainer.tokens,
        }
        trainer.losses, trainer.norms, trainer.scores, trainer.tokens = [], [], [], 0
        self.pace.step(**figures, phases=self.phases.take())
        self.phases.take()  # the wait for the next turn is no part of a step


def zeros(**inputs: Any) -> SimpleNamespace:
    """In the place of a reference model: no log-probability at all."""
    return SimpleNamespace(log_probs=torch.zeros(inputs["labels"].shape[0], inputs["labels"].shape[1] - 1))


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    torch.set_flush_denormal(True)
    torch._dynamo.config.recompile_limit = 64  # its layers ask for more than the usual 8
    data = Path(told["data"])
    work = json.loads((data / "work.json").read_text())
    rows = [
        {
            "prompt": [{"role": "user", "content": row["question"]}],
            "images": [str(data / row["image"])],
            **{name: [{"role": "assistant", "content": pair[name]}] for name in ("chosen", "rejected")},
        }
        for row, pair in zip(work["prompts"], work["pairs"], strict=True)
    ]
    turns_of = List({"role": Value("string"), "content": Value("string")})
    names = ("prompt", "chosen", "rejected")
    features = Features({**dict.fromkeys(names, turns_of), "images": List(Image())})
    processor = AutoProcessor.from_pretrained(told["model"])
    processor.chat_template = TEMPLATE
    model = Qwen3VLForConditionalGeneration.from_pretrained(told["model"], dtype=torch.float32)
    model.model.visual.requires_grad_(False)
    if told["compile"]:
        for block in (*model.model.visual.blocks, *model.model.language_model.layers):
            block.compile(dynamic=True)
    config = DPOConfig(
        output_dir=str(Path(told["out"]) / "trainer"),
        per_device_train_batch_size=told["pairs"] // told["parts"],
        gradient_accumulation_steps=told["parts"],
        beta=told["beta"],
        max_length=None,
        max_steps=told["steps"],
        learning_rate=told["rate"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=told["precision"] == "bf16",
        use_cpu=True,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    pace, phases = Pace(), Phases()
    turns = Turns(pace, phases)
    trainer = Counting(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows, features=features),
        processing_class=processor,
        callbacks=[turns],
    )
    if not told["reference"]:
        trainer.ref_model = zeros
    trainer.losses, trainer.norms, trainer.scores, trainer.tokens = [], [], [], 0
    turns.trainer = trainer
    pace.begin()
    phases.begin("step")
    trainer.train()
    pace.end()


if __name__ == "__main__":
    main()
