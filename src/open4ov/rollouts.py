"""Rollouts: a model's sampled responses to the questions of samples, as a record that admission and RL share.

Response i to a prompt samples from a stream of its own, named by the seed, the prompt's content and i. So neither the
order of the samples, nor what else is in a batch, nor how many responses were asked for first changes it, up to the
rounding of floating-point sums. `rollout_book.py` keeps them.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal, Protocol

import torch
from PIL import Image

from open4ov.answers import agrees, boxed_prompt
from open4ov.engine.degeneration import Degeneration
from open4ov.engine.request import Completion, Request
from open4ov.errors import UserError
from open4ov.rollout_book import Asking, Book, Cost, Rollout
from open4ov.sample import Message, Sample

VERSION = "rollout-1"
"""Of what a model is asked: counts in every key, so that another wording asks anew."""
BATCH = 1024
"""Responses generated together, and lost together when the process is killed."""

Boxed = Literal["auto", "always", "never"]


class Answers(Protocol):
    """What rollouts need of an engine, ours or vLLM."""

    def generate(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Completion]]: ...


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. `boxed`: whether questions ask for the answer in \\boxed{} (`question`)."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64
    boxed: Boxed = "auto"
    seed: int = 0
    watch: Degeneration | None = None
    """What is stopped as a loop or noise; nothing when None"""

    def asking(self, model: str, sample: Sample) -> Asking:
        """What the responses to a sample depend on. `boxed` shows in the prompt."""
        told: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        told |= {"seed": self.seed, "version": VERSION}
        if self.watch is not None:
            told["watch"] = asdict(self.watch)
        return Asking(model, content(question(sample, self.boxed), sample.images), told)


@dataclass
class Rolled:
    """`groups`: for each sample's id its responses, in order; `refused`: why a sample could not be asked; `cost`: what
    was computed for it now."""

    groups: dict[str, list[Rollout]]
    refused: dict[str, str]
    cost: Cost


def unaskable(sample: Sample, open_answers: bool = False) -> str:
    """Why responses to a sample could not be graded; empty when they can: it is one question (a system message may come
    before it) with a response, and there is something to compare with (`reference`)."""
    roles = [message.role for message in sample.messages]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if not roles:
        return "has no messages"
    if roles != ["user", "assistant"]:
        return "is not a single question with a response"
    return "" if reference(sample, open_answers) else "has no reference answer"


def reference(sample: Sample, open_answers: bool = False) -> str:
    """What a verifier compares responses with: the sample's answer; with `open_answers`, where it has none, the whole
    of its own response. Empty when there is nothing."""
    answer = (sample.answer or "").strip()
    return answer or (sample.messages[-1].text.strip() if open_answers and sample.messages else "")


def question(sample: Sample, boxed: Boxed = "auto") -> list[Message]:
    """The messages that the model is asked: those before the first response.

    `auto` adds the instruction to box the answer where a right response cannot be verified as a whole: the sample's own
    response has a box, or says more than its answer (it is worked, or a sentence around a word).
    """
    end = next((i for i, m in enumerate(sample.messages) if m.role == "assistant"), len(sample.messages))
    messages = sample.messages[:end]
    if boxed == "auto":
        own = sample.messages[end].text if end < len(sample.messages) else ""
        boxed = "always" if own and sample.answer and ("\\boxed" in own or not _stands(own, sample)) else "never"
    return boxed_prompt(messages, sample.language) if boxed == "always" else messages


def content(messages: Sequence[Message], images: Sequence[str]) -> str:
    """A digest of a prompt: what is said, and the digests of the pictures."""
    said = [
        [m.role, [[p.type, p.text, p.index, p.times] for p in m.content]] for m in messages
    ]  # not what a sample's makers have added to a message
    text = json.dumps([said, list(images)], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest(engine: Any) -> str:
    """16 hex digits of all that an engine's answers depend on: weights, configuration, tokenizer and picture settings,
    and the type that is computed in. Reads all weights: for models of many GB take a digest of their files."""
    model, processor = engine.model, engine.processor
    found = hashlib.sha256(repr((model.config, processor.images, processor.videos, str(engine.dtype))).encode())
    found.update(processor.tokenizer.to_str().encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).flatten().numpy().data)
    return found.hexdigest()[:16]


def roll(
    samples: Sequence[Sample],
    counts: Mapping[str, int],
    engine: Answers,
    image: Callable[[str], Image.Image],
    model: str,
    sampling: Sampling,
    book: Book,
    progress: Callable[[int, int], None] | None = None,
    batch: int = BATCH,
) -> Rolled:
    """`counts[sample.id]` responses to each sample (0 where it is not named), those in the book from there.

    `model`: the engine's digest; `image(sha)`: a picture by its digest. Samples about the same picture come one after
    the other, so that it is encoded once; those with equal prompts are asked once. A sample whose picture is missing,
    or that is too long for the model, is refused, and the others go on. `progress(done, total)` counts responses.
    """
    jobs: dict[bytes, _Job] = {}
    keys: dict[str, bytes] = {}
    for sample in samples:
        if (count := counts.get(sample.id, 0)) > 0:
            asking = sampling.asking(model, sample)
            key = keys[sample.id] = asking.key
            job = jobs.setdefault(key, _Job(sample, asking, question(sample, sampling.boxed), 0))
            job.count = max(job.count, count)
    ordered = sorted(jobs.values(), key=lambda job: (job.sample.images, job.asking.prompt))
    total, done, cost = sum(job.count for job in ordered), 0, Cost()
    for group in _batches(ordered, batch):
        for job in group:
            job.found = len(book.rollouts(job.asking.key, job.count))
        wanted = [job for job in group if job.found < job.count]
        found = sum(job.found for job in group)
        cost += Cost(found=found) + _generated(
            wanted, engine, image, sampling, book, _shifted(progress, done + found, total)
        )
        done += sum(job.count for job in group)
        if progress:
            progress(done, total)
    groups: dict[str, list[Rollout]] = {}
    refused: dict[str, str] = {}
    for sample in samples:
        if (key := keys.get(sample.id)) is None:
            continue
        if reason := jobs[key].refused:
            refused[sample.id] = reason
        else:
            groups[sample.id] = book.rollouts(key, counts[sample.id])
    return Rolled(groups, refused, cost)


@dataclass
class _Job:
    """A prompt to be answered `count` times; `found` of them are in the book."""

    sample: Sample
    asking: Asking
    messages: list[Message]
    count: int
    found: int = 0
    refused: str = ""


def _batches(jobs: Sequence[_Job], size: int) -> Iterator[list[_Job]]:
    """Jobs of about `size` responses, cut the same whatever is in the book: a run that goes on forms the same
    batches."""
    starts: list[int] = []
    total = 0
    for job in jobs:
        starts.append(total // size)
        total += job.count
    for _, members in groupby(zip(starts, jobs, strict=True), key=lambda pair: pair[0]):
        yield [job for _, job in members]


def _generated(
    jobs: Sequence[_Job],
    engine: Answers,
    image: Callable[[str], Image.Image],
    sampling: Sampling,
    book: Book,
    progress: Callable[[int, int], None] | None,
) -> Cost:
    """Answers what is missing of a batch, puts it into the book and gives its cost."""
    began, before = time.monotonic(), _counters(engine)
    pictures: dict[str, Image.Image] = {}
    requests: list[Request] = []
    asked: list[_Job] = []
    for job in jobs:
        try:
            for sha in job.sample.images:
                if sha not in pictures:
                    pictures[sha] = image(sha)
        except (UserError, OSError) as error:
            job.refused = f"picture: {error}"
            continue
        asked.append(job)
        requests.append(
            Request(
                messages=job.messages,
                images=[pictures[sha] for sha in job.sample.images],
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                n=job.count - job.found,
                first=job.found,
                degeneration=sampling.watch,
                seed=random.Random(f"rollout {sampling.seed} {job.asking.prompt}").getrandbits(31),
            )
        )
    try:
        groups = engine.generate(requests, progress)
    except UserError:
        requests, asked = _possible(requests, asked, engine)
        groups = engine.generate(requests, progress)
    rows: list[tuple[Asking, list[Rollout]]] = []
    for job, group in zip(asked, groups, strict=True):
        numbered = enumerate(group, start=job.found)
        rows.append((job.asking, [Rollout(i, c.text, len(c.token_ids), c.finish_reason) for i, c in numbered]))
    prompts, found, images = (now - then for now, then in zip(_counters(engine), before, strict=True))
    cost = Cost(
        rollouts=sum(len(group) for _, group in rows),
        prompt_tokens=prompts,
        computed_tokens=prompts - found,
        response_tokens=sum(one.tokens for _, group in rows for one in group),
        images=images,
        seconds=time.monotonic() - began,
    )
    if rows:
        book.add(rows, cost)
    return cost


def _possible(requests: list[Request], jobs: list[_Job], engine: Answers) -> tuple[list[Request], list[_Job]]:
    """Without those that the engine refuses, each with its reason. Asked only when a batch was refused."""
    kept: list[Request] = []
    able: list[_Job] = []
    for request, job in zip(requests, jobs, strict=True):
        try:
            getattr(engine, "prompt", lambda one: engine.generate([one]))(request)
        except UserError as error:
            job.refused = str(error).removeprefix("request 0: ")
        else:
            kept.append(request)
            able.append(job)
    return kept, able


def _counters(engine: Answers) -> tuple[int, int, int]:
    """Prompt tokens begun, those found computed, and pictures encoded so far; zeros for an engine that does not
    count."""
    scheduler, cache = getattr(engine, "scheduler", None), getattr(engine, "vision_cache", None)
    if scheduler is None or cache is None:
        return 0, 0, 0
    return scheduler.prompt_tokens, scheduler.found_tokens, cache.statistics.misses


def _shifted(progress: Callable[[int, int], None] | None, done: int, total: int) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda count, _: progress(done + count, total)


def _stands(response: str, sample: Sample) -> bool:
    assert sample.answer is not None
    return agrees(response, sample.answer, sample.aliases)
