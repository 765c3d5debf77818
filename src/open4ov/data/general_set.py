"""The general set under the label tree: open data is put through label matching and managed with the vertical (§3.2.2).

What our own corpora drew is labelled by what was drawn (corpus_labels.py). An imported set, or a folder's questions, is
matched as a conversation is that came whole, where the recipe asks for it (`data.match_general`): each sample with a
picture is ranked, which is a question to whoever plays `rank`, and gets the nearest topics to what it asks. Nothing is
written, judged or rejected. Samples that have labels keep them; what stays without is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from open4ov.data import chunk_topics, conversations, corpus_labels, labels, match, synthesize
from open4ov.data.labels import AXES
from open4ov.data.task import Matched, Skipped, Tools
from open4ov.mllm.took import Account
from open4ov.sample import Axis, Sample

STEP = "general"


def rank(tools: Tools, samples: Sequence[Sample]) -> int:
    """Asks for the ranking of all samples that want one, in chunks that are kept; gives the number of chunks."""
    size = tools.section.chunk
    chunks = -(-len(samples) // size)
    for number in range(chunks):
        if not tools.work.done(STEP, number):
            _rank(tools, number, samples[number * size : (number + 1) * size])
    return chunks


def _rank(tools: Tools, number: int, samples: Sequence[Sample]) -> None:
    tools.work.clear(STEP, number)
    tools.asker.account = Account()
    tree = tools.tree
    asked = [sample for sample in samples if wants(sample)]
    named = match.named(tree)
    requests = [
        conversations.rank(sample, tools.pictures(sample), tree, synthesize.annotation(sample.scene), named)
        for sample in asked
    ]
    skipped: Skipped = {}
    answers = tools.answers("matching labels of the general set", "unranked", asked, requests, skipped)
    rows: dict[str, tuple[dict[Axis, list[str]], str]] = {}
    names: dict[Axis, set[str]] = {axis: set() for axis in AXES}
    for sample, answer in zip(asked, answers, strict=True):
        if answer is not None:
            kept = match.coarse(answer, tree, tools.section.top_l1)
            rows[sample.id] = kept, answer["description"]
            if all(kept.values()):
                for axis in AXES:
                    names[axis].update(kept[axis])
    tools.work.write_rows(STEP, number, list(rows.items()))
    facts = {
        "names": {axis: sorted(found) for axis, found in names.items()},
        "unranked": len(asked) - len(rows),
        "took": tools.asker.account.rows(),
        "missed": tools.asker.account.missed,
    }
    tools.work.publish(STEP, number, facts)


def matched(tools: Tools, samples: Sequence[Sample], chunks: int) -> list[Sample]:
    """The samples under their topics; topics must be there. `chunks`: of `rank`."""
    found: dict[str, Sample] = {}
    by_id = {sample.id: sample for sample in samples}
    for number in range(chunks):
        ranked: list[Matched] = [
            (by_id[name], kept, description) for name, (kept, description) in tools.work.rows(STEP, number)
        ]
        ranked = [one for one in ranked if all(one[1].values())]
        for (sample, _, _), near in zip(ranked, chunk_topics.nearest(tools, ranked), strict=True):
            if near:
                found[sample.id] = conversations.labelled(sample, near)
    return [found.get(sample.id, sample) for sample in samples]


def drawn(tools: Tools, samples: Sequence[Sample]) -> list[Sample]:
    """Samples of our own corpora with their labels."""
    known = corpus_labels.names(tools.tree)
    return [corpus_labels.labelled(sample, tools.tree, known) for sample in samples]


def wants(sample: Sample) -> bool:
    """Whether a sample can be matched: it has a picture and a question, and no labels yet."""
    return bool(sample.images and not sample.labels and any(one.role == "user" for one in sample.messages))


def figures(after: Sequence[Sample], came: int, unranked: int) -> dict[str, Any]:
    """The part `general_labels` of the report: how many have labels on both axes, came with them, and why not."""
    bare = [sample for sample in after if len({label.axis for label in sample.labels}) < len(labels.AXES)]
    counted = {axis: Counter[str]() for axis in AXES}
    for sample in after:
        for axis, l1 in {(label.axis, label.l1) for label in sample.labels}:
            counted[axis][l1] += 1
    return {
        "samples": len(after),
        "labelled": len(after) - len(bare),
        "came_labelled": came,
        "without_picture": sum(not sample.images for sample in bare),
        "no_answer": unranked,
        "labels": {axis: dict(sorted(counts.items())) for axis, counts in counted.items()},
    }
