"""Asks a model everything and writes down what it said (paper §6).

General abilities, text only, the vertical in English and Chinese, reasoning (greedy, and sampled at temperature 1 for
pass@1, pass@k, diversity and length), and the modality-bias suites. Everything goes through the engine in one call:
equal pictures and prompts are computed once. `results.json` is described in `scores.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from open4ov import assets, functions, machine, side_by_side, training
from open4ov.engine import Completion, Request
from open4ov.engine.quantize import load
from open4ov.evaluate import bias, bias_chinese, held_out, items, reading
from open4ov.evaluate.items import Question
from open4ov.evaluate.metrics import RULES
from open4ov.evaluate.scores import BRIEF, Answer, differences, read_answers, summarise, write_answers
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import EQUIVALENCE, EvaluateSection
from open4ov.run_dir import fingerprint
from open4ov.store import ImageStore, write_json

if TYPE_CHECKING:
    from open4ov.graph import StageRun

STORED = "stored"
"""Key of a picture's `info`: its digest in an image store, so that it is not encoded again for each model"""

EXTRA = 2
"""The later bias suites (several turns, Chinese alone) have this part of the questions: they show a gap, not a rank"""

Progress = Callable[[str, float, float], None]


def evaluate(
    model: Qwen3VL, processor: Processor, section: EvaluateSection, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """The figures of one model: `suites`, `groups` and `lengths` of results.json."""
    same = functions.function(section.equivalence, "evaluate.equivalence")
    return summarise(ask(model, processor, section, seed, progress), section.confidence, same)


def run(run: StageRun, model: str) -> None:
    """The stage `evaluate_<model>`: writes results.json, answers.parquet and summary.json.

    `model` is `base` or the name of the stage that trained it. With earlier evaluations among the inputs, results.json
    has the paired differences from each of them.
    """
    folder = assets.base_dir(run.recipe.model) if model == "base" else run.inputs[model] / "model"
    section = run.recipe.evaluate
    own = _own(run)
    same = functions.function(section.equivalence, "evaluate.equivalence")
    named: dict[str, str] = {} if section.equivalence == EQUIVALENCE else {"equivalence": section.equivalence}
    if section.weights != "same":
        named["weights"] = section.weights
    kind = None if section.weights == "same" else section.weights
    device = machine.answering(kind, section.device, "evaluate.device", "evaluate.weights")
    answers = ask(
        load(folder, kind, half=training.autocast(section.precision, device), device=device),
        Processor.from_pretrained(folder),
        section,
        run.seed,
        run.progress,
        run.images,
        own,
    )
    name = run.recipe.images.called if own is not None else None
    results = {
        "schema": 1,
        "model": model,
        "seed": run.seed,
        **section.model_dump(include={"items", "samples", "confidence"}),
        **named,
        **summarise(answers, section.confidence, same, name),
        "differences": {
            name.removeprefix("evaluate_"): differences(answers, _answers(path), section.confidence, same)
            for name, path in run.inputs.items()
            if name.startswith("evaluate_")
        },
    }
    write_answers(run.out / "answers.parquet", answers)
    write_json(run.out / "results.json", results)
    figures = {name: row["score"] for name, row in (results["groups"] | results["suites"]).items()}
    write_json(run.out / "summary.json", figures)
    run.log(figures)


def _own(run: StageRun) -> Own | None:
    """The held-out questions of a run whose vertical is a folder; None where a corpus draws it."""
    if not run.recipe.images.own:
        return None
    folder = run.inputs.get("held_out")
    if folder is None:
        run.note("nothing of the vertical is asked: data.hygiene.test is 0, so that no picture is held out")
        return Own(None, "", run.images.root)
    return Own(folder, fingerprint([folder / "samples.parquet"]), run.images.root)


@dataclass(frozen=True)
class Own:
    """Where the held-out questions of a folder's vertical lie (None: nothing is held out), a digest of them, and the
    image store's folder."""

    folder: Path | None
    digest: str
    images: Path


def ask(
    model: Qwen3VL,
    processor: Processor,
    section: EvaluateSection,
    seed: int,
    progress: Progress | None = None,
    images: ImageStore | None = None,
    own: Own | None = None,
) -> list[Answer]:
    """The model's answers to all questions, scored. With `images`, the pictures are stored there, for the report.
    `own`: asked instead of the shipped vertical."""
    asked = questions(section.items, section.sampled_items, seed, own)
    requests = [_request(question, section, seed) for question in asked]
    autocast = training.autocast(section.precision, model.device)
    name = section.model_dump_json(), seed
    completions = _answered(reading.Reader(model, processor, requests, asked, name, autocast), progress)
    answers: list[Answer] = []

    @cache
    def tokens(text: str) -> int:
        return len(processor.tokenizer.encode(text).ids) + 1  # and the token that ends it

    def shortest(question: Question) -> int | None:
        return min(map(tokens, question.answers)) if question.suite in BRIEF else None

    for question, responses in zip(asked, completions, strict=True):
        pictures = [_kept(picture, images) for picture in question.images] if images is not None else []
        answers.append(_answer(question, responses, pictures, shortest))
    return answers


def _kept(picture: Image.Image, images: ImageStore) -> str:
    """The picture's digest, with the picture in the store. Which ones a report shows is not known before all models
    have answered."""
    sha = picture.info.get(STORED)
    if sha is None or not images.path(sha).is_file():
        sha = picture.info[STORED] = images.put(picture)
    return sha


def _answered(reader: reading.Reader, progress: Progress | None) -> list[list[Completion]]:
    """The completions of each request. Parts of them are answered side by side; what is told of one holds for all."""
    total, count = len(reader.prompts), side_by_side.places()
    parts = [range(first, total, count) for first in range(count)]  # each has some of every suite

    def piece(part: range, tell: bool) -> list[list[Completion]]:
        whole = sum(reader.prompts[place].request.n for place in part) * count

        def report(done: int, _: int) -> None:
            if progress is not None and tell:
                progress("answers", done * count, whole)

        return reader.answers(part, report)

    found = side_by_side.run([partial(piece, part, number == 0) for number, part in enumerate(parts)])
    completions: list[list[Completion]] = [[] for _ in range(total)]
    for part, answers in zip(parts, found, strict=True):
        for place, answer in zip(part, answers, strict=True):
            completions[place] = answer
    return completions


@lru_cache(maxsize=1)
def questions(count: int, sampled: int, seed: int, own: Own | None = None) -> tuple[Question, ...]:
    """Every question of an evaluation: `count` a suite, `sampled` of them for the sampled reasoning suite. `own`: see
    `ask`; a folder has at most as many as are held out."""
    general = [question for task in items.GENERAL for question in items.general(task, count, seed)]
    text = [question for task in items.TEXT for question in items.general(task, count, seed)]
    vertical = _vertical(count, seed, own)
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
        *bias.context_turns([*general, *vertical], text, -(-count // EXTRA), seed),
        *bias_chinese.questions(-(-count // EXTRA), seed),
    )


def _vertical(count: int, seed: int, own: Own | None) -> Sequence[Question]:
    if own is None:
        return [question for language in ("en", "zh") for question in items.vertical(language, count, seed)]
    if own.folder is None:
        return ()
    store = ImageStore(own.images)

    def picture(sha: str) -> Image.Image:
        found = store.get(sha)
        found.info[STORED] = sha
        return found

    return held_out.questions(own.folder, count, picture)


def _request(question: Question, section: EvaluateSection, seed: int) -> Request:
    request = Request(list(question.messages), list(question.images), max_tokens=section.max_tokens)
    if question.suite == "reasoning":
        return replace(request, temperature=1.0, n=section.samples, seed=seed)
    return request


def _answer(
    question: Question,
    responses: Sequence[Completion],
    pictures: list[str],
    shortest: Callable[[Question], int | None],
) -> Answer:
    right = RULES[question.rule]
    shown = RULES[question.with_picture or items.RULES.get(question.task, "exact")]
    blind = [shown(response.text, question.answers, question.others) for response in responses]
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
        blind=blind if question.suite.startswith("missing_image") else [],
        shortest=shortest(question),
    )


def _answers(folder: Path) -> list[Answer]:
    return read_answers(folder / "answers.parquet")
