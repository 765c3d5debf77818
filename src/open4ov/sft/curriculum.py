"""What a stage is trained on, and in which order (paper §3.2.3).

First dimension, the stages: knowledge (the vertical), ability (general skills that the first stage may have harmed),
preference (`preference_data.py`). Each replays a share of the others' samples. Second dimension, difficulty: inside a
stage the samples go from mastered over partly mastered to unmastered, as judged by the model's own rollouts
(`admission/mastery.py`). Stage 2 may blend its abilities by what stage 1 has lost of each (`deficit.py`).

All of it is a pure function of the samples and a seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from open4ov.errors import UserError, nearest
from open4ov.sample import Sample, content_id, mastery_of, without_images
from open4ov.sft.ordering import by_difficulty, by_picture, in_turn, spread


@dataclass(frozen=True)
class Material:
    """The samples of one stage: its own, and those of other sets that it replays for a share of the tokens."""

    own: list[Sample]
    replay: list[Sample]


@dataclass(frozen=True)
class Blend:
    """Shares of a stage's own tokens by ability, which sum to 1; `epochs`: most times that the samples of an ability
    are gone through; `left`: of those that have been gone through before, how often still. What an ability cannot fill
    goes to the others."""

    shares: Mapping[str, float]
    epochs: float
    left: Mapping[str, float] = field(default_factory=dict[str, float])

    def after(self, whole: Sequence[Sample], drawn: Sequence[Sample], before: Mapping[str, int]) -> Blend:
        """The blend of a further part of a stage. whole: the stage's own set; drawn: what of it this part takes, some
        of it several times perhaps; before: sample id -> times that it was taken in the parts before."""
        parts, left = by_ability(drawn), dict[str, float]()
        for name, group in by_ability(whole).items():
            if name in parts:
                taken = sum(before.get(id, 0) for id in {sample.id for sample in group})
                left[name] = max(0.0, self.epochs * len(group) - taken) / len(parts[name])
        return replace(self, left=left)


@dataclass(frozen=True)
class Order:
    """`samples`: the conversations of a stage in training order; `tokens`: their total; `too_long`: ids left out
    because they fit in no pack; `epochs`: times that the stage's own set was gone through (a share of it, below 1);
    `drawn`: sample id -> times; `abilities`: of a blend, ability -> (tokens, epochs, whether it ran out)."""

    samples: list[Sample]
    tokens: int
    too_long: list[str]
    epochs: float
    drawn: Counter[str] = field(default_factory=Counter[str])
    abilities: dict[str, tuple[int, float, bool]] = field(default_factory=dict[str, tuple[int, float, bool]])


def order(
    material: Material,
    tokens: int,
    replay: float,
    turns: int,
    noise: float,
    length: Callable[[Sample], int],
    longest: int,
    seed: int | str,
    blend: Blend | None = None,
    before: Mapping[str, int] | None = None,
    gather: bool = False,
) -> Order:
    """Conversations for `tokens` tokens, of which a share `replay` from the replayed set, spread evenly.

    Every epoch merges the samples anew into conversations of up to `turns` questions, one of each task in turn, so that
    a budget below an epoch is spent evenly; with a `blend`, each ability has its share instead. The stage's own
    conversations are in difficulty order over the whole stage (see `by_difficulty`); replayed ones are shuffled.
    `length(sample)` gives tokens; conversations over `longest` are listed in `too_long` and left out. `before`: how
    often each sample was drawn already; those drawn less come first. `gather`: what is about one picture stands
    together, where its difficulty allows it.
    """
    share = replay if material.own else 1.0
    share = share if material.replay else 0.0

    def draws(samples: Sequence[Sample], name: str) -> _Draws:
        return _Draws(samples, turns, length, longest, f"{name} {seed}", before or {})

    budget, again = tokens * (1 - share), draws(material.replay, "replay")
    abilities: dict[str, tuple[int, float, bool]] = {}
    if blend is None:
        own = [draws(material.own, "own")]
        taken = own[0].take(budget)
    else:
        groups = by_ability(material.own)
        parts = {name: draws(groups[name], f"own {name}") for name in blend.shares if name in groups}
        taken, ran_out = _blended(parts, blend, budget)
        own = list(parts.values())
        abilities = {name: (part.tokens, part.epochs, name in ran_out) for name, part in parts.items()}
    over = max(0.0, sum(part.tokens for part in own) - budget)
    replayed = again.take(tokens * share - over)
    conversations = sum(part.conversations for part in own)
    return Order(
        samples=spread(
            by_difficulty(taken, noise, seed, gather), by_picture(replayed, f"replay {seed}") if gather else replayed
        ),
        tokens=again.tokens + sum(part.tokens for part in own),
        too_long=sorted({name for part in (*own, again) for name in part.too_long}),
        epochs=sum(part.visited for part in own) / conversations if conversations else 0.0,
        drawn=Counter(name for sample in (*taken, *replayed) for name in members(sample)),
        abilities=abilities,
    )


class _Draws:
    """Conversations of some samples, epoch after epoch, as many as are asked for."""

    def __init__(
        self,
        samples: Sequence[Sample],
        turns: int,
        length: Callable[[Sample], int],
        longest: int,
        seed: str,
        before: Mapping[str, int],
    ) -> None:
        self.tokens = self.visited = self.conversations = 0
        self.too_long: list[str] = []
        self._layers = _layers(samples)
        self._turns, self._length, self._longest, self._seed, self._before = turns, length, longest, seed, before
        self._flow = self._all()

    @property
    def epochs(self) -> float:
        return self.visited / self.conversations if self.conversations else 0.0

    def take(self, budget: float, most: float = 10_000) -> list[Sample]:
        """Conversations until they have `budget` tokens in all that were taken so far, or for `most` epochs."""
        drawn: list[Sample] = []
        if budget < 1:
            return drawn
        while self.tokens < budget and not (self.conversations and self.visited >= most * self.conversations):
            conversation = next(self._flow, None)
            if conversation is None:
                break
            if (size := self._length(conversation)) > self._longest:
                continue
            drawn.append(conversation)
            self.tokens += size
        return drawn

    def _all(self) -> Iterator[Sample]:
        """Every conversation; ends when an epoch had none that fits."""
        for epoch in range(10_000):
            rng = random.Random(f"curriculum {self._seed} {epoch}")
            merged = [one for layer in self._layers for one in merge(layer, self._turns, rng)]
            if len(self._layers) > 1:
                rng.shuffle(merged)
            if self._before:
                merged.sort(key=lambda one: min(self._before.get(name, 0) for name in members(one)))
            merged = in_turn(merged)
            self.conversations = max(len(merged), self.conversations)
            fits = False
            for conversation in merged:
                self.visited += 1
                if self._length(conversation) > self._longest:
                    self.too_long.extend([conversation.id] if epoch == 0 else [])
                else:
                    fits = True
                yield conversation
            if not fits:
                return


def _layers(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples that come several times (drawn so by their mastery), apart: no conversation asks the same twice."""
    layers: list[list[Sample]] = []
    seen: Counter[str] = Counter()
    for sample in samples:
        if seen[sample.id] == len(layers):
            layers.append([])
        layers[seen[sample.id]].append(sample)
        seen[sample.id] += 1
    return layers


def _blended(parts: Mapping[str, _Draws], blend: Blend, budget: float) -> tuple[list[Sample], set[str]]:
    """Conversations by the shares of a blend, and the abilities that ran out. What those leave is shared out among the
    others, again by their shares."""
    taken: list[Sample] = []
    most = {name: blend.left.get(name, blend.epochs) for name in parts}
    ran_out = {name for name, epochs in most.items() if epochs <= 0 < blend.shares[name]}
    while True:
        going = {name: blend.shares[name] for name in parts if name not in ran_out and blend.shares[name] > 0}
        left = budget - sum(part.tokens for part in parts.values())
        if left < 1 or not going:
            return taken, ran_out
        whole = sum(going.values())
        aims = {name: parts[name].tokens + left * share / whole for name, share in going.items()}
        for name, aim in aims.items():
            taken += parts[name].take(aim, most[name])
            if parts[name].tokens < aim:
                ran_out.add(name)


def ability(sample: Sample) -> str:
    """What a sample exercises: the L1 name of its nearest ability label; its task, where it has none."""
    labels = [label for label in sample.labels if label.axis == "ability"]
    return max(labels, key=lambda label: label.score or 0.0).l1 if labels else sample.task


def by_ability(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Ability -> its samples, in the order of the names."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(ability(sample), []).append(sample)
    return dict(sorted(groups.items()))


def by_hand(given: Mapping[str, float], samples: Sequence[Sample]) -> dict[str, float]:
    """A blend that the recipe sets by hand. Raises UserError for an ability that no sample has."""
    known = by_ability(samples)
    for name, share in given.items():
        if name not in known and share > 0:
            raise UserError(f"sft.ability.blend.{name}: no sample of SFT-Ability is of it{nearest(name, known)}")
    return dict(given)


def members(sample: Sample) -> list[str]:
    """The ids of the samples that a conversation was merged of; of a sample of its own, its id."""
    return sample.lineage if sample.extra.get("merged") else [sample.id]


def merge(samples: Sequence[Sample], turns: int, rng: random.Random) -> list[Sample]:
    """Conversations of up to `turns` single questions about the same image(s), in random order.

    One picture is then encoded once for several answers. Samples without images, or of several turns already, stay
    alone. The result is shuffled.
    """
    groups: dict[tuple[str, ...], list[Sample]] = {}
    conversations: list[Sample] = []
    for sample in samples:
        if turns > 1 and sample.images and [m.role for m in sample.messages] == ["user", "assistant"]:
            groups.setdefault((sample.language, *sample.images), []).append(sample)
        else:
            conversations.append(sample)
    for group in groups.values():
        rng.shuffle(group)
        conversations += [joined(group[i : i + turns]) for i in range(0, len(group), turns)]
    rng.shuffle(conversations)
    return conversations


def joined(samples: Sequence[Sample]) -> Sample:
    """One conversation of samples that share their images: the images stand in the first question only."""
    if len(samples) == 1:
        return samples[0]
    messages = list(samples[0].messages)
    for sample in samples[1:]:
        messages += [without_images(message) for message in sample.messages]
    rates = [sample.pass_rate for sample in samples if sample.pass_rate is not None]
    rate = sum(rates) / len(rates) if rates else None
    return samples[0].model_copy(
        update={
            "id": content_id("conversation", [sample.id for sample in samples]),
            "messages": messages,
            "answer": None,
            "aliases": [],
            "lineage": [sample.id for sample in samples],
            "extra": {**samples[0].extra, "merged": len(samples)},
            "pass_rate": rate,
            "mastery": mastery_of(rate),
        }
    )
