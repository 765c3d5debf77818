"""Stage `data`: from images to judged and verified samples (paper §2, Fig. 2).

    images → coarse match → topic tree → fine match → density and budget → QA synthesis
           → known defects added → three judges vote → responses verified → defects taken out → samples

Whatever does not get through is listed with the reason: an image in report.json, a sample in rejected.parquet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from open4ov.data import (
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
from open4ov.data.images import collect_images
from open4ov.errors import UserError
from open4ov.mllm.ask import JUDGES, ROLES, Asker, Picture, Request
from open4ov.mllm.embedders import Embedder
from open4ov.mllm.estimate import figures, guessed_embedder, guessers
from open4ov.recipe import DataSection
from open4ov.sample import Axis, Sample
from open4ov.store import ImageStore, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

__all__ = ["Result", "collect_images", "construct", "make"]

Progress = Callable[[str, int, int], None]
TEMPLATES: dict[str, str] = dict.fromkeys(JUDGES, "judge")
"""Roles whose prompt has another name"""


def construct(run: StageRun) -> None:
    """Reads images/samples.parquet; writes samples.parquet, rejected.parquet, topics.parquet and report.json."""
    images = read_samples(run.inputs["images"] / "samples.parquet")
    asker = Asker(run.recipe.data, place=run.inputs["images"].parent)
    result = make(images, run.recipe.data, run.images, run.recipe.seed, run.progress, asker)
    write_samples(run.out / "samples.parquet", result.samples)
    write_samples(run.out / "rejected.parquet", result.rejected)
    topics.write(run.out / "topics.parquet", result.topics, labels.load(run.recipe.data.labels))
    write_json(run.out / "report.json", result.report)
    write_json(run.out / "summary.json", result.report["counts"])
    if not result.samples:
        raise UserError(
            f"data: none of the {len(images)} images gave a sample. {report.reasons(result.report)} "
            "See docs/data.md for what each provider can answer"
        )


def estimate(images: Sequence[Sample], section: DataSection, store: ImageStore, seed: int) -> dict[str, Any]:
    """What `construct` would ask of endpoints, and what that would cost (`mllm/estimate.py`). Sends nothing."""
    providers, rows = guessers(section)
    make(images, section, store, seed, asker=Asker(section, dict(providers), embedder=guessed_embedder(section, rows)))
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
) -> Result:
    """All steps in order. `images`: one sample an image, without messages. Raises `UserError`."""
    tree = labels.load(section.labels)
    density.check_scenarios(section, tree)
    asker = asker or Asker(section)
    embedder = asker.embedder
    tell = _teller(progress)
    origins = [line for role in ROLES if role != "verify" for line in asker.origin(role, TEMPLATES.get(role, role))]
    skipped: list[dict[str, str]] = []
    clean = hygiene.Hygiene(section.hygiene, store, seed, tell)
    given, images = len(images), clean.images(images, skipped)

    def picture(sample: Sample) -> Picture:
        sha = sample.images[0]
        return Picture(sha, lambda: store.get(sha), sample.scene, lambda: store.png(sha))

    def answers(step: str, about: Sequence[Sample], requests: list[Request]) -> list[dict[str, Any] | None]:
        found = asker.ask_many(requests, tell(step))
        for image, answer in zip(about, found, strict=True):
            if not isinstance(answer, dict):
                skipped.append({"image": image.id, "step": step, "reason": str(answer)})
        return [answer if isinstance(answer, dict) else None for answer in found]

    ranked = answers("matching labels", images, [match.request(picture(i), tree, _note(i)) for i in images])
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
    nearest = _fine(embedder, picture, tree_topics, matched, section.top_topics)

    live = [image for image, _, _ in matched]
    scored = answers("scoring density", live, [density.request(picture(i), _note(i)) for i in live])
    ready: list[tuple[Sample, list[tuple[topics.Topic, float]]]] = []
    for (image, kept, _), near, scores in zip(matched, nearest, scored, strict=True):
        if scores is None:
            continue
        ids = density.fuse(scores, density.weights(section, kept["domain"]))
        dense = image.model_copy()
        dense.density = {**scores, "ids": round(ids, 6)}
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
                picture(i),
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
    for sample in everything:
        sample.lineage = [*sample.lineage, *origins]
    for sample in through:
        sample.lineage = [*sample.lineage, *asker.origin("verify", "verify")]
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
    report.add_hygiene(told, clean.report, given, unclean)
    return Result(good, [*bad, *unclean], tree_topics, told)


def _fine(
    embedder: Embedder,
    picture: Callable[[Sample], Picture],
    found: list[topics.Topic],
    matched: Sequence[tuple[Sample, dict[Axis, list[str]], str]],
    k: int,
) -> list[list[tuple[topics.Topic, float]]]:
    """Fine matching: by the images where the embedder sees them, else by their descriptions."""
    if not found or not matched:
        return [[] for _ in matched]
    if embedder.sees:
        images = embedder.images([picture(image) for image, _, _ in matched])
    else:
        images = embedder.texts([description for _, _, description in matched])
    texts = embedder.texts([topic.text for topic in found])
    return match.fine(images, found, texts, [kept for _, kept, _ in matched], k)


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
