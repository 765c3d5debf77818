"""From a round's weaknesses to the next round's plan. A pure function; the rule is this.

Pairs, by place p of the topic tree:

    learns(p) = min(1, right(p) / learnable)
    need(p)   = (E[shortfall of p] + 0.01) x learns(p) x before(p)
    share(p)  = floor x without(p) + (1 - floor) x ((1 - learns(p)) x without(p) + R x need(p) / sum of needs)
    R         = sum of learns x without

A place is leaned towards as far as it is being learned. What is wrong altogether may want ten times the pairs, or a
larger model: nothing says that more of them would help, while the places that pay for it are those that do learn. (A
share of right answers r gains r (1 - r) for each step of its logit: next to nothing where nothing is right, most at one
half, where `learnable` stands if not given.) So that a place where nothing is right has what falls to it, no more and
no less, and one with half of `learnable` right has half of the lean.

`without` is the share that p has where nothing is planned (as round 1 made it). `before` is the same for rounds that go
on from the last model: what was learned is kept, so only what is missing counts. For rounds from the base it is the
share of the round before: what is right now since it had more must go on having it, or the rounds would swing. The
expectation is the posterior's (`weaknesses.py`), so that a place of few questions is drawn to the mean; `right` is what
was counted. A place that was not asked about has the mean need.

Stage 2's tokens, by ability: the same rule with the drop from the base in place of the shortfall (what the base had
right can be learned: `learns` is 1), which is stage 2's own (`deficit.shares`). Where the recipe has the stage itself
measure (`blend: deficit`), it stays with that: it asks right after stage 1, which is nearer to what it mends.

Stage 1's replay: raised where the general score is lost for certain (the drop's interval lies above `margin`), lowered
where it is held for certain (the interval lies below), by as much as the drop is beyond `margin`, `step` at most. With
rationing it is the ratio itself that is measured each round; the next search has as many candidates, in half the span
around what was found.

A fixed plan has the same pairs, even (as without a plan), and the recipe's blend and ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from open4ov.loop.found import Belief, Found, PlaceFound
from open4ov.loop.places import even
from open4ov.loop.plan import AbilityShare, Kind, Plan, Replay, TopicShare, Window
from open4ov.recipe import Recipe
from open4ov.recipe_blend import ONE_STAGE

LEAST, MOST = 0.05, 0.9
"""Between which a plan moves stage 1's replay"""


def make(found: Found, recipe: Recipe, kind: Kind, before: Plan | None) -> Plan:
    """The plan of the round after `found`'s; `before`: the plan of its own round, None after round 1."""
    measured = {f"{name} questions": told for name, told in found.on.items()}
    plan = Plan(
        round=found.round + 1,
        plan=kind,
        start=recipe.loop.start,
        pairs=before.pairs if before else found.pairs,
        level=found.level,
        topics=_topics(found, recipe, kind, before),
        measured=measured,
    )
    if kind == "fixed":
        return plan
    unread = unread_keys(recipe, found)
    return plan.model_copy(
        update={
            "abilities": None if "abilities" in unread else _abilities(found, recipe, before),
            "replay": None if "replay" in unread else _replay(found, recipe, before),
            "ration": None if "ration" in unread else _window(found, recipe, before),
            "hard": "hard" not in unread and found.failed > 0,
            "better": found.better,
        }
    )


def unread_keys(recipe: Recipe, found: Found, kind: Kind = "adaptive") -> dict[str, str]:
    """Keys of a plan that a run of this recipe does not read, and why."""
    if kind == "fixed":
        return dict.fromkeys(("abilities", "replay", "ration", "hard"), "a fixed plan leaves it to the recipe")
    unread: dict[str, str] = {}
    if recipe.sft.schedule in ONE_STAGE:
        unread["abilities"] = f"sft.schedule is {recipe.sft.schedule}, which has no stage 2"
        if recipe.sft.schedule != "random_mix":
            unread["hard"] = f"sft.schedule is {recipe.sft.schedule}, which has no stage 3"
    elif recipe.sft.ability.blend == "deficit":
        unread["abilities"] = "sft.ability.blend is deficit, which each round measures itself"
    if not found.abilities:
        unread["abilities"] = unread["replay"] = "there is no general set"
    if recipe.admission.ration.on:
        unread["replay"] = "admission.ration finds it"
    if not recipe.admission.ration.trials:
        unread["ration"] = "admission.ration has no trials"
    if recipe.sft.preference_set.hard:
        unread["hard"] = "sft.preference_set.hard names tasks of its own"
    elif not recipe.rl.steps:
        unread["hard"] = "rl.steps is 0"
    return unread


def _topics(found: Found, recipe: Recipe, kind: Kind, before: Plan | None) -> list[TopicShare]:
    earlier = {topic.place: topic for topic in before.topics} if before else {}
    rows = [row for row in found.places if not earlier or row.place in earlier]
    asked = {row.place: row for row in rows}
    places = list(earlier) or list(asked)
    without = even([earlier[p].without if earlier else asked[p].made for p in places])
    if kind == "fixed":
        reason = "fixed: as without a plan"
        return [_topic(p, share, share, reason) for p, share in zip(places, without, strict=True)]
    again = recipe.loop.start == "base" and before is not None
    weights = [earlier[p].share if again else share for p, share in zip(places, without, strict=True)]
    beliefs = [asked[p].shortfall if p in asked else None for p in places]
    learns = [_learns(asked.get(p), recipe.loop.learnable) for p in places]
    shares = even(_shared(beliefs, weights, without, recipe.loop.floor, learns))
    told: list[TopicShare] = []
    for place, share, plain, belief, part in zip(places, shares, without, beliefs, learns, strict=True):
        row = asked.get(place)
        if belief is None or row is None or row.right is None:
            reason = "not asked about: the mean need"
        else:
            reason = (
                f"wrong {1 - row.right.right:.0%} of {row.questions} questions; by all "
                f"{belief.mean:.0%} ({belief.low:.0%} to {belief.high:.0%})"
            )
            if part < 1:
                reason += (
                    f"; {part:.0%} of the lean, since so little is right" if part else "; nothing is right: no lean"
                )
        told.append(_topic(place, share, plain, reason))
    return told


def _learns(row: PlaceFound | None, learnable: float) -> float:
    """How far a place is being learned, from 0 to 1; 1 where nothing is known of it."""
    if row is None or row.right is None or not learnable:
        return 1.0
    return min(1.0, row.right.right / learnable)


def _topic(place: tuple[str, str | None, str | None], share: float, without: float, reason: str) -> TopicShare:
    domain, ability, topic = place
    return TopicShare(domain=domain, ability=ability, topic=topic, share=share, without=without, reason=reason)


def _shared(
    beliefs: Sequence[Belief | None],
    before: Sequence[float],
    without: Sequence[float],
    floor: float,
    learns: Sequence[float],
) -> list[float]:
    """The rule above. A part of which nothing is known has the mean need of the others."""
    weights = [part * share for part, share in zip(learns, before, strict=True)]
    known = [(belief.loss, weight) for belief, weight in zip(beliefs, weights, strict=True) if belief]
    among = sum(weight for _, weight in known)
    mean = sum(loss * weight for loss, weight in known) / among if among else 1.0
    needs = [(belief.loss if belief else mean) * weight for belief, weight in zip(beliefs, weights, strict=True)]
    whole = sum(needs)
    if not whole:
        return list(without)
    kept = [(1 - part) * plain for part, plain in zip(learns, without, strict=True)]
    rest = sum(without) - sum(kept)
    return [
        floor * plain + (1 - floor) * (own + rest * need / whole)
        for plain, own, need in zip(without, kept, needs, strict=True)
    ]


def _abilities(found: Found, recipe: Recipe, before: Plan | None) -> list[AbilityShare]:
    earlier: Mapping[str, float] = {}
    if recipe.loop.start == "base" and before and before.abilities:
        earlier = {one.ability: one.share for one in before.abilities}
    rows = found.abilities
    weights = [earlier.get(row.ability, row.size) for row in rows]
    equal = [1 / len(rows)] * len(rows)
    shares = even(_shared([row.drop for row in rows], weights, equal, recipe.loop.floor, [1.0] * len(rows)))
    told: list[AbilityShare] = []
    for row, share in zip(rows, shares, strict=True):
        if row.drop is None or row.before is None or row.after is None:
            reason = "not asked about: the mean need"
        else:
            reason = (
                f"{row.before:.0%} → {row.after:.0%} of {row.questions} questions; lost, by all, "
                f"{row.drop.mean:.0%} ({row.drop.low:.0%} to {row.drop.high:.0%})"
            )
        told.append(AbilityShare(ability=row.ability, share=share, reason=reason))
    return told


def _replay(found: Found, recipe: Recipe, before: Plan | None) -> Replay:
    section, now = recipe.loop, recipe.sft.knowledge.replay
    if before and before.replay:
        now = before.replay.share
    if found.general is None:
        return Replay(share=now, reason="there are no general questions")
    drop, low, high = found.general.drop, found.general.low, found.general.high
    told = f"general score down by {drop:.1%} ({low:.1%} to {high:.1%}) of {found.general.questions} questions"
    if low > section.margin:
        to = min(MOST, now + min(section.step, drop - section.margin))
        return Replay(share=round(max(now, to), 4), reason=f"{told}: lost for certain, so more than {now:.1%}")
    if high < section.margin:
        to = max(LEAST, now - min(section.step, section.margin - drop))
        return Replay(share=round(min(now, to), 4), reason=f"{told}: held for certain, so less than {now:.1%}")
    return Replay(share=now, reason=f"{told}: neither lost nor held for certain, so as before")


def _window(found: Found, recipe: Recipe, before: Plan | None) -> Window:
    ration = recipe.admission.ration
    lowest, highest = (before.ration.lowest, before.ration.highest) if before and before.ration else (
        ration.lowest, ration.highest)  # fmt: skip
    if found.ratio is None:
        return Window(lowest=lowest, highest=highest, reason="nothing was found before")
    half = (highest - lowest) / 4
    centre = min(max(found.ratio, ration.lowest + half), ration.highest - half)
    reason = f"half the span around {found.ratio:.1%}, which round {found.round} found best"
    return Window(lowest=round(centre - half, 6), highest=round(centre + half, 6), reason=reason)
