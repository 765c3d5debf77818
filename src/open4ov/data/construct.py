"""Stage `data`: from images to judged and verified samples (paper §2, Fig. 2).

    images → coarse match → topic tree → fine match → density and budget → QA synthesis
           → known defects added → three judges vote → responses verified → defects taken out → samples

Whatever does not get through is listed with the reason: an image in report.json, a sample in rejected.parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from open4ov.data import defects, density, hygiene, judge, labels, match, report, synthesize, topics, verify
from open4ov.data.images import collect_images
from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.mllm.ask import Asker, Picture, Request
from open4ov.recipe import DataSection
from open4ov.sample import Axis, Sample
from open4ov.store import ImageStore, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

__all__ = ["Result", "collect_images", "construct", "make"]

Progress = Callable[[str, int, int], None]
Embedder = Callable[[list[str]], NDArray[np.float32]]


def construct(run: StageRun) -> None:
    """Reads images/samples.parquet; writes samples.parquet, rejected.parquet and report.json."""
    images = read_samples(run.inputs["images"] / "samples.parquet")
    result = make(images, run.recipe.data, run.images, run.recipe.seed, run.progress)
    write_samples(run.out / "samples.parquet", result.samples)
    write_samples(run.out / "rejected.parquet", result.rejected)
    write_json(run.out / "report.json", result.report)
    write_json(run.out / "summary.json", result.report["counts"])
    if not result.samples:
        raise UserError(
            f"data: none of the {len(images)} images gave a sample. {report.reasons(result.report)} "
            "See docs/data.md for what each provider can answer"
        )


class Result:
    """What construction made: kept samples, rejected ones with their votes and reasons, and the figures."""

    def __init__(self, samples: list[Sample], rejected: list[Sample], figures: dict[str, Any]) -> None:
        self.samples = samples
        self.rejected = rejected
        self.report = figures


def make(
    images: Sequence[Sample],
    section: DataSection,
    store: ImageStore,
    seed: int = 0,
    progress: Progress | None = None,
    asker: Asker | None = None,
) -> Result:
    """All steps in order. `images`: one sample an image, without messages. Raises `UserError`."""
    tree = labels.load(section.labels)
    embed = cast(Embedder, function(section.embedder, "data.embedder"))
    asker = asker or Asker(section)
    tell = _teller(progress)
    skipped: list[dict[str, str]] = []
    clean = hygiene.Hygiene(section.hygiene, store, seed, tell)
    given, images = len(images), clean.images(images, skipped)

    def picture(sample: Sample) -> Picture:
        return Picture(sample.images[0], lambda: store.get(sample.images[0]), sample.scene)

    def answers(step: str, about: Sequence[Sample], requests: list[Request]) -> list[dict[str, Any] | None]:
        found = asker.ask_many(requests, tell(step))
        for image, answer in zip(about, found, strict=True):
            if not isinstance(answer, dict):
                skipped.append({"image": image.id, "step": step, "reason": str(answer)})
        return [answer if isinstance(answer, dict) else None for answer in found]

    ranked = answers("matching labels", images, [match.request(picture(i), tree, _note(i)) for i in images])
    matched: list[tuple[Sample, dict[Axis, list[str]], str]] = []
    for image, answer in zip(images, ranked, strict=True):
        if answer is None:
            continue
        kept = match.coarse(answer, tree, section.top_l1)
        if kept["domain"] and kept["ability"]:
            matched.append((image, kept, answer["description"]))
        else:
            lacking = [axis for axis in labels.AXES if not kept[axis]]
            skipped.append({"image": image.id, "step": "matching labels",
                            "reason": f"no {' and no '.join(lacking)} label above {labels.OTHERS}"})  # fmt: skip

    tree_topics, barren = topics.generate(
        asker,
        tree,
        {name for _, kept, _ in matched for name in kept["domain"]},
        {name for _, kept, _ in matched for name in kept["ability"]},
    )
    nearest = _fine(embed, tree_topics, matched, section.top_topics)

    live = [image for image, _, _ in matched]
    weights = density.weights(section)
    scored = answers("scoring density", live, [density.request(picture(i), _note(i)) for i in live])
    ready: list[tuple[Sample, list[tuple[topics.Topic, float]]]] = []
    for image, near, scores in zip(live, nearest, scored, strict=True):
        if scores is None:
            continue
        ids = density.fuse(scores, weights)
        dense = image.model_copy()
        dense.density = {**scores, "ids": round(ids, 6)}
        dense.budget = density.budget(ids, section.min_pairs, section.max_pairs)
        ready.append((dense, near))

    dense_images = [image for image, _ in ready]
    written = answers(
        "writing questions",
        dense_images,
        [
            synthesize.request(picture(i), tree, [topic for topic, _ in near], i.budget or 0, section.languages, seed)
            for i, near in ready
        ],
    )
    made: list[Sample] = []
    for (image, near), answer in zip(ready, written, strict=True):
        pairs = synthesize.samples(image, near, answer["pairs"]) if answer else []
        if answer and not pairs:
            skipped.append({"image": image.id, "step": "writing questions", "reason": "no question fits its topics"})
        made += pairs

    made, unclean = clean.samples(made)
    spoilt = defects.inject(made, tree_topics, section.inject_defects, seed)
    everything = [*made, *spoilt]
    judge.vote(asker, everything, tree, picture, tell("judging"))
    through = [sample for sample in everything if judge.kept(sample.votes, section.quorum)]
    verify.verify(asker, through, tree, picture, tell("verifying"))
    for sample in everything:
        if not judge.kept(sample.votes, section.quorum):
            sample.extra["rejected_by"] = "judges"
        elif not verify.passed(sample):
            sample.extra["rejected_by"] = "verification"
    good = [s for s in everything if "rejected_by" not in s.extra and "defect" not in s.extra]
    bad = [s for s in everything if "rejected_by" in s.extra or "defect" in s.extra]
    clean.split(good)
    figures = report.figures(images, dense_images, everything, tree, tree_topics, skipped, barren)
    report.add_hygiene(figures, clean.report, given, unclean)
    return Result(good, [*bad, *unclean], figures)


def _fine(
    embed: Embedder, found: list[topics.Topic], matched: Sequence[tuple[Sample, dict[Axis, list[str]], str]], k: int
) -> list[list[tuple[topics.Topic, float]]]:
    if not found or not matched:
        return [[] for _ in matched]
    images = embed([description for _, _, description in matched])
    return match.fine(images, found, embed([topic.text for topic in found]), [kept for _, kept, _ in matched], k)


def _note(image: Sample) -> str:
    return synthesize.annotation(image.scene)


def _teller(progress: Progress | None) -> Callable[[str], Callable[[int, int], None] | None]:
    def tell(step: str) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        report_to = progress
        return lambda done, total: report_to(step, done, total)

    return tell
