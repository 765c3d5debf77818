"""The prompts of a run of online RL: candidates that the model itself has tried, without those it always or never
answers rightly (paper §4.1.1: "we apply rejection sampling to exclude trivially all-correct or all-incorrect training
examples").

The model that RL begins with answers each candidate as it will in training: the same prompt, temperature, longest
response and end of loops, by whoever `rl.rollout` says. The responses go into the run's book (`rollout_book.py`) under
the model's digest: what is there is not asked for again, not by a stage that was killed either. RL's own reward judges
them as in training (`rewards.graded`), whatever grading's verifier has said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from open4ov import asking, training
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import RlSection
from open4ov.rl.generation import degenerate, generator
from open4ov.rl.generation.generator import Generator
from open4ov.rl.rewards import Reward, graded
from open4ov.rl.tasks import Task
from open4ov.rollout_book import Book, Cost
from open4ov.rollouts import Answers, Sampling, digest, roll, unaskable
from open4ov.sample import Sample
from open4ov.store import ImageStore


@dataclass(frozen=True)
class Selected:
    """`tasks`: those to train on, each once, in their order; `never`: those none of whose responses was right;
    `figures`: how many candidates went where; `cost`: of the responses that were sampled now."""

    tasks: list[Task]
    never: list[Task]
    figures: dict[str, Any]
    cost: Cost


def candidates(section: RlSection) -> int:
    """How many candidates are drawn for a run's tasks."""
    wanted = section.steps * section.prompts
    return round(wanted * section.filter.candidates) if section.filter.rollouts else wanted


def sampling_of(section: RlSection, seed: int) -> Sampling:
    """How responses are drawn in training, for those who ask the model before it."""
    watched = degenerate.watch(section.rollout, section.max_tokens)
    return Sampling(section.temperature, 1.0, section.max_tokens, "always", seed, watched)


def model_of(folder: Path, section: RlSection) -> Qwen3VL:
    """The model that `asked` is to ask, where nobody trains it. Servers and vLLM get it from the CPU; a quantised copy
    is made of float32."""
    if section.rollout.backend != "own":
        return Qwen3VL.from_pretrained(folder)
    device = training.device(section.device, "rl.device")
    if section.rollout.weights != "same":
        return Qwen3VL.from_pretrained(folder, device=device)
    return asking.model_of(folder, section.precision, device)


def asked(model: Qwen3VL, processor: Processor, section: RlSection) -> tuple[Generator, str]:
    """Whoever generates in training, before it (nothing is ahead of anything there), and what its responses are kept
    under: the model's digest, and who computes with it where that is not our engine with the very weights."""
    half = training.autocast(section.precision, model.device)
    found = generator.build(model, processor, section.rollout.model_copy(update={"ahead": False}), autocast=half)
    engine = getattr(found, "engine", None)
    dtype = engine.dtype if section.rollout.weights == "same" and engine else model.text.embed.weight.dtype
    name = digest(SimpleNamespace(model=model, processor=processor, dtype=dtype))
    kinds = [kind for kind in (section.rollout.backend, section.rollout.weights) if kind not in ("own", "same")]
    return found, " ".join([name, *kinds])


def select(
    tasks: Sequence[Task],
    engine: Answers,
    model: str,
    section: RlSection,
    reward: Reward,
    images: ImageStore,
    book: Book,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Selected:
    """At most `steps` × `prompts` tasks of the candidates, `text_share` of them without a picture as far as there are
    such. Where fewer remain, training goes through them several times (`sampling.Cursor`).

    `engine`: whoever generates in training; `model`: what its responses are kept under (`asked`). `images`: takes
    pictures that no store has named yet. Raises UserError when fewer remain than one step has, and for
    a reward that is not 0 or 1.
    """
    named = {task.sample.id: _named(task, images) for task in tasks}
    samples = [task.sample for task in named.values()]
    rollouts, sampling = section.filter.rollouts, sampling_of(section, seed)
    rolled = roll(samples, dict.fromkeys(named, rollouts), engine, images.get, model, sampling, book, _told(progress))
    found = mixed(samples, book, model, sampling, reward, rollouts, section.reward)
    wanted = section.steps * section.prompts
    kept = _shared([named[sample.id] for sample in found.kept], wanted, section.text_share)
    if len(kept) < section.prompts:
        raise UserError(
            f"rl.filter: of {len(named)} candidates {len(kept)} have right and wrong responses "
            f"({len(found.all_right)} only right ones, {len(found.all_wrong)} only wrong ones), fewer than the "
            f"{section.prompts} of one step (rl.prompts); raise rl.filter.candidates or rl.filter.rollouts"
        )
    return Selected(
        kept, [named[sample.id] for sample in found.all_wrong], _figures(found, kept, rollouts), rolled.cost
    )


def _told(progress: Callable[[str, int, int], None] | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress("RL, trying the candidates", done, total)


def _shared(kept: Sequence[Task], wanted: int, text_share: float) -> list[Task]:
    """At most `wanted` of the tasks, in their order: the share without a picture first, then whatever there is."""
    text = round(wanted * text_share)
    left = {True: text, False: wanted - text}
    chosen: set[str] = set()
    for task in kept:
        if left[not task.images] > 0:
            left[not task.images] -= 1
            chosen.add(task.sample.id)
    for task in kept:
        if len(chosen) < wanted:
            chosen.add(task.sample.id)
    return [task for task in kept if task.sample.id in chosen]


def _figures(found: Mixed, chosen: Sequence[Task], rollouts: int) -> dict[str, Any]:
    return {
        "candidates": sum(map(len, (found.kept, found.all_right, found.all_wrong, found.unknown))),
        "rollouts": rollouts,
        "kept": len(found.kept),
        "all_right": len(found.all_right),
        "all_wrong": len(found.all_wrong),
        "unknown": len(found.unknown),
        "used": len(chosen),
        "text": sum(not task.images for task in chosen),
    }


def _named(task: Task, images: ImageStore) -> Task:
    """The task with its pictures in the store: a response is kept under what they show."""
    named = [name or images.put(picture) for name, picture in zip(task.sample.images, task.images, strict=True)]
    if named == task.sample.images:
        return task
    return Task(task.sample.model_copy(update={"images": named}), task.prompt, task.images)


@dataclass(frozen=True)
class Mixed:
    """Samples by what the model made of them, each list in the order given. `kept`: some responses right, some wrong;
    `unknown`: with fewer rollouts in the book than asked for; `rates`: id -> pass rate."""

    kept: list[Sample]
    all_right: list[Sample]
    all_wrong: list[Sample]
    unknown: list[Sample]
    rates: dict[str, float]


def mixed(
    samples: Sequence[Sample],
    book: Book,
    model: str,
    sampling: Sampling,
    reward: Reward,
    rollouts: int,
    name: str = "rl.reward",
) -> Mixed:
    """Sorts samples by their first `rollouts` responses in the book; nothing is sampled, and what is missing is said.

    `model`: the digest under which they were sampled (`rollouts.digest`); `sampling`: as they were. A response that was
    cut off is judged like any other, since RL rewards it so, and a loop or an empty one as wrong. Raises UserError for
    a reward (`name`: as the recipe calls it) that is not 0 or 1.
    """
    found = Mixed([], [], [], [], {})
    for sample in samples:
        group = [] if unaskable(sample) else book.rollouts(sampling.asking(model, sample).key, rollouts)
        if len(group) < rollouts:
            found.unknown.append(sample)
            continue
        right = [float(one) for one in graded(reward, name, group, sample)]
        if strange := next((one for one in right if one not in (0, 1)), None):
            raise UserError(
                f"rl.reward {name!r} gave {strange:g} for a response to sample {sample.id}, which is neither right nor "
                "wrong; set rl.filter.rollouts to 0"
            )
        found.rates[sample.id] = sum(right) / rollouts
        (found.all_right if all(right) else found.kept if any(right) else found.all_wrong).append(sample)
    return found
