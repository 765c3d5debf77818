"""Offline RL (paper §4.2.3, stage 2): reference-free DPO on hallucination and brevity pairs; vision frozen.

The reference model is not merely ignored: there is none (eq. 13). A stage leaves model/, pairs.parquet, curve.json and
summary.json.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from open4ov import memory, schedules, training
from open4ov.engine import Engine, VisionCache
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import DpoSection
from open4ov.rl import hallucination
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.rl.rollout import encoded_prompts
from open4ov.rl.tasks import Task
from open4ov.sample import Sample
from open4ov.store import read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun


def loss(
    chosen_logp: Tensor,
    rejected_logp: Tensor,
    beta: float,
    nll_weight: float = 0.0,
    chosen_lengths: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Mean of -log sigmoid(beta (log p(chosen) - log p(rejected))) (eq. 13), and figures to watch.

    chosen_logp, rejected_logp [B]: summed log-probabilities of whole responses. With `nll_weight` the chosen
    responses' negative log-likelihood a token is added (needs `chosen_lengths` [B], tokens): nothing else keeps their
    probability from falling with the rejected ones'. Raises ValueError when the lengths are missing.
    """
    margin = beta * (chosen_logp - rejected_logp)
    value = -F.logsigmoid(margin).mean()
    figures = {"preference_loss": float(value.detach()), "accuracy": float((margin > 0).float().mean())}
    figures |= {"margin": float(margin.detach().mean()), "chosen_logp": float(chosen_logp.detach().mean())}
    figures["rejected_logp"] = float(rejected_logp.detach().mean())
    if nll_weight:
        if chosen_lengths is None:
            raise ValueError("nll_weight needs chosen_lengths")
        nll = -(chosen_logp / chosen_lengths).mean()
        figures["nll"] = float(nll.detach())
        value = value + nll_weight * nll
    return value, figures


def run(run: StageRun) -> None:
    """The stage `dpo`: makes pairs with the RL model's own answers and trains it on them."""
    section = run.recipe.dpo
    torch.set_flush_denormal(True)
    start = run.inputs["rl"] / "model"
    model, processor = Qwen3VL.from_pretrained(start), Processor.from_pretrained(start)
    samples = [
        sample
        for name in ("samples.parquet", "general.parquet")
        for sample in read_samples(run.inputs["data"] / name)
        if sample.split == "train"
    ]
    counts: dict[str, int] = {}
    pairs: list[Sample] = []
    if section.pairs:
        pairs, counts = hallucination.build(
            samples, section.pairs, Engine(model, processor), run.images.get, run.seed, run.progress
        )
    write_samples(run.out / "pairs.parquet", pairs)
    curve = fit(model, processor, pairs, run.images.get, section, run.seed, run.progress, run.log)
    model.save_pretrained(run.out / "model")
    processor.save_pretrained(run.out / "model")
    summary = {"pairs": len(pairs), "counts": counts, "steps": len(curve)}
    write_json(run.out / "curve.json", curve)
    write_json(run.out / "summary.json", summary)


def fit(
    model: Qwen3VL,
    processor: Processor,
    pairs: Sequence[Sample],
    image: Callable[[str], Image.Image],
    section: DpoSection,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains the model in place; gives the curve. Prompt and image of a pair are computed once for both responses."""
    training.freeze_vision(model)
    optimizer = training.adamw(model, section.learning_rate)
    pictures = VisionCache(model, processor)
    order: list[int] = []
    for epoch in range(section.epochs):
        once = list(range(len(pairs)))
        random.Random(f"dpo {seed} {epoch}").shuffle(once)
        order += once
    steps = -(-len(order) // section.batch)
    curve: list[dict[str, Any]] = []
    for step in range(steps):
        began = time.monotonic()
        batch = [pairs[i] for i in order[step * section.batch : (step + 1) * section.batch]]
        tasks = [Task(pair, pair.messages[:-1], [image(sha) for sha in pair.images]) for pair in batch]
        responses = [[_tokens(processor, text) for text in _texts(pair)] for pair in batch]
        groups = SharedPrefix.build(encoded_prompts(processor, tasks, pictures), responses)
        logp, _ = log_probs(model, groups)
        sums = logp.new_zeros(2 * len(batch)).index_add(0, groups.response, logp)
        lengths = torch.bincount(groups.response)[::2]
        value, figures = loss(sums[::2], sums[1::2], section.beta, section.nll_weight, lengths)
        value.backward()
        rate = section.learning_rate * schedules.warmup_cosine(step, steps, 0.1)
        norm = training.step(model, optimizer, rate, grad_clip=1.0)
        memory.trim()
        point = {
            "step": step + 1,
            "loss": round(float(value.detach()), 5),
            **{name: round(figure, 5) for name, figure in figures.items()},
            "grad_norm": round(norm, 4),
            "lr": rate,
        }
        curve.append(point)
        if progress:
            progress(f"DPO, accuracy {figures['accuracy']:.2f}", step + 1, steps)
        if log:
            log({**point, "seconds": round(time.monotonic() - began, 2)})
    return curve


def _texts(pair: Sample) -> tuple[str, str]:
    """The chosen and the rejected response. Raises ValueError for a sample that is no pair."""
    if not pair.rejected or pair.messages[-1].role != "assistant":
        raise ValueError(f"sample {pair.id} is no preference pair: it needs a chosen and a rejected response")
    return pair.messages[-1].text, pair.rejected[-1].text


def _tokens(processor: Processor, text: str) -> list[int]:
    return [*processor.tokenize(text), processor.eos_id]
