"""Stage `data`: from images to judged and verified samples (paper §2, Fig. 2).

    images → coarse match → topic tree → fine match → density and budget → QA synthesis
           → known defects added → three judges vote → responses verified → defects taken out → samples

Images go through in chunks (chunk_steps.py); what a step made of a chunk lies in the working folder, and only small
things are held of all of them. Three things need all chunks at once, and stand between the steps: comparing images with
one another, the topics under the labels that some image has, and the known defects.

Whatever does not get through is listed with the reason: an image in report.json, a sample in rejected.parquet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4ov.data import density, judge, labels, report, topics
from open4ov.data.assemble import Construction, Progress
from open4ov.data.executor import Executor
from open4ov.data.images import CORPUS, collect_images
from open4ov.data.task import Task, Tools
from open4ov.errors import RefusedError
from open4ov.mllm.ask import Asker
from open4ov.mllm.estimate import figures
from open4ov.mllm.guessing import guessed_embedder, guessers
from open4ov.recipe import DataSection
from open4ov.run_dir import read_json
from open4ov.sample import Sample
from open4ov.store import ImageStore, count_samples, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

__all__ = ["Result", "collect_images", "construct", "make"]

UNANSWERED = "unanswered.json"


def unanswered(folder: Path) -> str:
    """What a finished stage can still ask for, in a line for a person; empty when nothing. `folder`: the stage's."""
    missed = read_json(folder / UNANSWERED) or {"passing": 0}
    return f"{missed['questions']} questions got no usable answer{report.again(missed)}" if missed["passing"] else ""


def construct(run: StageRun) -> None:
    """Reads what stage `images` left; writes samples.parquet, rejected.parquet, general.parquet (the general set as it
    came through hygiene; with general_rejected.parquet, if any was asked for), topics.parquet and report.json."""
    section, given = run.recipe.data, run.inputs["images"]
    source, general, place = given / "samples.parquet", given / "general.parquet", given.parent
    drawn = run.recipe.images.general.startswith(CORPUS)
    task = Task(section, source, run.images.root, run.scratch, run.recipe.seed, general, drawn)
    if alike := judge.warning(section):  # before anything is paid
        run.note(alike)
    if section.executor.kind == "ray":
        from open4ov.data.executor_ray import Cluster

        with Cluster(task, place) as cluster:
            told = build(task, run.out, cluster.asker, run.progress, cluster)
    else:
        with closing(Asker(section, place=place)) as asker:
            told = build(task, run.out, asker, run.progress)
    for line in report.warnings(told):
        run.note(line)
    if not told["counts"]["kept"]:
        raise RefusedError(
            f"data: none of the {count_samples(source)} images gave a sample. {report.reasons(told)} "
            f"{judge.unmet_quorum(section, run.recipe.images.own)}"
            "See docs/data.md for what each provider can answer, and `open4ov data view` for votes and reasons",
            final=not told["unanswered"]["passing"],
        )


def build(
    task: Task, out: Path, asker: Asker, progress: Progress | None = None, executor: Executor | None = None
) -> dict[str, Any]:
    """All steps in order: writes the stage's files to `out` and gives the report. What is done already in the task's
    working folder is not done again. Raises `UserError`."""
    section = task.section
    tree = labels.load(section.labels)
    density.check_scenarios(section, tree)
    tools = Tools(task, asker)
    _ = asker.embedder  # a fault of its is told before anything is asked
    told = Construction(tools, out, progress, executor).run()
    told["votes"]["alike"] = judge.alike(section)
    report.write(out / "report.json", told)
    write_json(out / "summary.json", told["counts"])
    write_json(out / UNANSWERED, told["unanswered"])
    return told


def estimate(
    images: Sequence[Sample], section: DataSection, store: ImageStore, seed: int, place: Path | None = None
) -> dict[str, Any]:
    """What `construct` would still ask of endpoints, and what that would cost (`mllm/estimate.py`). Sends nothing.
    `place`: the run's folder, where answers and the costs of earlier starts are."""
    guessed: list[Any] = []
    for most in (False, True):
        with guessers(section, place, most=most) as (providers, rows):
            asker = Asker(section, dict(providers), embedder=guessed_embedder(section, rows))
            make(images, section, store, seed, guessed=True, asker=asker)
        guessed.append(rows)
    found = figures(section, guessed[0], guessed[1], place)
    return found if (alike := judge.warning(section)) is None else {**found, "warning": alike}


class Result:
    """What construction made: kept samples, rejected ones with their votes and reasons, topics, and the figures."""

    def __init__(
        self, samples: list[Sample], rejected: list[Sample], tree_topics: list[topics.Topic], figures: dict[str, Any]
    ) -> None:
        self.samples = samples
        self.rejected = rejected
        self.topics = tree_topics
        self.report = figures


def make(
    images: Sequence[Sample],
    section: DataSection,
    store: ImageStore,
    seed: int = 0,
    progress: Progress | None = None,
    asker: Asker | None = None,
    guessed: bool = False,
) -> Result:
    """`build` for a few images in memory, with all it made. `images`: one sample an image, without messages."""
    with tempfile.TemporaryDirectory(prefix="open4ov-") as folder:
        out = Path(folder) / "out"
        source = Path(folder) / "images.parquet"
        write_samples(source, images)
        task = Task(section, source, store.root, Path(folder) / "work", seed, guessed=guessed)
        with nullcontext(asker) if asker else closing(Asker(section)) as asker:
            told = build(task, out, asker, progress)
        told["skipped"] = list(told["skipped"])
        return Result(
            read_samples(out / "samples.parquet"),
            read_samples(out / "rejected.parquet"),
            list(topics.read(out / "topics.parquet")),
            told,
        )
