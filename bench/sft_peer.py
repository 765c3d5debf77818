"""TRL's SFTTrainer as a worker of `python -m bench.sft`, in TRL's environment (scripts/trl_venv.sh).

    python -m bench.sft_peer SETTINGS

SETTINGS is JSON: model and data (folders), out (the trained model goes there), batch (samples of a forward pass),
accumulation, grouped (length grouping), compile, precision (bf16 or fp32), workers (of the data loader), epochs, rate,
most (steps), device. The vision tower is frozen by requires_grad, loss falls on the assistant's content and its closing
token only (TRL's `assistant_only_loss`), the optimizer is the fused AdamW.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value  # pyright: ignore[reportMissingImports]
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration, TrainerCallback
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

from bench.sft_pace import Pace

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{{ '<|im_end|>' }}"
    "{% endgeneration %}{{ '\\n' }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)
"""The shipped template, with the marks between which TRL learns what is to be predicted"""


class Counting(SFTTrainer):
    """Counts what the steps computed: tokens, slots with padding, predicted tokens."""

    counts: dict[str, int]
    losses: list[float]

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> torch.Tensor:
        counts = self.counts
        counts["samples"] += len(inputs["input_ids"])
        counts["tokens"] += int(inputs["attention_mask"].sum())
        counts["slots"] += inputs["attention_mask"].numel()
        counts["targets"] += int((inputs["labels"][:, 1:] != -100).sum())
        loss = super().training_step(model, inputs, *rest, **named)
        self.losses.append(float(loss))
        return loss


class Turns(TrainerCallback):
    """Hands the figures of each optimizer step over and lets the trainer wait its turn."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.trainer: Counting | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        trainer = self.trainer
        assert trainer is not None
        # with accumulation each micro-batch gives its share of the step's mean
        figures = {"loss": sum(trainer.losses), **trainer.counts}
        trainer.losses, trainer.counts = [], dict.fromkeys(trainer.counts, 0)
        self.pace.step(**figures)


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    torch.set_flush_denormal(True)
    torch._dynamo.config.recompile_limit = 64  # its layers ask for more than the usual 8
    torch.manual_seed(0)
    data = Path(told["data"])
    rows = [
        {
            "messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}],
            "images": [str(data / row["image"])],
            "length": row["length"],
        }
        for row in told["rows"]
    ]
    turn = {"role": Value("string"), "content": Value("string")}
    features = Features({"messages": List(turn), "images": List(Image()), "length": Value("int64")})
    dataset = Dataset.from_list(rows, features=features)
    processor = AutoProcessor.from_pretrained(told["model"])
    processor.chat_template = TEMPLATE
    model = Qwen3VLForConditionalGeneration.from_pretrained(told["model"], dtype=torch.float32)
    model.model.visual.requires_grad_(False)
    if told["compile"] == "blocks":
        for block in (*model.model.visual.blocks, *model.model.language_model.layers):
            block.compile(dynamic=True)
    config = SFTConfig(
        output_dir=str(Path(told["out"]) / "trainer"),
        per_device_train_batch_size=told["batch"],
        gradient_accumulation_steps=told["accumulation"],
        num_train_epochs=told["epochs"],
        max_steps=told.get("most", -1),
        learning_rate=told["rate"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta2=0.95,
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=told["precision"] == "bf16",
        use_cpu=told["device"] == "cpu",
        torch_compile=told["compile"] == "model",
        gradient_checkpointing=False,
        train_sampling_strategy="group_by_length" if told["grouped"] else told.get("order", "random"),
        length_column_name="length",
        remove_unused_columns=False,  # else the lengths are dropped before the sampler sees them
        dataloader_num_workers=told["workers"],
        dataloader_persistent_workers=told["workers"] > 0,
        assistant_only_loss=True,
        max_length=None,
        report_to=[],
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    pace = Pace()
    turns = Turns(pace)
    trainer = Counting(model=model, args=config, train_dataset=dataset, processing_class=processor, callbacks=[turns])
    trainer.counts = dict.fromkeys(("samples", "tokens", "slots", "targets"), 0)
    trainer.losses = []
    turns.trainer = trainer
    pace.begin()
    trainer.train()
    model.save_pretrained(Path(told["out"]) / "model")
    pace.end(total=trainer.state.global_step)


if __name__ == "__main__":
    main()
