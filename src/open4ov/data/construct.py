"""Stage `data`: from images to judged and verified samples (paper §2, Fig. 2).

    images → coarse match → topic tree → fine match → density and budget → QA synthesis
           → known defects added → three judges vote → responses verified → defects taken out → samples

Conversations of several turns or images, which open data holds, take the same way as they are, but for budget and
synthesis. Whatever does not get through is listed with the reason: an image in report.json, a sample in
rejected.parquet.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from open4ov.data import (
    conversations,
    coverage,
    defects,
    density,
    density_evidence,
    hygiene,
    judge,
    labels,
    match,
    panel,
    report,
    synthesize,
    topics,
    verify,
)
from open4ov.data.images import CORPUS, collect_images
from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.mllm.ask import Asker, Picture, Request
from open4ov.mllm.estimate import figures, guessers
from open4ov.recipe import DataSection
from open4ov.sample import Axis, Sample
from open4ov.store import ImageStore, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

__all__ = ["Result", "collect_images", "construct", "make"]

Progress = Callable[[str, int, int], None]
Embedder = Callable[[list[str]], NDArray[np.float32]]


def construct(run: StageRun) -> None:
    """Reads what stage `images` left; writes samples.parquet, rejected.parquet, general.parquet (the general set as it
    came through hygiene; with general_rejected.parquet, if any was asked for), topics.parquet and report.json."""
    section, seed = run.recipe.data, run.recipe.seed
    images = read_samples(run.inputs["images"] / "samples.parquet")
    asker = Asker(section, place=run.inputs["images"].parent)
    density.check_scenarios(section, labels.load(section.labels))  # before an hour of hashing, not after
    clean = hygiene.Hygiene(section.hygiene, run.images, seed, _teller(run.progress))
    given = run.inputs["images"] / "general.parquet"
    drawn = run.recipe.images.general.startswith(CORPUS)
    general, unfit = clean.general(read_samples(given), drawn=drawn) if clean.asked else ([], [])
    result = make(images, section, run.images, seed, run.progress, asker, clean)
    write_samples(run.out / "samples.parquet", result.samples)
    write_samples(run.out / "rejected.parquet", result.rejected)
    if clean.asked:
        write_samples(run.out / "general.parquet", general)
        write_samples(run.out / "general_rejected.parquet", unfit)
    else:
        shutil.copyfile(given, run.out / "general.parquet")
    topics.write(run.out / "topics.parquet", result.topics, labels.load(run.recipe.data.labels))
    write_json(run.out / "report.json", result.report)
    write_json(run.out / "summary.json", result.report["counts"])
    for line in report.warnings(result.report):
        run.note(line)
    if not result.samples:
        raise UserError(
            f"data: none of the {len(images)} images gave a sample. {report.reasons(result.report)} "
            "See docs/data.md for what each provider can answer"
        )
    if unfit and not general:
        raise UserError(
            f"data.hygiene: all {len(unfit)} samples of the general set fall out, the first one since "
            f"{unfit[0].extra['reason']}; give another images.general, or set images.general_count to 0"
        )


def estimate(images: Sequence[Sample], section: DataSection, store: ImageStore, seed: int) -> dict[str, Any]:
    """What `construct` would ask of endpoints, and what that would cost (`mllm/estimate.py`). Sends nothing."""
    providers, rows = guessers(section)
    make(images, section, store, seed, asker=Asker(section, dict(providers)))
    return figures(section, rows)


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
    clean: hygiene.Hygiene | None = None,
) -> Result:
    """All steps in order. `images`: one sample an image, without messages; one with messages is a conversation that
    came whole (conversations.py). Raises `UserError`."""
    tree = labels.load(section.labels)
    density.check_scenarios(section, tree)
    embed = cast(Embedder, function(section.embedder, "data.embedder"))
    asker = asker or Asker(section)
    tell = _teller(progress)
    skipped: list[dict[str, str]] = []
    clean = clean or hygiene.Hygiene(section.hygiene, store, seed, tell)
    given, images = images, clean.images(images, skipped)

    @cache
    def origins(whole: bool, came: bool) -> list[str]:
        return conversations.origins(asker, whole=whole, came=came)

    def picture(sample: Sample, sha: str) -> Picture:
        return Picture(sha, lambda: store.get(sha), sample.scene, lambda: store.png(sha))

    def pictures(sample: Sample) -> tuple[Picture, ...]:
        return tuple(picture(sample, sha) for sha in sample.images)

    def ranking(image: Sample) -> Request:
        if image.messages:
            return conversations.rank(image, pictures(image), tree, _note(image))
        return match.request(pictures(image)[0], tree, _note(image))

    def answers(step: str, about: Sequence[Sample], requests: list[Request]) -> list[dict[str, Any] | None]:
        found = asker.ask_many(requests, tell(step))
        for image, answer in zip(about, found, strict=True):
            if not isinstance(answer, dict):
                skipped.append({"image": image.id, "step": step, "reason": str(answer)})
        return [answer if isinstance(answer, dict) else None for answer in found]

    ranked = answers("matching labels", images, [ranking(image) for image in images])
    matched: list[tuple[Sample, dict[Axis, list[str]], str]] = []
    coarse: list[tuple[str, dict[Axis, list[str]]]] = []
    ranking_faults: Counter[str] = Counter()
    for image, answer in zip(images, ranked, strict=True):
        if answer is None:
            continue
        ranking_faults.update(match.faults(answer, tree))
        kept = match.coarse(answer, tree, section.top_l1)
        coarse.append((image.id, kept))
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
        section.topics_per_pair,
    )
    nearest = _fine(embed, tree_topics, matched, section.top_topics)

    views = [(image, sha) for image, _, _ in matched for sha in dict.fromkeys(image.images)]
    requests = [density.request(picture(image, sha), _note(image)) for image, sha in views]
    scored = iter(answers("scoring density", [image for image, _ in views], requests))
    ready: list[tuple[Sample, list[tuple[topics.Topic, float]]]] = []
    came: list[Sample] = []
    for (image, kept, _), near in zip(matched, nearest, strict=True):
        given_scores = list(islice(scored, len(set(image.images))))
        known_scores = [scores for scores in given_scores if scores is not None]
        if len(known_scores) < len(given_scores):
            continue
        fused = conversations.density(known_scores)
        ids = density.fuse(fused, density.weights(section, kept["domain"]))
        dense = image.model_copy()
        dense.density = {**fused, "ids": round(ids, 6)}
        if image.messages:
            if near:
                came.append(conversations.labelled(dense, near))
            else:
                skipped.append({"image": image.id, "step": "matching topics", "reason": "no topic under its labels"})
            continue
        dense.budget = density.budget(ids, section.min_pairs, section.max_pairs)
        ready.append((dense, near))
    if section.total_pairs is not None:
        shares = [image.density["ids"] for image, _ in ready]
        pairs = density.allocate(shares, section.min_pairs, section.max_pairs, section.total_pairs)
        for (image, _), budget in zip(ready, pairs, strict=True):
            image.budget = budget
    looked = _evenly([image for image, _ in ready], section.density_evidence)
    second = [density_evidence.measure(store.get(image.images[0]), image.scene) for image in looked]

    dense_images = [image for image, _ in ready]
    asked = [(image, near) for image, near in ready if image.budget]
    skipped += [{"image": image.id, "step": "writing questions", "reason": "its budget is 0"}
                for image in dense_images if not image.budget]  # fmt: skip
    written = answers(
        "writing questions",
        [image for image, _ in asked],
        [
            synthesize.request(
                pictures(i)[0],
                tree,
                [topic for topic, _ in near],
                i.budget or 0,
                synthesize.languages_of(i, section.languages, section.language_per_image),
                seed,
            )
            for i, near in asked
        ],
    )
    made: list[Sample] = []
    dropped: Counter[str] = Counter()
    for (image, near), answer in zip(asked, written, strict=True):
        pairs = synthesize.samples(image, near, answer["pairs"], dropped) if answer else []
        if answer and not pairs:
            skipped.append({"image": image.id, "step": "writing questions", "reason": "no question fits its topics"})
        made += pairs

    made, unclean = clean.samples([*made, *came])
    came, made = _parted(made, {sample.id for sample in came})
    spoilt = defects.inject(made, tree_topics, section.inject_defects, seed)
    everything = [*made, *came, *spoilt]
    judge.vote(asker, everything, tree, pictures, tell("judging"))
    through = [sample for sample in everything if judge.kept(sample.votes, section.quorum)]
    verify.verify(asker, through, tree, pictures, tell("verifying"))
    for sample in everything:
        if not judge.kept(sample.votes, section.quorum):
            sample.extra["rejected_by"] = "judges"
        elif not verify.passed(sample):
            sample.extra["rejected_by"] = "verification"
    good = [s for s in everything if "rejected_by" not in s.extra and "defect" not in s.extra]
    bad = [s for s in everything if "rejected_by" in s.extra or "defect" in s.extra]
    for sample in everything:
        sample.lineage = [*sample.lineage, *origins(conversations.whole(sample), conversations.came(sample))]
    for sample in through:
        template = conversations.template("verify", whole=conversations.whole(sample), came=False)
        sample.lineage = [*sample.lineage, *asker.origin("verify", template)]
    clean.split(good)
    told = report.figures(images, dense_images, everything, tree, tree_topics, skipped, barren)
    told["labels"]["ranking_faults"] = dict(sorted(ranking_faults.items()))
    told["coverage"] = coverage.coverage(tree, coarse, tree_topics, good)
    told["density"]["second_opinion"] = density_evidence.agreement([i.density for i in looked], second)
    told["synthesis"] = report.synthesis(made, dropped)
    told["panel"] = panel.measured(everything, section.quorum)
    told["undecided"] = sum(judge.verdict(s.votes, section.quorum).outcome == "undecided" for s in everything)
    if asking := asker.report():
        told["asking"] = asking
    told["cost_per_kept"] = report.cost_per_kept(asking, len(good))
    if whole := [image for image in given if image.messages]:
        told["conversations"] = conversations.figures(whole, came, [s for s in came if "rejected_by" not in s.extra])
    report.add_hygiene(told, clean.report, len(given), unclean)
    return Result(good, [*bad, *unclean], tree_topics, told)


def _fine(
    embed: Embedder, found: list[topics.Topic], matched: Sequence[tuple[Sample, dict[Axis, list[str]], str]], k: int
) -> list[list[tuple[topics.Topic, float]]]:
    if not found or not matched:
        return [[] for _ in matched]
    images = embed([description for _, _, description in matched])
    return match.fine(images, found, embed([topic.text for topic in found]), [kept for _, kept, _ in matched], k)


def _parted(samples: Sequence[Sample], ids: set[str]) -> tuple[list[Sample], list[Sample]]:
    """(those with one of the ids, the others)"""
    return [sample for sample in samples if sample.id in ids], [sample for sample in samples if sample.id not in ids]


def _evenly(images: Sequence[Sample], most: int) -> list[Sample]:
    """At most `most` of the images, spread evenly over their order."""
    step = max(1, -(-len(images) // most)) if most else len(images) + 1
    return list(images[::step]) if most else []


def _note(image: Sample) -> str:
    return synthesize.annotation(image.scene)


def _teller(progress: Progress | None) -> Callable[[str], Callable[[int, int], None] | None]:
    def tell(step: str) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        report_to = progress
        return lambda done, total: report_to(step, done, total)

    return tell
