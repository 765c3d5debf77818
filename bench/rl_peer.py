"""TRL's GRPOTrainer, set up as GSPO, as a worker of `python -m bench.rl`, in TRL's environment (scripts/trl_venv.sh).

    python -m bench.rl_peer SETTINGS

SETTINGS is JSON: model, data, out (folders), steps, prompts (a step), minibatches, parts (forward passes of a
mini-batch), group, response (tokens), rate, precision, threads, compile, rewards (of a group's responses, by place),
`fed` (the responses of work.json are taken, none is sampled). The vision tower is frozen by requires_grad. There is no
KL and so no reference model, no gradient checkpointing, and transformers generates: TRL's way without vLLM.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value  # pyright: ignore[reportMissingImports]
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

from bench.rl_pace import Phases, peak_gpu
from bench.sft_pace import Pace


class Timed(GRPOTrainer):
    """Says which phase is on, and keeps what the first update saw."""

    phases: Phases
    given: list[list[int]] | None
    losses: list[float]
    norms: list[float]
    scores: list[float]
    generated: int

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.phases.begin("score")
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.phases.begin("update")

    def _generate(self, prompts: list[Any]) -> Any:
        self.phases.begin("rollout")
        try:
            found = super()._generate(prompts)
            self.generated += sum(map(len, found[1]))
            return found
        finally:
            self.phases.begin("score")

    def _generate_single_turn(self, prompt_ids: Any, *rest: Any, **named: Any) -> Any:
        if self.given is None:
            return super()._generate_single_turn(prompt_ids, *rest, **named)
        return self.given[: len(prompt_ids)], None

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **named: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*arguments, **named)
        if torch.is_grad_enabled():
            self.scores.append(float(found[0].detach().mean()))
        return found

    def training_step(self, model: Any, *rest: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(model, *rest, **named)
        self.losses.append(float(loss))
        if self.given is not None and self.current_gradient_accumulation_steps == 1:
            gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
            self.norms.append(float(torch.stack(gradients).norm()))
        return loss


class Turns(TrainerCallback):
    """Hands the figures of each rollout batch over and lets the trainer wait its turn."""

    def __init__(self, pace: Pace, minibatches: int) -> None:
        self.pace, self.minibatches = pace, minibatches
        self.trainer: Timed | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        trainer = self.trainer
        assert trainer is not None
        if state.global_step % self.minibatches:
            return
        figures = {"loss": trainer.losses, "norm": trainer.norms, "logp": trainer.scores, "response": trainer.generated}
        trainer.losses, trainer.norms, trainer.scores, trainer.generated = [], [], [], 0
        self.pace.step(**figures, phases=trainer.phases.take(), gpu=peak_gpu())
        trainer.phases.take()  # the wait for the next turn is no part of any phase


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    torch.set_flush_denormal(True)
    torch._dynamo.config.recompile_limit = 64  # its layers ask for more than the usual 8
    torch.manual_seed(0)
    data = Path(told["data"])
    work = json.loads((data / "work.json").read_text())
    rows = [
        {"prompt": [{"role": "user", "content": row["question"]}], "images": [str(data / row["image"])]}
        for row in work["prompts"]
    ]
    turn = {"role": Value("string"), "content": Value("string")}
    dataset = Dataset.from_list(rows, features=Features({"prompt": List(turn), "images": List(Image())}))
    model = Qwen3VLForConditionalGeneration.from_pretrained(told["model"], dtype=torch.float32)
    model.model.visual.requires_grad_(False)
    if told["compile"]:
        for block in (*model.model.visual.blocks, *model.model.language_model.layers):
            block.compile(dynamic=True)
    rewards, group = told["rewards"], told["group"]

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [rewards[place % group] for place in range(len(completions))]

    responses = told["prompts"] * group
    config = GRPOConfig(
        output_dir=str(Path(told["out"]) / "trainer"),
        per_device_train_batch_size=responses // told["minibatches"] // told["parts"],
        gradient_accumulation_steps=told["parts"],
        steps_per_generation=told["minibatches"] * told["parts"],
        num_generations=group,
        max_completion_length=told["response"],
        generation_kwargs={"min_new_tokens": told["response"]},  # every response is of that length
        temperature=1.0,
        importance_sampling_level="sequence",
        loss_type="grpo",  # each response weighs the same: eq. 11
        epsilon=3e-4,
        epsilon_high=4e-4,
        beta=0.0,
        scale_rewards="none",
        max_steps=told["steps"] * told["minibatches"],
        learning_rate=told["rate"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=told["precision"] == "bf16",
        use_cpu=told.get("device", "cpu") == "cpu",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    pace = Pace()
    turns = Turns(pace, told["minibatches"])
    trainer = Timed(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=dataset,
        processing_class=AutoProcessor.from_pretrained(told["model"]),
        callbacks=[turns],
    )
    trainer.phases = Phases()
    trainer.given = work["responses"] if told["fed"] else None
    trainer.losses, trainer.norms, trainer.scores, trainer.generated = [], [], [], 0
    turns.trainer = trainer
    pace.begin()
    trainer.train()
    pace.end()


if __name__ == "__main__":
    main()
