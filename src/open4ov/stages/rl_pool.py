"""The pool of RL's tasks put together (paper §4.1.1, §4.1.2): RL's validation and composition over construction's
hygiene, imported sets, SFT's sets, a judge of `mllm`, the reviewers' decisions, and the model's answers without
pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4ov.answers import agrees
from open4ov.data.hashing import thumbnail
from open4ov.data.hygiene import read_benchmarks
from open4ov.data.hygiene_texts import TextSteps, rejected
from open4ov.errors import UserError
from open4ov.formats.convert import located
from open4ov.functions import function
from open4ov.mllm import Asker, Picture, Prompt, Request
from open4ov.mllm.answers import Judgement
from open4ov.mllm.ask import AnswerError
from open4ov.recipe_hygiene import HygieneSection
from open4ov.recipe_rl_pool import ROLE, SourceSection
from open4ov.review import apply, decisions
from open4ov.rl import tasks
from open4ov.rl.pool import compose, leakage, mixed
from open4ov.rl.pool.admit import Given, Judged, Sift, Tools
from open4ov.rollout_book import FOLDER, Book
from open4ov.sample import Sample
from open4ov.sft import sets
from open4ov.store import ImageStore, read_samples
from open4ov.versions import Stores, take

if TYPE_CHECKING:
    from open4ov.graph import StageRun
    from open4ov.recipe import Recipe

SPARE = 1.5
"""Tasks that the corpora draw for the leakage screen, as a multiple of those that are wanted"""


def run(run: StageRun) -> None:
    """The stage `rl_pool`: as many tasks as RL draws, or tries where it filters them."""
    section = run.recipe.rl
    wanted = mixed.candidates(section) if section.steps else 0
    places = {source.title: _located(source) for source in section.pool.sources if source.path}
    stores = Stores(run.images, *(store for _, store in places.values()))
    with closing(Book(run.images.root.parent / FOLDER)) as book, ExitStack() as held:
        screen = _screen(run, book) if section.leakage.rollouts and wanted else None
        figures = compose.build(
            run.out,
            section,
            wanted,
            _given(run, wanted, places, stores) if wanted else (),
            _tools(run, stores, held),
            screen,
            lambda sample: take(sample, stores, run.images),
            run.seed,
            run.progress,
            run.note,
        )
    run.log({"pool": {key: figures[key] for key in ("wanted", "tasks", "text_share")}})


def check(recipe: Recipe) -> None:
    """Raises UserError for a source that is not there, and for decisions that cannot be read, before anything runs."""
    if not recipe.rl.steps:
        return
    for source in recipe.rl.pool.sources:
        if source.path:
            _located(source)
    if recipe.rl.pool.decisions:
        _decisions(Path(recipe.rl.pool.decisions))


def _located(source: SourceSection) -> tuple[Path, ImageStore]:
    assert source.path is not None
    try:
        return located(Path(source.path))
    except UserError as error:
        raise UserError(f"rl.pool.sources: '{source.title}': {error}") from None


def _given(
    run: StageRun, wanted: int, places: Mapping[str, tuple[Path, ImageStore]], stores: ImageStore
) -> Iterator[Given]:
    """The sources in their order."""
    section = run.recipe.rl

    def opens(sha: str) -> None:
        stores.get(sha)

    for source in section.pool.sources:
        if source.kind == "corpora":
            spare = SPARE if section.leakage.rollouts else 1.0
            text = round(wanted * section.text_share)
            items = tasks.drawn(round((wanted - text) * spare), text, run.seed)
            yield Given(source, [item.store(run.images) for item in items], opens, drawn=True)
        elif source.kind == "data":
            yield Given(source, read_samples(run.inputs["data"] / "samples.parquet"), opens)
        elif source.kind == "sft":
            found = [sample for name in sets.FILES for sample in sets.training(run.inputs["sets"] / name)]
            yield Given(source, found, opens)
        else:
            yield Given(source, read_samples(places[source.title][0]), opens)


def _tools(run: StageRun, stores: ImageStore, held: ExitStack) -> Tools:
    section = run.recipe.rl
    return Tools(
        rule=function(section.reward, "rl.reward"),
        duplicates=_duplicates(section.pool.near_questions),
        clean=_clean(run, stores),
        judge=_judge(run, stores, held) if section.pool.judged else None,
        decided=_decided(section.pool.decisions),
    )


def _duplicates(least: float) -> Sift:
    return TextSteps(HygieneSection(near_questions=least), None, {}).once


def _clean(run: StageRun, stores: ImageStore) -> Sift:
    """Takes out what stands in the evaluation sets that `data.hygiene.decontaminate` names, by picture and question."""
    section = run.recipe.data.hygiene
    benchmarks = read_benchmarks(section)
    if benchmarks is None:
        return lambda samples: (samples, [])

    def sift(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        report: dict[str, Any] = {"decontamination": {"questions": []}}
        kept, gone = TextSteps(section, benchmarks, report).unasked(samples)
        names = sorted({sha for sample in kept for sha in sample.images})
        evidence = dict(zip(names, benchmarks.pictures([thumbnail(stores.get(sha)) for sha in names]), strict=True))
        clean: list[Sample] = []
        for sample in kept:
            found = next((one for sha in sample.images for one in evidence[sha]), None)
            if found is None:
                clean.append(sample)
            else:
                reason = f"its picture is in {found.file}, index {found.index} ({found.found})"
                gone.append(rejected(sample, "decontamination", reason))
        return clean, gone

    return sift


def _judge(run: StageRun, stores: ImageStore, held: ExitStack) -> Callable[[Sequence[Sample]], list[Judged]]:
    asker = held.enter_context(closing(Asker(run.recipe.data, place=run.images.root.parent)))

    def tell(done: int, total: int) -> None:
        run.progress("judging tasks", done, total)

    def judge(samples: Sequence[Sample]) -> list[Judged]:
        answers = asker.ask_many([question_to_judge(sample, stores) for sample in samples], tell)
        return [
            Judged(None, f"no usable answer: {answer}", asker.step(ROLE, "rl_pool", answer))
            if isinstance(answer, AnswerError)
            else Judged(answer["score"], answer["reason"], asker.step(ROLE, "rl_pool", answer))
            for answer in answers
        ]

    return judge


def question_to_judge(sample: Sample, stores: ImageStore) -> Request:
    """What the role `rl_pool` is asked about a sample."""
    values = {
        "question": next(message.text for message in sample.messages if message.role == "user"),
        "answer": sample.answer or "",
        "aliases": sample.aliases,
        "language": sample.language,
        "pictures": len(sample.images),
        "options": list(sample.extra.get("cloze", {}).get("options", {}).values()),
        "scene": None if sample.images else sample.scene,
    }
    pictures = [
        Picture(sha, lambda sha=sha: stores.get(sha), sample.scene, lambda sha=sha: stores.png(sha))
        for sha in sample.images
    ]
    return Request(ROLE, Prompt("rl_pool", values), pictures, Judgement)


def _decisions(path: Path) -> dict[str, dict[str, decisions.Decision]]:
    if not path.exists():
        raise UserError(f"rl.pool.decisions: no such file or folder: {path}")
    return decisions.read(path) if path.is_dir() else decisions.read_file(path)


def _decided(path: str | None) -> Callable[[Sample], tuple[Sample, bool] | None]:
    """What the reviewers want of a sample; None where none has decided."""
    reviews = _decisions(Path(path)) if path else {}

    def decided(sample: Sample) -> tuple[Sample, bool] | None:
        said = {name: made[sample.id] for name, made in reviews.items() if sample.id in made}
        return apply.decided(sample, said) if said else None

    return decided


def _screen(run: StageRun, book: Book) -> compose.Screen:
    """Asks the model that RL begins with, as it will be asked in training, but without the pictures."""
    from open4ov.model import Processor

    section = run.recipe.rl
    start = next(folder for name, folder in run.inputs.items() if name.startswith("sft_")) / "model"
    reward, sampling = function(section.reward, "rl.reward"), mixed.sampling_of(section, run.seed)

    def rule(response: str, sample: Sample) -> float:
        """What is known counts, in a box or not; a response without a word says nothing."""
        if not response.strip():
            return 0.0
        return float(reward(response, sample) > 0 or agrees(response, sample.answer or "", sample.aliases))

    def screen(samples: Sequence[Sample]) -> Mapping[str, leakage.Blind]:
        def tell(done: int, total: int) -> None:
            run.progress("asking without the pictures", done, total)

        network = mixed.model_of(start, section)
        processor = Processor.from_pretrained(start)
        engine, model = mixed.asked(network, processor, section)
        with closing(engine):
            said, cost = leakage.ask(samples, engine, model, sampling, book, section.leakage.rollouts, tell)
        run.log({"leakage": {"asked": len(samples), "cost": cost.figures()}})
        return leakage.screen(samples, said, rule, section.leakage.least, section.leakage.level)

    return screen
