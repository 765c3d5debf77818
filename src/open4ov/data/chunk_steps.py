"""The steps of data construction on one chunk of images: each reads what the step before left in the working folder and
leaves its own, so any process that sees the folder can do it, and twice gives the same.

    clean   images that stay (hygiene), and what comparing them with all others needs
    match   coarse labels, description, density → images that are ready to be asked about
    write   fine topics, questions and answers → samples, and those that hygiene takes out
    judge   votes, verification → samples that stay, and those that are rejected
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from open4ov.data import (
    coverage,
    defects,
    density,
    density_evidence,
    judge,
    labels,
    match,
    report,
    synthesize,
    verify,
)
from open4ov.data.defect_index import record
from open4ov.data.hygiene import entry
from open4ov.data.task import FALLEN, Matched, Skipped, Tools, skip
from open4ov.data.topics import Topic
from open4ov.mllm import costs, provenance
from open4ov.mllm.took import Account
from open4ov.sample import Axis, Sample
from open4ov.store import iter_samples, write_samples


def clean(tools: Tools, number: int) -> None:
    """Images by themselves; see `Hygiene.look`."""
    cleaned(tools, number)


def cleaned(tools: Tools, number: int) -> list[Sample]:
    """The chunk's images after `clean`, which is done here if it was not before."""
    work, size = tools.work, tools.section.chunk
    source = iter_samples(tools.task.source, number * size, (number + 1) * size)
    if work.done("clean", number):
        changed = work.facts("clean", number)["changed"]
        return list(iter_samples(work.path("clean", number)) if changed else source)
    images = list(source)
    here = tools.hygiene()
    looked = here.look(images)
    changed = len(looked.kept) != len(images) or any(a is not b for a, b in zip(looked.kept, images, strict=True))
    if changed:
        write_samples(work.path("clean", number), looked.kept)
    if looked.pictures is not None:
        looked.pictures.write(work.path("clean", number, "pictures", "npz"))
    facts = {
        "images": len(looked.kept),
        "changed": changed,
        "skipped": {why: list(map(entry, gone)) for why, gone in zip(FALLEN, looked.gone, strict=False)},
        "evidence": list(looked.evidence.items()),
        "hygiene": here.report,
    }
    work.publish("clean", number, facts)
    return looked.kept


def match_(tools: Tools, number: int, gone: Sequence[int] = ()) -> None:
    """`gone`: the places in the cleaned chunk of images that were found elsewhere."""
    tools.asker.account = Account()  # equal questions of a chunk are paid for once
    tree, section = tools.tree, tools.section
    skipped: Skipped = {}
    out = set(gone)
    images = [image for at, image in enumerate(cleaned(tools, number)) if at not in out]
    requests = [match.request(tools.picture(i), tree, note(i)) for i in images]
    ranked = tools.answers("matching labels", "unranked", images, requests, skipped)
    matched: list[Matched] = []
    coarse: list[tuple[str, dict[Axis, list[str]]]] = []
    faults: Counter[str] = Counter()
    for image, answer in zip(images, ranked, strict=True):
        if answer is None:
            continue
        faults.update(match.faults(answer, tree))
        kept = match.coarse(answer, tree, section.top_l1)
        coarse.append((image.id, kept))
        if kept["domain"] and kept["ability"]:
            image = costs.noted(image, tools.asker.step("rank", "rank", answer))
            matched.append((image, kept, answer["description"]))
        else:
            lacking = [axis for axis in labels.AXES if not kept[axis]]
            reason = f"no {' and no '.join(lacking)} label above {labels.OTHERS}"
            skip(skipped, "unlabelled", image, "matching labels", reason)
    live = [image for image, _, _ in matched]
    requests = [density.request(tools.picture(i), note(i)) for i in live]
    scored = tools.answers("scoring density", "unscored", live, requests, skipped)
    ready: list[Sample] = []
    rows: list[tuple[dict[Axis, list[str]], str]] = []
    for (image, kept, description), scores in zip(matched, scored, strict=True):
        if scores is None:
            continue
        ids = density.fuse(scores, density.weights(section, kept["domain"]))
        dense = costs.noted(image.model_copy(), tools.asker.step("density", "density", scores))
        dense.density = {**scores, "ids": round(ids, 6)}
        dense.budget = density.budget(ids, section.min_pairs, section.max_pairs)
        ready.append(dense)
        rows.append((kept, description))
    write_samples(tools.work.path("match", number), ready)
    tools.work.write_rows("match", number, rows)
    facts = {
        "images": len(images),
        "ids": [image.density["ids"] for image in ready],
        "names": {axis: sorted({name for _, kept, _ in matched for name in kept[axis]}) for axis in labels.AXES},
        "coverage": coverage.count_images(coarse),
        "faults": faults,
        "took": tools.asker.account.rows(),
        "skipped": skipped,
    }
    tools.work.publish("match", number, facts)


def write(tools: Tools, number: int, first: int = 0, step: int = 0, budgets: Sequence[int] | None = None) -> None:
    """`first`: how many images were ready before this chunk; of every `step`-th the density is also measured from its
    pixels. `budgets` replace the images' own."""
    tools.asker.account = Account()  # equal questions of a chunk are paid for once
    section = tools.section
    skipped: Skipped = {}
    ready = list(iter_samples(tools.work.path("match", number)))
    rows = tools.work.rows("match", number)
    for image, budget in zip(ready, budgets or (), strict=budgets is not None):
        image.budget = budget
    nearest = _fine(tools, [(image, kept, text) for image, (kept, text) in zip(ready, rows, strict=True)])
    looked = [image for at, image in enumerate(ready, start=first) if step and at % step == 0]
    measured = [
        (image.density, density_evidence.measure(tools.store.get(image.images[0]), image.scene)) for image in looked
    ]
    asked = [(image, near) for image, near in zip(ready, nearest, strict=True) if image.budget]
    for image in ready:
        if not image.budget:
            skip(skipped, "idle", image, "writing questions", "its budget is 0")
    requests = [
        synthesize.request(
            tools.picture(image),
            tools.tree,
            [topic for topic, _ in near],
            image.budget or 0,
            synthesize.languages_of(image, section.languages, section.language_per_image),
            tools.seed,
        )
        for image, near in asked
    ]
    about = [image for image, _ in asked]
    written = tools.answers("writing questions", "unwritten", about, requests, skipped)
    topics_step = tools.asker.step("topics", "topics", note="of the whole tree; no sample bears its cost")
    made: list[Sample] = []
    dropped: Counter[str] = Counter()
    for (image, near), answer in zip(asked, written, strict=True):
        pairs = synthesize.samples(image, near, answer["pairs"], dropped) if answer else []
        costs.share(image, pairs, topics_step, tools.asker.step("synthesize", "synthesize", answer))
        if answer and not pairs:
            skip(skipped, "unfit", image, "writing questions", "no question fits its topics")
        made += pairs
    here = tools.hygiene()
    made, unclean = here.samples(made)
    write_samples(tools.work.path("write", number), made)
    provenance.settle(unclean, tools.asker.place)
    by: dict[str, list[Sample]] = {}
    for sample in unclean:
        by.setdefault(str(sample.extra["rejected_by"]), []).append(sample)
    for reason, samples in by.items():
        write_samples(tools.work.path("write", number, reason), samples)
    if section.inject_defects:
        traits = [record(defects.trait(0, sample)) for sample in made]
        tools.work.write_rows("write", number, traits)
    facts = {
        "samples": len(made),
        "budgets": Counter(str(image.budget) for image in ready),
        "measured": measured,
        "synthesis": report.count_synthesis(made, dropped),
        "unclean": {reason: len(samples) for reason, samples in by.items()},
        "borne": {"rejected": costs.borne(unclean)},
        "took": tools.asker.account.rows(),
        "hygiene": here.report,
        "skipped": skipped,
    }
    tools.work.publish("write", number, facts)


def judge_(tools: Tools, number: int) -> None:
    """Of clean samples and of known defects alike; of the latter none stays."""
    tools.asker.account = Account()  # equal questions of a chunk are paid for once
    section, asker, tree = tools.section, tools.asker, tools.tree
    samples = list(iter_samples(tools.work.path("write", number)))
    judge.vote(asker, samples, tree, tools.picture, tools.tell("judging"))
    through = [sample for sample in samples if judge.kept(sample.votes, section.quorum)]
    verify.verify(asker, through, tree, tools.picture, tools.tell("verifying"))
    for sample in samples:
        if not judge.kept(sample.votes, section.quorum):
            sample.extra["rejected_by"] = "judges"
        elif not verify.passed(sample):
            sample.extra["rejected_by"] = "verification"
    good = [s for s in samples if "rejected_by" not in s.extra and "defect" not in s.extra]
    bad = [s for s in samples if "rejected_by" in s.extra or "defect" in s.extra]
    provenance.settle(samples, asker.place)
    write_samples(tools.work.path("judge", number, "good"), good)
    write_samples(tools.work.path("judge", number, "bad"), bad)
    facts = {
        "counts": report.count(samples, section.quorum),
        "coverage": coverage.count_samples(good),
        "borne": {"kept": costs.borne(good), "rejected": costs.borne(bad)},
        "took": asker.account.rows(),
    }
    tools.work.publish("judge", number, facts)


STEPS: dict[str, Callable[..., None]] = {"clean": clean, "match": match_, "write": write, "judge": judge_}


def note(image: Sample) -> str:
    return synthesize.annotation(image.scene)


def _fine(tools: Tools, matched: Sequence[Matched]) -> list[list[tuple[Topic, float]]]:
    """Fine matching: by the images where the embedder sees them, else by their descriptions."""
    if not tools.topics or not matched:
        return [[] for _ in matched]
    embedder = tools.asker.embedder
    if embedder.sees:
        images = embedder.images([tools.picture(image) for image, _, _ in matched])
    else:
        images = embedder.texts([description for _, _, description in matched])
    return match.fine(
        images, tools.topics, tools.topic_rows, [kept for _, kept, _ in matched], tools.section.top_topics
    )
