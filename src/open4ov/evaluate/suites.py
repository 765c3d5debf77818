"""Asks a model everything and writes down what it said (paper §6).

General abilities, text only, the vertical in English and Chinese, reasoning (greedy, and sampled at temperature 1 for
pass@1, pass@k, diversity and length), and the modality-bias suites. Everything goes through the engine in one call:
equal pictures and prompts are computed once. `results.json` is described in `scores.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from open4ov import assets, training
from open4ov.engine import Completion, Engine, Request
from open4ov.evaluate import bias, items
from open4ov.evaluate.items import Question
from open4ov.evaluate.metrics import RULES
from open4ov.evaluate.scores import Answer, differences, read_answers, summarise, write_answers
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import EvaluateSection
from open4ov.store import ImageStore, write_json

if TYPE_CHECKING:
    from open4ov.graph import StageRun

GALLERY = 8
"""Questions of each suite whose pictures are kept for the report."""

Progress = Callable[[str, float, float], None]


def evaluate(
    model: Qwen3VL, processor: Processor, section: EvaluateSection, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """The figures of one model: `suites`, `groups` and `lengths` of results.json."""
    return summarise(ask(model, processor, section, seed, progress), section.confidence)


def run(run: StageRun, model: str) -> None:
    """The stage `evaluate_<model>`: writes results.json, answers.parquet and summary.json.

    `model` is `base` or the name of the stage that trained it. With earlier evaluations among the inputs, results.json
    has the paired differences from each of them.
    """
    folder = assets.base_dir(run.recipe.model) if model == "base" else run.inputs[model] / "model"
    section = run.recipe.evaluate
    answers = ask(
        Qwen3VL.from_pretrained(folder),
        Processor.from_pretrained(folder),
        section,
        run.seed,
        run.progress,
        run.images,
    )
    results = {
        "schema": 1,
        "model": model,
        "seed": run.seed,
        **section.model_dump(include={"items", "samples", "confidence"}),
        **summarise(answers, section.confidence),
        "differences": {
            name.removeprefix("evaluate_"): differences(answers, _answers(path), section.confidence)
            for name, path in run.inputs.items()
            if name.startswith("evaluate_")
        },
    }
    write_answers(run.out / "answers.parquet", answers)
    write_json(run.out / "results.json", results)
    figures = {name: row["score"] for name, row in (results["groups"] | results["suites"]).items()}
    write_json(run.out / "summary.json", figures)
    run.log(figures)


def ask(
    model: Qwen3VL,
    processor: Processor,
    section: EvaluateSection,
    seed: int,
    progress: Progress | None = None,
    images: ImageStore | None = None,
) -> list[Answer]:
    """The model's answers to all questions, scored. With `images`, the gallery's pictures are stored there."""
    asked = questions(section.items, section.sampled_items, seed)
    requests = [_request(question, section, seed) for question in asked]
    report = None if progress is None else lambda done, total: progress("answers", done, total)
    autocast = torch.bfloat16 if training.kind(section.precision) == "bf16" else None
    completions = Engine(model, processor, autocast=autocast).generate(requests, report)
    shown: Counter[str] = Counter()
    answers = []
    for question, responses in zip(asked, completions, strict=True):
        shown[question.suite] += 1
        keep = images is not None and shown[question.suite] <= GALLERY
        pictures = [images.put(picture) for picture in question.images] if images is not None and keep else []
        answers.append(_answer(question, responses, pictures))
    return answers


@lru_cache(maxsize=1)
def questions(count: int, sampled: int, seed: int) -> tuple[Question, ...]:
    """Every question of an evaluation: `count` a suite, `sampled` of them for the sampled reasoning suite."""
    general = [question for task in items.GENERAL for question in items.general(task, count, seed)]
    text = [question for task in items.TEXT for question in items.general(task, count, seed)]
    vertical = [question for language in ("en", "zh") for question in items.vertical(language, count, seed)]
    reasoning = items.general("reasoning", max(count, sampled), seed)
    arithmetic, instruction = ([question for question in text if question.suite == task] for task in items.TEXT)
    colour = items.general("colour", count * 3 // 2, seed)  # enough of them name their object
    return (
        *general,
        *text,
        *vertical,
        *(replace(question, id=f"greedy/{question.id}", suite="reasoning_greedy") for question in reasoning[:count]),
        *reasoning[:sampled],
        *bias.missing_image([*general, *vertical], count, seed),
        *bias.mismatch(arithmetic, general, count, seed),
        *bias.context(general, instruction, count, seed),
        *bias.absent(colour, count, seed),
    )


def _request(question: Question, section: EvaluateSection, seed: int) -> Request:
    request = Request(list(question.messages), list(question.images), max_tokens=section.max_tokens)
    if question.suite == "reasoning":
        return replace(request, temperature=1.0, n=section.samples, seed=seed)
    return request


def _answer(question: Question, responses: Sequence[Completion], pictures: list[str]) -> Answer:
    right = RULES[question.rule]
    earlier = "\n".join(f"{message.role}: {message.text}" for message in question.messages[:-1])
    return Answer(
        id=question.id,
        suite=question.suite,
        task=question.task,
        language=question.language,
        question=question.text,
        earlier=earlier,
        answers=list(question.answers),
        rule=question.rule,
        responses=[response.text for response in responses],
        right=[right(response.text, question.answers, question.others) for response in responses],
        tokens=[len(response.token_ids) for response in responses],
        pictures=pictures,
    )


def _answers(folder: Path) -> list[Answer]:
    return read_answers(folder / "answers.parquet")
