"""The steps of data construction on one chunk of images: each reads what the step before left in the working folder and
leaves its own, so any process that sees the folder can do it, and twice gives the same.

    clean   images that stay (hygiene), and what comparing them with all others needs
    match   coarse labels, description, density → images that are ready to be asked about
    fine    with a feedback file only: fine topics as it wants them, before budgets are shared out
    write   fine topics, questions and answers → samples, and those that hygiene takes out
    judge   votes, verification → samples that stay, and those that are rejected
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

from open4ov.data import (
    chunk_topics,
    conversations,
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
from open4ov.mllm import costs, provenance
from open4ov.mllm.took import Account
from open4ov.sample import Axis, Sample, Step
from open4ov.store import iter_samples, read_samples, write_samples

CAME = "came"
"""The part of a chunk that holds conversations which came whole"""


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
    work.clear("clean", number)
    images = list(source)
    here = tools.hygiene()
    told, early = here.told(images)
    unclean = _unclean(tools, "clean", number, early)
    looked = here.look(told)
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
        "conversations": conversations.count(images),
        "unclean": unclean,
    }
    work.publish("clean", number, facts)
    return looked.kept


def match_(tools: Tools, number: int, gone: Sequence[int] = ()) -> None:
    """`gone`: the places in the cleaned chunk of images that were found elsewhere."""
    tools.work.clear("match", number)
    tools.asker.account = Account()  # equal questions of a chunk are paid for once
    tree, section = tools.tree, tools.section
    skipped: Skipped = {}
    out = set(gone)
    images = [image for at, image in enumerate(cleaned(tools, number)) if at not in out]
    named = match.named(tree)
    requests = [
        conversations.rank(image, tools.pictures(image), tree, note(image), named)
        if image.messages
        else match.request(tools.picture(image), tree, note(image), named)
        for image in images
    ]
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
            template = conversations.template("rank", whole=True, came=bool(image.messages))
            image = costs.noted(image, tools.asker.step("rank", template, answer))
            matched.append((image, kept, answer["description"]))
        else:
            lacking = [axis for axis in labels.AXES if not kept[axis]]
            reason = f"no {' and no '.join(lacking)} label above {labels.OTHERS}"
            skip(skipped, "unlabelled", image, "matching labels", reason)
    views = [(image, sha) for image, _, _ in matched for sha in dict.fromkeys(image.images)]
    requests = [density.request(tools.picture(image, sha), note(image)) for image, sha in views]
    scored = iter(tools.answers("scoring density", "unscored", [image for image, _ in views], requests, skipped))
    ready: list[Sample] = []
    came: list[Sample] = []
    rows: dict[bool, list[tuple[dict[Axis, list[str]], str]]] = {False: [], True: []}
    for image, kept, description in matched:
        given = list(islice(scored, len(set(image.images))))
        scores = [one for one in given if one is not None]
        if len(scores) < len(given):
            continue
        fused = conversations.density(scores)
        ids = density.fuse(fused, density.weights(section, kept["domain"]))
        dense = costs.noted(image.model_copy(), *(tools.asker.step("density", "density", one) for one in scores))
        dense.density = {**fused, "ids": round(ids, 6)}
        whole = bool(image.messages)
        if not whole:
            dense.budget = density.budget(ids, section.min_pairs, section.max_pairs)
        (came if whole else ready).append(dense)
        rows[whole].append((kept, description))
    write_samples(tools.work.path("match", number), ready)
    tools.work.write_rows("match", number, rows[False])
    if came:
        write_samples(tools.work.path("match", number, CAME), came)
        tools.work.write_rows("match", number, rows[True], CAME)
    facts = {
        "images": len(images),
        "ids": [image.density["ids"] for image in ready],
        "names": {axis: sorted({name for _, kept, _ in matched for name in kept[axis]}) for axis in labels.AXES},
        "coverage": coverage.count_images(coarse),
        "faults": faults,
        "took": tools.asker.account.rows(),
        "missed": tools.asker.account.missed,
        "skipped": skipped,
    }
    tools.work.publish("match", number, facts)


def write(
    tools: Tools,
    number: int,
    first: int = 0,
    step: int = 0,
    budgets: Sequence[int] | None = None,
    others: Sequence[tuple[int, int, float]] = (),
) -> None:
    """`first`: how many images were ready before this chunk; of every `step`-th the density is also measured from its
    pixels. `budgets` replace the images' own, and `others` (image, topic, score) the last topic of an image."""
    tools.work.clear("write", number)
    tools.asker.account = Account()  # equal questions of a chunk are paid for once
    section = tools.section
    skipped: Skipped = {}
    ready = read_samples(tools.work.path("match", number))
    rows = tools.work.rows("match", number)
    for image, budget in zip(ready, budgets or (), strict=budgets is not None):
        image.budget = budget
    wishes = tools.wishes
    barred = wishes.barred if wishes else frozenset[str]()
    if wishes:
        told: list[list[tuple[int, float]]] = tools.work.rows("fine", number)
        nearest = [[(tools.topics[at], score) for at, score in near] for near in told]
        for image, topic, score in others:
            nearest[image][-1] = tools.topics[topic], score
    else:
        nearest = chunk_topics.nearest(
            tools, [(image, kept, text) for image, (kept, text) in zip(ready, rows, strict=True)]
        )
    looked = [image for at, image in enumerate(ready, start=first) if step and at % step == 0]
    measured = [
        (image.density, density_evidence.measure(tools.store.get(image.images[0]), image.scene)) for image in looked
    ]
    asked = [(image, near) for image, near in zip(ready, nearest, strict=True) if image.budget and near]
    for image, near in zip(ready, nearest, strict=True):
        if not image.budget:
            skip(skipped, "idle", image, "writing questions", "its budget is 0")
        elif not near:
            skip(skipped, "untopical", image, "matching topics", "no topic under its labels")
    requests = [
        synthesize.request(
            tools.picture(image),
            tools.tree,
            [topic for topic, _ in near],
            image.budget or 0,
            synthesize.languages_of(image, section.languages, section.language_per_image),
            tools.seed,
            wishes.asked(image.id, [topic for topic, _ in near], tools.seed) if wishes else None,
        )
        for image, near in asked
    ]
    about = [image for image, _ in asked]
    written = tools.answers("writing questions", "unwritten", about, requests, skipped)
    topics_step = tools.asker.step("topics", "topics", note="of the whole tree; no sample bears its cost")
    made: list[Sample] = []
    dropped: Counter[str] = Counter()
    found = dict(zip([image.id for image in about], written, strict=True))
    for image, near in zip(ready, nearest, strict=True):  # an annotation's own questions need no answer of a model
        answer = found.get(image.id)
        pairs = synthesize.samples(image, near, answer["pairs"] if answer else [], dropped, barred)
        costs.share(image, pairs, topics_step, tools.asker.step("synthesize", "synthesize", answer))
        if answer and not pairs:
            skip(skipped, "unfit", image, "writing questions", "no question fits its topics")
        made += pairs
    whole = _came(tools, number, topics_step, skipped)
    ids = {sample.id for sample in whole}
    here = tools.hygiene()
    cleansed, unclean = here.samples([*made, *whole])
    made, whole = [one for one in cleansed if one.id not in ids], [one for one in cleansed if one.id in ids]
    write_samples(tools.work.path("write", number), made)
    if whole:
        write_samples(tools.work.path("write", number, CAME), whole)
    by = _unclean(tools, "write", number, unclean)
    if section.inject_defects:
        traits = [record(defects.trait(0, sample)) for sample in made]
        tools.work.write_rows("write", number, traits)
    facts = {
        "samples": len(made),
        "came": len(whole),
        "budgets": Counter(str(image.budget) for image in ready),
        "measured": measured,
        "synthesis": report.count_synthesis(made, dropped),
        "unclean": by,
        "borne": {"rejected": costs.borne(unclean)},
        "took": tools.asker.account.rows(),
        "missed": tools.asker.account.missed,
        "hygiene": here.report,
        "skipped": skipped,
        "wished": wishes.count(made) if wishes else [],
    }
    tools.work.publish("write", number, facts)


def judge_(tools: Tools, number: int) -> None:
    """Of clean samples and of known defects alike; of the latter none stays, unless all are let in (`admit_all`)."""
    tools.work.clear("judge", number)
    tools.asker.account = Account()  # equal questions of a chunk are paid for once
    section, asker, tree = tools.section, tools.asker, tools.tree
    samples = read_samples(tools.work.path("write", number))
    if (whole := tools.work.path("write", number, CAME)).exists():
        samples += iter_samples(whole)
    judge.vote(asker, samples, tree, tools.pictures, tools.tell("judging"))
    through = [sample for sample in samples if judge.kept(sample.votes, section.quorum)]
    verify.verify(asker, through, tree, tools.pictures, tools.tell("verifying"))
    for sample in () if section.admit_all else samples:
        if not judge.kept(sample.votes, section.quorum):
            sample.extra["rejected_by"] = "judges"
        elif not verify.passed(sample):
            sample.extra["rejected_by"] = "verification"
    out = set[str]() if section.admit_all else {"rejected_by", "defect"}
    good = [sample for sample in samples if not out & sample.extra.keys()]
    bad = [sample for sample in samples if out & sample.extra.keys()]
    provenance.settle(samples, asker.place)
    write_samples(tools.work.path("judge", number, "good"), good)
    write_samples(tools.work.path("judge", number, "bad"), bad)
    facts = {
        "counts": report.count(samples, section.quorum),
        "coverage": coverage.count_samples(good),
        "wished": tools.wishes.count(good) if tools.wishes else [],
        "came": sum(map(conversations.came, good)),
        "borne": {"kept": costs.borne(good), "rejected": costs.borne(bad)},
        "took": asker.account.rows(),
        "missed": asker.account.missed,
    }
    tools.work.publish("judge", number, facts)


STEPS: dict[str, Callable[..., None]] = {
    "clean": clean, "match": match_, "fine": chunk_topics.fine, "write": write, "judge": judge_,
}  # fmt: skip


def _unclean(tools: Tools, step: str, number: int, unclean: Sequence[Sample]) -> dict[str, int]:
    """Writes the samples that hygiene takes out, by reason, and gives their numbers."""
    provenance.settle(unclean, tools.asker.place)
    by: dict[str, list[Sample]] = {}
    for sample in unclean:
        by.setdefault(str(sample.extra["rejected_by"]), []).append(sample)
    for reason, samples in by.items():
        write_samples(tools.work.path(step, number, reason), samples)
    return {reason: len(samples) for reason, samples in by.items()}


def _came(tools: Tools, number: int, topics_step: Step | None, skipped: Skipped) -> list[Sample]:
    """The chunk's conversations that came whole, under their topics."""
    if not (path := tools.work.path("match", number, CAME)).exists():
        return []
    rows = tools.work.rows("match", number, CAME)
    images = [(image, kept, text) for image, (kept, text) in zip(iter_samples(path), rows, strict=True)]
    found: list[Sample] = []
    barred = tools.wishes.barred if tools.wishes else frozenset[str]()
    for (image, _, _), near in zip(images, chunk_topics.nearest(tools, images), strict=True):
        if image.id in barred:
            skip(skipped, "untopical", image, "feedback", synthesize.NOT_AGAIN)
        elif near:
            found.append(costs.noted(conversations.labelled(image, near), topics_step))
        else:
            skip(skipped, "untopical", image, "matching topics", "no topic under its labels")
    return found


def note(image: Sample) -> str:
    return synthesize.annotation(image.scene)
