"""What a short stage 3 teaches: styles on request, questions that a picture has nothing to do with, and needles.

    python -m bench.preference RUN [--model nano] [--tokens 80000] [--pack 512] [--rate 2e-4] [--replay 0.6]
        [--each 40] [--seed 0] [--threads N] [--save FOLDER] [--quick]

RUN: a run directory whose stage `data` is finished (`open4ov run RECIPE --out RUN --until data`). A tenth of the
pictures, and of the questions without one, is kept apart. The model is measured, trained on the preference set of the
rest, and measured again, each time on the same questions:

- style: questions of held-out pictures with a request in a wording that is never trained on (`phrases.REQUESTS`, the
  last one): how often the response is in the style by `preference/checks.py`, and holds every content word of the facts
- no request: the same questions without one: how often the response is in no style
- unrelated: sums and instructions of the test split, alone and beside a picture that has nothing to do with them
- related: held-out questions about pictures
- needle: `evaluate/needle.py`

`--quick`: a smoke run, with few questions and a training of a few steps.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from bench import needle as needles
from bench.measure import machine
from open4ov import assets
from open4ov.answers import agrees
from open4ov.corpora import generate, in_chinese
from open4ov.engine import Engine, Request
from open4ov.evaluate import needle
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import SftSection, SftStage
from open4ov.recipe_preference import PreferenceSection
from open4ov.sample import Message, Sample, user
from open4ov.sft import curriculum, preference_data
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import fit
from open4ov.sft.preference import checks, pool, styles
from open4ov.sft.preference.phrases import FORMS, REQUESTS
from open4ov.store import ImageStore, read_samples

STYLES = (*FORMS, "human", "concise")


@dataclass(frozen=True)
class Asked:
    """One question: what is counted (`row`), how it is put, and what must hold of the response."""

    row: str
    language: str
    message: Message
    images: list[Image.Image]
    answer: str = ""
    aliases: tuple[str, ...] = ()
    style: str = ""
    facts: tuple[str, ...] = ()

    def holds(self, response: str) -> bool:
        if not self.style:
            return agrees(response, self.answer, self.aliases)
        if self.style == "facts":
            return checks.keeps(response, self.facts)
        if self.style in FORMS:
            return checks.markdown(response) and self.style in checks.structures(response)
        return checks.CHECKS[self.style](response, self.language)


def questions(apart: Sequence[Sample], store: ImageStore, each: int, seed: int) -> list[list[Asked]]:
    """What is asked, each with everything that is counted of its response."""
    rng = random.Random(f"preference bench {seed}")
    groups = pool.gather(apart).pictures
    asked: list[list[Asked]] = []
    for language in pool.LANGUAGES:
        told = [g for group in groups[language] if len(g := [f for f in map(styles.fact, group) if f]) > 1]
        for style in STYLES:
            for group in rng.sample(told, min(each, len(told))):
                facts = rng.sample(group, 2)
                values = tuple(each.value for each in facts)
                images = [store.get(sha) for sha in facts[0].sample.images]
                put = user(styles.asked(facts, REQUESTS[style][language][-1], False), images=1)
                bare = user(styles.asked(facts, "", False), images=1)
                asked.append(
                    [
                        Asked(f"style: {style}", language, put, images, style=style),
                        Asked("facts kept, all styles", language, put, images, style="facts", facts=values),
                    ]
                )
                if style in ("list", "human"):
                    asked.append([Asked("no request: no style", language, bare, images, style="usual")])
        single = [s for group in groups[language] for s in group if s.answer]
        for sample in rng.sample(single, min(2 * each, len(single))):
            images = [store.get(sha) for sha in sample.images]
            asked.append(
                [Asked("related", language, sample.messages[0], images, sample.answer or "", tuple(sample.aliases))]
            )
        shown = [store.get(group[0].images[0]) for group in groups[language]]
        for message, answer in _texts(language, 2 * each, seed):
            asked.append([Asked("unrelated: without picture", language, message, [], answer)])
            beside = user(message.text, images=1)
            asked.append([Asked("unrelated: with picture", language, beside, [rng.choice(shown)], answer)])
    return asked


def _texts(language: str, count: int, seed: int) -> list[tuple[Message, str]]:
    made: list[tuple[Message, str]] = []
    rng = random.Random(seed)
    for task in ("arithmetic", "instruction"):
        for item in generate(task, "test", count // 2, seed):
            qa = in_chinese.ask(item.sample.scene or {}, rng) if language == "zh" else None
            if language == "en":
                made.append((item.sample.messages[0], item.sample.answer or ""))
            elif qa is not None:
                made.append((user(qa.question), qa.answer))
    return made


def measure(
    model: Qwen3VL, processor: Processor, asked: Sequence[Sequence[Asked]], count: int, seed: int, quick: bool
) -> tuple[dict[tuple[str, str], tuple[int, int]], list[needle.Probe]]:
    """(row, language) -> (held, asked), and the needles."""
    engine = Engine(model, processor, autocast=torch.bfloat16)
    requests = [Request([group[0].message], group[0].images, max_tokens=64) for group in asked]
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for group, answers in zip(asked, engine.generate(requests), strict=True):
        for one in group:
            held, total = found.get((one.row, one.language), (0, 0))
            found[one.row, one.language] = (held + one.holds(answers[0].text), total + 1)
    del engine
    lengths, pictures, depths = ([256], [2], [0.5]) if quick else ([256, 448], [2, 4], [0, 0.5, 1])
    return found, needles.measure(model, processor, lengths, pictures, depths, ["en", "zh"], count, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tokens", type=int, default=80_000)
    parser.add_argument("--pack", type=int, default=512)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--replay", type=float, default=0.6)
    parser.add_argument("--each", type=int, default=40, help="questions a style and language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--save", type=Path, default=None, help="folder for the trained model")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    given = parser.parse_args()
    if given.quick:
        given.tokens, given.each = 2_000, 4
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    torch.set_flush_denormal(True)
    store = ImageStore(given.run / "image-store")
    samples = [s for name in ("samples", "general") for s in read_samples(given.run / "data" / f"{name}.parquet")]
    apart = [s for s in samples if _held_out(s)]
    rest = [s for s in samples if not _held_out(s)]
    folder = assets.base_dir(given.model)
    model, processor = Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)
    asked = questions(apart, store, given.each, given.seed)
    before, hidden = measure(model, processor, asked, given.each // 4, given.seed, given.quick)
    print("before:\n" + needle.markdown(hidden), flush=True)

    encoder = Encoder(processor, store)
    made = preference_data.compose(
        rest, max(64, given.tokens // 200), given.seed, PreferenceSection(), encoder.length, given.pack
    )
    order = curriculum.order(
        curriculum.Material(made.samples, rest),
        tokens=given.tokens,
        replay=given.replay,
        turns=3,
        noise=1.0,
        length=encoder.length,
        longest=given.pack,
        seed=given.seed,
    )
    section = SftSection(pack_tokens=given.pack)
    options = SftStage(tokens=given.tokens, learning_rate=given.rate, freeze_vision=True)
    told = fit(model, encoder, order.samples, section, options, progress=_progress)
    model.requires_grad_(False)
    if given.save:
        model.save_pretrained(given.save)
        processor.save_pretrained(given.save)
    after, found = measure(model, processor, asked, given.each // 4, given.seed, given.quick)
    print("after:\n" + needle.markdown(found))
    print(f"\ntrained: {told.summary}, {len(made.samples)} preference samples, loss {told.curve[-1]['loss']:.3f}\n")
    print("| | language | before | after | asked |\n|---|---|---|---|---|")
    for row, language in sorted(before):
        (b, n), (a, _) = before[row, language], after[row, language]
        print(f"| {row} | {language} | {b / n:.2f} | {a / n:.2f} | {n} |")
    print("\n" + machine())


def _held_out(sample: Sample) -> bool:
    """A tenth of the pictures, and of the samples without one."""
    name = sample.images[0] if sample.images else sample.id
    return hashlib.sha256(f"apart {name}".encode()).digest()[0] < 26


def _progress(text: str, done: int, total: int) -> None:
    if done % 20 == 0 or done == total:
        print(f"{text} {done}/{total}", flush=True)


if __name__ == "__main__":
    main()
