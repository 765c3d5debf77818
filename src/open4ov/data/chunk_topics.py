"""Fine matching of a chunk (paper §2.2.3), and the step that chooses topics and leans budgets by what is wished."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from open4ov.data import match
from open4ov.data.nearest import Floats, unit
from open4ov.data.task import Matched, Tools
from open4ov.data.topics import Topic
from open4ov.data.wishes import POOL
from open4ov.mllm.embedders import Embedder
from open4ov.mllm.took import Account
from open4ov.sample import Sample
from open4ov.store import read_samples


def fine(tools: Tools, number: int) -> None:
    """The topics of images that are ready, by what is wished; the rows hold their numbers and scores."""
    tools.work.clear("fine", number)
    tools.asker.account = Account()
    wishes, ready = tools.wishes, read_samples(tools.work.path("match", number))
    assert wishes is not None, "without wishes fine matching needs no step of its own"
    rows = tools.work.rows("match", number)
    images = [(image, kept, text) for image, (kept, text) in zip(ready, rows, strict=True)]
    top = tools.section.top_topics
    pools = nearest(tools, images, POOL * top)
    chosen = [pool[:top] for pool in pools]
    place = {topic: at for at, topic in enumerate(tools.topics)}
    tools.work.write_rows("fine", number, [[[place[topic], score] for topic, score in near] for near in chosen])
    facts = {
        "lean": [round(wishes.lean(near, tools.tree), 6) for near in chosen],
        "shares": [wishes.expect(near) for near in chosen],
        "others": [
            (wish, at, place[topic], score)
            for at, pool in enumerate(pools)
            for wish, topic, score in wishes.others(pool, top)
        ],
        "images": [sum(column) for column in zip(*map(wishes.touches, chosen), strict=True)],
        "took": tools.asker.account.rows(),
        "missed": tools.asker.account.missed,
    }
    tools.work.publish("fine", number, facts)


def _rows_of(embedder: Embedder, tools: Tools, samples: Sequence[Sample]) -> Floats:
    """A row for each sample [N, D]: its picture's; of several pictures the mean of theirs at length 1."""
    rows = embedder.images([picture for sample in samples for picture in tools.pictures(sample)])
    ends = np.cumsum([len(sample.images) for sample in samples])
    parts = np.split(rows, ends[:-1])
    return np.stack([part[0] if len(part) == 1 else unit(part).mean(axis=0) for part in parts])


def nearest(tools: Tools, matched: Sequence[Matched], top: int | None = None) -> list[list[tuple[Topic, float]]]:
    """Fine matching: by the images where the embedder sees them, else by their descriptions. `top`: topics of each,
    `top_topics` if not given."""
    if not tools.topics or not matched:
        return [[] for _ in matched]
    embedder = tools.asker.embedder
    if embedder.sees:
        images = _rows_of(embedder, tools, [image for image, _, _ in matched])
    else:
        images = embedder.texts([description for _, _, description in matched])
    return match.fine(
        images, tools.topics, tools.topic_rows, [kept for _, kept, _ in matched], top or tools.section.top_topics
    )
