"""Rollouts for grading, three ways: `python -m bench.mastery`.

The same responses to the same samples by the shipped nano base, 8 a sample: as grading asks for them (`rollouts.roll`,
book and all), sample by sample, and response by response; each with an engine of its own, so that nothing is found from
the round before. The slow ways answer a part of the samples, and all figures are for one response. In CPU time, which
other load on the machine changes little, and by the clock on the wall.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from bench.measure import machine, ratio, write
from open4ov import assets, corpora
from open4ov.corpora import in_car
from open4ov.engine import Engine, Request
from open4ov.model import Processor, Qwen3VL
from open4ov.rollout_book import Book
from open4ov.rollouts import Sampling, question, roll
from open4ov.sample import Sample
from open4ov.store import ImageStore

SAMPLING = Sampling()
TASKS = ("naming", "colour", "counting", "reading", "position", "comparing", "charts", "reasoning", "arithmetic")


@dataclass
class Took:
    """For each response: seconds of the processor, seconds of the clock, and tokens."""

    cpu: float
    wall: float
    tokens: float


def samples(count: int, store: ImageStore) -> list[Sample]:
    """Half of them about dashboard symbols, several questions a picture; half general, a picture each."""
    vertical = [item.store(store) for item in islice(in_car.items("train", 1), count // 2)]
    each = -(-(count - len(vertical)) // len(TASKS))
    general = [item.store(store) for task in TASKS for item in corpora.generate(task, "train", each, seed=5)]
    return [*vertical, *general][:count]


def together(made: Sequence[Sample], n: int, engine: Engine, store: ImageStore) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = roll(made, {s.id: n for s in made}, engine, store.get, "nano", SAMPLING, Book(Path(folder)))
    return found.cost.response_tokens


def by_sample(made: Sequence[Sample], n: int, engine: Engine, store: ImageStore) -> int:
    tokens = 0
    for sample in made:
        groups = engine.generate([_request(sample, n, store)])
        tokens += sum(len(c.token_ids) for c in groups[0])
    return tokens


def by_response(made: Sequence[Sample], n: int, engine: Engine, store: ImageStore) -> int:
    tokens = 0
    for sample in made:
        request = _request(sample, n, store)
        for number in range(n):
            tokens += len(engine.generate([replace(request, n=1, first=number)])[0][0].token_ids)
    return tokens


def _request(sample: Sample, n: int, store: ImageStore) -> Request:
    images = [store.get(sha) for sha in sample.images]
    return Request(question(sample), images, max_tokens=SAMPLING.max_tokens, temperature=1.0, n=n)


def took(
    way: Callable[..., int], made: Sequence[Sample], n: int, load: Callable[[], Engine], store: ImageStore
) -> Took:
    engine = load()
    cpu, wall = time.process_time(), time.monotonic()
    tokens = way(made, n, engine, store)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    responses = len(made) * n
    return Took(cpu / responses, wall / responses, tokens / responses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="24 samples, 2 rounds: whether it works")
    parser.add_argument("--write", action="store_true", help="put the result into bench/results/")
    options = parser.parse_args()
    count, rounds = (24, 2) if options.quick else (options.samples, options.rounds)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    folder = assets.base_dir("nano")
    model, processor = Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)
    ways: dict[str, tuple[Callable[..., int], int]] = {
        "together": (together, count),
        "sample by sample": (by_sample, max(4, count // 10)),
        "response by response": (by_response, max(4, count // 25)),
    }
    with tempfile.TemporaryDirectory() as place:
        store = ImageStore(Path(place))
        made = samples(count, store)
        step = {name: max(1, len(made) // part) for name, (_, part) in ways.items()}
        found: dict[str, list[Took]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, (way, part) in ways.items():  # in turn, so that a slow moment meets all; the first round warms up
                some = made[number % step[name] :: step[name]][:part]
                one = took(way, some, options.rollouts, lambda: Engine(model, processor), store)
                if number:
                    found[name].append(one)
    lines = [
        f"{count} samples, {options.rollouts} responses each, {rounds} rounds, one thread.",
        "",
        "| way | samples a round | CPU ms a response | responses/s (CPU) | tokens/s (CPU) | responses/s (clock) |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        cpu, wall, tokens = (sorted(getattr(r, f) for r in rows)[len(rows) // 2] for f in ("cpu", "wall", "tokens"))
        lines.append(
            f"| {name} | {ways[name][1]} | {1000 * cpu:.1f} | {1 / cpu:.1f} | {tokens / cpu:.0f} | {1 / wall:.1f} |"
        )
    lines += ["", "Times of the slow ways by that of `together`, round by round (median, quartiles):", ""]
    for name in list(ways)[1:]:
        for clock in ("cpu", "wall"):
            slow, fast = ([getattr(r, clock) for r in found[which]] for which in (name, "together"))
            lines.append(f"- {name}, {clock}: {ratio(slow, fast)}")
    text = "\n".join(["# Rollouts for grading", "", machine(), "", *lines, ""])
    print(text)
    if options.write:
        print(write("mastery", text))


if __name__ == "__main__":
    main()
