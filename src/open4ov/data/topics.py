"""The topic tree: L3 topics that fuse a domain with an ability (paper §2.2.2).

Asked per (domain L2, ability L2) pair, and only for pairs under L1 labels that some image was matched to: the tree
grows where there is data. Topics equal up to case and punctuation are kept once. Each is traceable as `L1 ~ L2 ~ L3`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from open4ov.data.labels import LabelTree
from open4ov.mllm.answers import Topics
from open4ov.mllm.ask import Asker, Prompt, Request
from open4ov.sample import Label

LIMIT = 12  # topics asked for a pair


@dataclass(frozen=True)
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


def generate(
    asker: Asker, tree: LabelTree, domains: set[str], abilities: set[str]
) -> tuple[list[Topic], list[dict[str, str]]]:
    """Topics under the given L1 names in the tree's order, and the pairs that got none with the reason."""
    pairs = list(tree.pairs(domains, abilities))
    requests = [
        Request(
            "topics",
            Prompt(
                "topics",
                {
                    "domain": {"l1": domain.name, "l2": domain2.name, "things": list(domain2.things)},
                    "ability": {"l1": ability.name, "l2": ability2.name, "patterns": list(ability2.patterns)},
                    "limit": LIMIT,
                },
            ),
            (),
            Topics,
        )
        for domain, domain2, ability, ability2 in pairs
    ]
    topics: list[Topic] = []
    skipped: list[dict[str, str]] = []
    for (domain, domain2, ability, ability2), answer in zip(pairs, asker.ask_many(requests), strict=True):
        if not isinstance(answer, dict):
            skipped.append({"pair": f"{domain2.name} × {ability2.name}", "reason": str(answer)})
            continue
        branch = (domain.name, domain2.name), (ability.name, ability2.name)
        topics += [Topic(_clean(name), *branch) for name in answer["topics"][:LIMIT] if _clean(name)]
    return unique(topics), skipped


def unique(topics: Iterable[Topic]) -> list[Topic]:
    """The first of topics whose names are equal up to case, spaces and punctuation, within one ability L2."""
    seen: dict[tuple[str, str, str], Topic] = {}
    for topic in topics:
        seen.setdefault((*topic.ability, re.sub(r"\W+", " ", topic.name).strip().casefold()), topic)
    return list(seen.values())


def _clean(name: str) -> str:
    return re.sub(r"\s+", " ", name.replace("~", "-")).strip()
