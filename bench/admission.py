"""Does the rapid assessment catch a corrupted batch and let a good one in? See `--help`.

    python -m bench.admission [--seeds 3] [--symbols 8] [--tokens 24000] [--work DIR] [--write]

Four batches of the in-car corpus (training renderings of the first `symbols` symbols, every question in both
languages): `good` as it is, `answers` (each question has the answer to the same question about another symbol),
`images` (each question has another symbol's picture), `language` (each answer is in the other language). Each is
assessed with the nano base by the code of `open4ov admit assess`, on the same held-out questions, for several seeds of
the training. What is finished in DIR is not done again, so that an interrupted measurement goes on.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.measure import machine, write
from open4ov import assets
from open4ov.admission.probe import LANGUAGES
from open4ov.corpora import TASKS, generate, in_car
from open4ov.recipe import Recipe
from open4ov.run_dir import fingerprint, read_json
from open4ov.sample import Sample, content_id
from open4ov.stages.assess import assess, gather
from open4ov.store import ImageStore, write_json
from open4ov.versions import digest

RENDERINGS = 10


def good(samples: list[Sample], rng: random.Random) -> list[Sample]:
    return samples


def wrong_answers(samples: list[Sample], rng: random.Random) -> list[Sample]:
    """Every sample gets the response of the same question about another symbol, drawn anew each time."""
    return [_with_response(one, _other(one, samples, rng)) for one in samples]


def wrong_images(samples: list[Sample], rng: random.Random) -> list[Sample]:
    return [one.model_copy(update={"images": _other(one, samples, rng).images}) for one in samples]


def wrong_language(samples: list[Sample], rng: random.Random) -> list[Sample]:
    known = {(one.images[0], one.task, one.language): one for one in samples}
    return [
        _with_response(one, known[one.images[0], one.task, "zh" if one.language == "en" else "en"]) for one in samples
    ]


BATCHES: dict[str, Callable[[list[Sample], random.Random], list[Sample]]] = {
    "good": good,
    "answers": wrong_answers,
    "images": wrong_images,
    "language": wrong_language,
}


def _other(one: Sample, samples: list[Sample], rng: random.Random) -> Sample:
    """A sample of the same question in the same language about another symbol."""
    while True:
        other = rng.choice(samples)
        same = (other.task, other.language) == (one.task, one.language)
        if same and (other.scene or {})["symbol"] != (one.scene or {})["symbol"]:
            return other


def _with_response(one: Sample, other: Sample) -> Sample:
    messages = [one.messages[0], other.messages[1]]
    return one.model_copy(update={"messages": messages, "answer": other.answer, "aliases": other.aliases})


def recipe(options: argparse.Namespace, seed: int) -> Recipe:
    rate = {"learning_rate": options.rate, "replay": 0.35, "turns": 1, "freeze_vision": True}
    return Recipe.model_validate(
        {
            "name": "admission",
            "seed": seed,
            "threads": 1,
            "sft": {"pack_tokens": options.pack, "precision": options.precision, "knowledge": rate},
            "admission": {
                "assess": {
                    "tokens": options.tokens,
                    "questions": options.questions,
                    "general_questions": options.general_questions,
                    "gain": options.gain,
                    "margin": options.margin,
                    "own_questions": options.own,
                }
            },
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--symbols", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24_000)
    parser.add_argument("--questions", type=int, default=80)
    parser.add_argument("--general-questions", type=int, default=80)
    parser.add_argument("--own", type=int, default=16)
    parser.add_argument("--gain", type=float, default=0.2)
    parser.add_argument("--margin", type=float, default=0.25)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--pack", type=int, default=256)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 where the CPU computes in it"
    )
    parser.add_argument("--work", type=Path, default=Path("out/bench-admission"))
    parser.add_argument("--write", action="store_true", help="a results file in bench/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = ImageStore(options.work / "image-store")
    names = [symbol.id for symbol in in_car.load()][:: max(1, len(in_car.load()) // options.symbols)][: options.symbols]
    samples: list[Sample] = []
    for item in in_car.pictures("train", RENDERINGS, 0, names):
        images = item.store(store).images
        kinds = [(language, task) for task in in_car.TASKS for language in LANGUAGES]
        asked = [in_car.asked(item, language, task).sample for language, task in kinds]
        samples += [one.model_copy(update={"images": images}) for one in asked]
    general = [item.store(store) for task in TASKS for item in generate(task, "train", 30)]
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for name, corrupt in BATCHES.items():
            rows.append(_one(options, seed, name, corrupt(samples, random.Random(seed)), general, store, names))
            print(_line(rows[-1]), flush=True)
    table = "\n".join(
        ["| batch | seed | verdict | vertical | general | language | seconds |", "|" + "---|" * 7, *map(_line, rows)]
    )
    print(table)
    if options.write:
        write("admission", f"{machine()}\n\n{table}\n")


def _one(
    options: argparse.Namespace,
    seed: int,
    name: str,
    batch: list[Sample],
    general: list[Sample],
    store: ImageStore,
    symbols: list[str],
) -> dict[str, Any]:
    out = options.work / f"{name}-{seed}"
    kept, chosen = out / "row.json", recipe(options, seed)
    made_of = made_from(options, chosen, batch)
    known = read_json(kept)
    if known is not None and known.get("made_of") == made_of:  # of these very options, samples and base model
        return known
    began = time.monotonic()
    given = gather(chosen, batch, general, store, 0, name, symbols=symbols)  # the same questions for all
    told = assess(chosen, given, out, out / "scratch", seed, base_answers=options.work / "base")
    row = {**told, "batch": name, "seed": seed, "seconds": time.monotonic() - began, "made_of": made_of}
    write_json(kept, row)
    return row


def made_from(options: argparse.Namespace, chosen: Recipe, batch: Sequence[Sample]) -> str:
    """A digest of what a row depends on: the recipe, the model's files, the questions' choice and the batch. A row that
    was made with others is made anew."""
    base = fingerprint(path for path in assets.base_dir(chosen.model).iterdir() if path.is_file())
    return content_id(chosen.model_dump(mode="json"), base, options.symbols, digest(batch))


def _line(row: dict[str, Any]) -> str:
    cells = [
        f"{100 * bar['before']:.0f} → {100 * bar['after']:.0f} % ({100 * bar['difference']:+.0f}, {bar['shown']})"
        for bar in row["criteria"].values()
    ]
    return f"| {row['batch']} | {row['seed']} | {row['verdict']} | " + " | ".join(cells) + f" | {row['seconds']:.0f} |"


if __name__ == "__main__":
    main()
