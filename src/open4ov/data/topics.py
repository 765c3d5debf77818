"""The topic tree: L3 topics that fuse a domain with an ability (paper §2.2.2).

Asked per (domain L2, ability L2) pair, and only for pairs under L1 labels that some image was matched to: the tree
grows where there is data. Topics that say the same are kept once. Each is traceable as `L1 ~ L2 ~ L3`, and to the ids
of both parents.
"""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from open4ov.data.labels import L1, L2, LabelTree
from open4ov.data.wording import key
from open4ov.errors import UserError
from open4ov.mllm.answers import Topics
from open4ov.mllm.ask import Asker, Prompt, Request
from open4ov.sample import Label
from open4ov.store import atomic

LIMIT = 12  # topics asked for a pair
BATCH = 512  # pairs asked at once
_ROWS = 8192  # of one Parquet row group
_SCHEMA = pa.schema([
    pa.field(name, pa.string(), nullable=False)
    for name in ("name", "path", "domain_l1", "domain_l2", "ability_l1", "ability_l2", "domain_id", "ability_id")
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Topic:
    """An L3 topic and the two branches it joins; names as in the tree."""

    name: str
    domain: tuple[str, str]
    ability: tuple[str, str]

    @property
    def path(self) -> str:
        """`ability L1 ~ ability L2 ~ L3`, as samples carry it: "Counting ~ Symbol and sign counting ~ ..."."""
        return " ~ ".join((*self.ability, self.name))

    @property
    def text(self) -> str:
        """What is embedded: all five names."""
        return f"{' ~ '.join(self.domain)} ~ {self.path}"

    def labels(self, score: float | None = None) -> list[Label]:
        """The topic's place on both axes; `score` is its similarity to the image."""
        return [
            Label(axis="domain", l1=self.domain[0], l2=self.domain[1], score=score),
            Label(axis="ability", l1=self.ability[0], l2=self.ability[1], score=score),
        ]


Pair = tuple[L1, L2, L1, L2]
"""Domain L1 and L2, ability L1 and L2"""


def generate(
    asker: Asker,
    tree: LabelTree,
    domains: set[str],
    abilities: set[str],
    limit: int | Callable[[Pair], int] = LIMIT,
) -> tuple[list[Topic], list[dict[str, str]]]:
    """Topics under the given L1 names in the tree's order, and the pairs that got none with the reason.

    `limit` topics are asked for a pair of L2 labels. Pairs are asked in batches, so that only topics are held.
    """
    skipped: list[dict[str, str]] = []

    def most(pair: Pair) -> int:
        return limit(pair) if callable(limit) else limit

    return list(unique(_asked(asker, tree.pairs(domains, abilities), most, skipped))), skipped


def _asked(
    asker: Asker, pairs: Iterator[Pair], most: Callable[[Pair], int], skipped: list[dict[str, str]]
) -> Iterator[Topic]:
    while batch := list(islice(pairs, BATCH)):
        requests = [
            Request(
                "topics",
                Prompt(
                    "topics",
                    {
                        "domain": {"l1": domain.name, "l2": domain2.name, "things": list(domain2.things)},
                        "ability": {"l1": ability.name, "l2": ability2.name, "patterns": list(ability2.patterns)},
                        "limit": most((domain, domain2, ability, ability2)),
                    },
                ),
                (),
                Topics,
            )
            for domain, domain2, ability, ability2 in batch
        ]
        for pair, answer in zip(batch, asker.ask_many(requests), strict=True):
            domain, domain2, ability, ability2 = pair
            if not isinstance(answer, dict):
                skipped.append({"pair": f"{domain2.name} × {ability2.name}", "reason": str(answer)})
                continue
            branch = (domain.name, domain2.name), (ability.name, ability2.name)
            names = (_clean(name) for name in answer["topics"][: most(pair)])
            yield from (Topic(name, *branch) for name in names if name)


def unique(topics: Iterable[Topic]) -> Iterator[Topic]:
    """The first of topics that say the same within one ability L2: equal up to case, punctuation, function words,
    plural and word order (wording.py). Holds 64 bits of each name."""
    seen: set[int] = set()
    for topic in topics:
        said = "\0".join((*topic.ability, key(topic.name)))
        mark = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "big")
        if mark not in seen:
            seen.add(mark)
            yield topic


def parents(topic: Topic, tree: LabelTree) -> tuple[str, str]:
    """The ids of the domain L2 and the ability L2 that a topic joins. Raises `UserError` for one not of this tree."""
    domain, ability = tree.find("domain", *topic.domain), tree.find("ability", *topic.ability)
    if domain is None or ability is None:
        lost = " ~ ".join(topic.domain if domain is None else topic.ability)
        raise UserError(f"the topic {topic.name!r} is under {lost!r}, which version {tree.version} of the labels lacks")
    return domain.id, ability.id


def write(path: Path, topics: Iterable[Topic], tree: LabelTree) -> int:
    """Writes topics as Parquet, each with names and ids of both parents, and gives their number. Streams."""
    written, source = 0, iter(topics)
    schema = _SCHEMA.with_metadata({"open4ov": "topics-1", "labels": str(tree.version)})
    known: dict[tuple[tuple[str, str], tuple[str, str]], tuple[str, str]] = {}
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while chunk := list(islice(source, _ROWS)):
            rows: list[tuple[str, ...]] = []
            for topic in chunk:
                branch = topic.domain, topic.ability
                if branch not in known:
                    known[branch] = parents(topic, tree)
                rows.append((topic.name, topic.path, *topic.domain, *topic.ability, *known[branch]))
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            written += len(chunk)
    return written


def read(path: Path) -> Iterator[Topic]:
    """The topics of a file, in order, a batch at a time. Raises `UserError` when it is not one."""
    names = ["name", "domain_l1", "domain_l2", "ability_l1", "ability_l2"]
    try:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=names):
            for name, *branch in zip(*(batch.column(column).to_pylist() for column in names), strict=True):
                yield Topic(name, (branch[0], branch[1]), (branch[2], branch[3]))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(
            f"{path}: not a readable Parquet file of topics: {' '.join(str(error).split())[:200]}"
        ) from None


def _clean(name: str) -> str:
    return re.sub(r"\s+", " ", name.replace("~", "-")).strip()
