"""Stage 2's blend of abilities, by what stage 1 has lost of each (paper §3.2.3, "custom blending ratios based on the
severity of deficiencies in different capabilities").

Base and stage-1 model answer the same questions, greedily: those that SFT-Ability keeps apart, never an evaluation's.
A question's drop is 1 where only the base was right, -1 where only the stage-1 model was, else 0; an ability's deficit
is their mean. Few questions make it noisy, so it is shrunk towards the mean over all abilities by as much as the data
say: the abilities' true drops are taken as normally distributed around a common mean, with a flat prior on that mean
and on their spread (the hierarchical model of Gelman et al., Bayesian Data Analysis, 5.4), and each ability's posterior
has a mean, an interval and an expected loss. (A point estimate of the spread was tried: it is often zero, and its
"95 %" intervals then held the truth in 83 of 100 cases.)

    need(a)  = (E[max(0, drop of a)] + 0.01) x share of a in SFT-Ability
    share(a) = floor / abilities + (1 - floor) x need(a) / sum of needs

The expectation is over the posterior: an ability that was lost for certain gets all of its need, one that may have been
lost some, one that has grown next to nothing beside the floor. Where nothing is known to differ, shares follow the set:
so that expected losses which are all practically none are not compared with one another, each has a hundredth more.

Questions count as independent of one another. Those about one picture are not quite: the probe takes one of each
picture as far as they suffice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any

from open4ov import asking, assets, training
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.run_dir import read_json
from open4ov.sample import Sample, content_id
from open4ov.sft import sets
from open4ov.sft.curriculum import ability, by_ability
from open4ov.store import read_samples, write_json, write_samples
from open4ov.verifier import Verifier

if TYPE_CHECKING:
    from open4ov.graph import StageRun

LEVEL = 0.95
"""Of the intervals"""
PRIOR = 4.0
"""Questions' worth of the variance of all abilities that each one's variance is mixed with: none is taken for exact
since its few questions happen to agree"""
WIDEST = 0.5
"""Of the abilities' true drops, the largest standard deviation there could be: they lie between -1 and 1"""
LEAST_LOSS = 0.01
"""Added to the expected loss of every ability: a smaller one decides nothing"""
LEAST_TOKENS = 64
"""Of a response's limit; above, twice its reference"""


@dataclass(frozen=True)
class Deficit:
    """What became of one ability between base and stage 1.

    `before`, `after`: shares of its questions answered rightly; `drop`: their difference as it was measured; `shrunk`,
    `low`, `high`: the posterior's mean and interval; `need`: the expected drop (at least 0) and `LEAST_LOSS`, times
    `size`, the ability's share of the set that can mend it.
    """

    questions: int
    before: float
    after: float
    drop: float
    shrunk: float
    low: float
    high: float
    size: float
    need: float


def ask_base(run: StageRun) -> None:
    """The stage `probe_base`: chooses the questions (probe.parquet) and asks them of the base (answers.json). A stage
    of its own, since its answers stay when stage 1 is trained anew."""
    folder = run.inputs["sets"] / "ability"
    asked = choose(sets.validation(folder), run.recipe.sft.ability.probe)
    if not asked:
        raise UserError(
            "sft.ability.blend: deficit needs questions with a reference answer among what SFT-Ability keeps apart "
            "(split val), and there is none; raise sft.held_out, or set blend to fixed"
        )
    write_samples(run.out / "probe.parquet", asked)
    write_json(run.out / "answers.json", _answers(run, asked, assets.base_dir(run.recipe.model)))


def measure_stage(run: StageRun) -> None:
    """The stage `deficit`: asks the stage-1 model the same, and writes answers.json and blend.json."""
    asked = read_samples(run.inputs["probe_base"] / "probe.parquet")
    base = read_json(run.inputs["probe_base"] / "answers.json") or {}
    after = _answers(run, asked, run.inputs["sft_knowledge"] / "model")
    write_json(run.out / "answers.json", after)
    unsaid = [s.id for s in asked if any(side[s.id]["right"] is None for side in (base, after))]
    if unsaid:
        reason = next(side[unsaid[0]]["reason"] for side in (base, after) if side[unsaid[0]]["right"] is None)
        run.note(asking.unjudged(len(unsaid), len(asked), reason, "these questions are left out"))
    asked = [sample for sample in asked if sample.id not in set(unsaid)]
    if not asked:
        raise UserError("sft.verifier: of no question both answers have a verdict; mend it or name another")
    train = sets.training(run.inputs["sets"] / "ability")
    sizes = {name: len(group) / len(train) for name, group in by_ability(train).items()}
    marks = {sample.id: (base[sample.id]["right"], after[sample.id]["right"]) for sample in asked}
    found = measure({name: [marks[s.id] for s in group] for name, group in by_ability(asked).items()}, sizes)
    chosen = shares(found, sizes, run.recipe.sft.ability.blend_floor)
    unasked = [name for name in sizes if name not in found]
    if unasked:
        run.note(f"no question of split val asks for {', '.join(unasked)}; they get the floor alone")
    told = {name: {**asdict(found[name]), "share": chosen[name]} for name in found}
    told |= {name: {"questions": 0, "size": sizes[name], "share": chosen[name]} for name in unasked}
    overall = fmean(was - now for was, now in marks.values())
    result = {
        "blend": "deficit",
        "questions": len(asked),
        **({"unjudged": len(unsaid)} if unsaid else {}),
        "drop": overall,
        "abilities": told,
    }
    write_json(run.out / "blend.json", _rounded(result))
    run.log({"drop": round(overall, 4), **{f"share {name}": round(share, 4) for name, share in chosen.items()}})


def choose(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many single questions with a reference answer, one of each ability in turn: each ability's by a
    hash of their ids, whatever their order, and those about a picture that has not been asked about yet first.

    The deficit counts questions as independent of one another, which two about one picture are not quite.
    """
    groups = [
        sorted((s for s in group if s.answer and [m.role for m in s.messages] == ["user", "assistant"]), key=_place)
        for group in by_ability(samples).values()
    ]
    seen: set[str] = set()
    again: list[list[Sample]] = [[] for _ in groups]
    chosen: list[Sample] = []
    for sample, group in _in_turn(groups):
        if seen.isdisjoint(sample.images):
            seen.update(sample.images)
            chosen.append(sample)
        else:
            again[group].append(sample)
    chosen += [sample for sample, _ in _in_turn(again)]
    return chosen[:most]


def _place(sample: Sample) -> str:
    return content_id("deficit", sample.id)


def _in_turn(groups: Sequence[Sequence[Sample]]) -> Iterator[tuple[Sample, int]]:
    """The first sample of each group, then the second of each, with the group's number."""
    for depth in range(max(map(len, groups), default=0)):
        for number, group in enumerate(groups):
            if depth < len(group):
                yield group[depth], number


def _answers(run: StageRun, asked: Sequence[Sample], folder: Any) -> dict[str, dict[str, Any]]:
    """Sample id -> the response of the model in a folder, and whether it is right: None, with a reason, where the
    verifier does not say."""
    section = run.recipe.sft
    model, processor = Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)
    model.to(training.device(section.device, "sft.device"))

    def longest(sample: Sample) -> int:
        return max(LEAST_TOKENS, 2 * len(processor.tokenize(sample.messages[-1].text)))

    def told(done: int, total: int) -> None:
        run.progress("asking what was lost", done, total)

    said = asking.answers(model, processor, asked, run.images.get, section.precision, longest, told)
    with Verifier(section.verifier, run.recipe.admission.mastery.verifier_seconds, "sft.verifier") as verifier:
        verdicts = asking.verdicts(said, asked, verifier)
    return {
        sample.id: {"response": text, "right": one.right, **({"reason": one.reason} if one.reason else {})}
        for sample, text, one in zip(asked, said, verdicts, strict=True)
    }


def measure(marks: Mapping[str, Sequence[tuple[bool, bool]]], sizes: Mapping[str, float]) -> dict[str, Deficit]:
    """Each ability's deficit. marks: ability -> (base right, stage 1 right) of each of its questions, at least one;
    sizes: ability -> its share of the set."""
    drops = {name: [float(was) - float(now) for was, now in pairs] for name, pairs in marks.items()}
    means = {name: fmean(values) for name, values in drops.items()}
    squares = {name: sum((value - means[name]) ** 2 for value in values) for name, values in drops.items()}
    questions = sum(map(len, drops.values()))
    pooled = max(sum(squares.values()) / max(questions - len(drops), 1), 1 / (questions + 2))
    variances = {
        name: (squares[name] + PRIOR * pooled) / (len(values) - 1 + PRIOR) / len(values)
        for name, values in drops.items()
    }
    believed = posteriors([(means[name], variances[name]) for name in drops], WIDEST)
    found: dict[str, Deficit] = {}
    for (name, pairs), belief in zip(marks.items(), believed, strict=True):
        size = sizes.get(name, 0.0)
        found[name] = Deficit(
            questions=len(pairs),
            before=fmean(was for was, _ in pairs),
            after=fmean(now for _, now in pairs),
            drop=means[name],
            shrunk=belief.mean,
            low=belief.quantile((1 - LEVEL) / 2),
            high=belief.quantile((1 + LEVEL) / 2),
            size=size,
            need=(belief.expected_loss + LEAST_LOSS) * size,
        )
    return found


@dataclass(frozen=True)
class Belief:
    """What is known of a number: a mixture of normals, (weight, mean, deviation) each, the weights summing to 1."""

    parts: tuple[tuple[float, float, float], ...]

    @property
    def mean(self) -> float:
        return sum(weight * mean for weight, mean, _ in self.parts)

    @property
    def expected_loss(self) -> float:
        """E[max(0, X)]."""
        return sum(weight * _expected_loss(mean, deviation) for weight, mean, deviation in self.parts)

    def quantile(self, share: float) -> float:
        """The number below which X lies with that probability, by bisection."""
        low = min(mean - 10 * deviation for _, mean, deviation in self.parts)
        high = max(mean + 10 * deviation for _, mean, deviation in self.parts)
        for _ in range(40):
            middle = (low + high) / 2
            below = sum(weight * _STANDARD.cdf((middle - mean) / deviation) for weight, mean, deviation in self.parts)
            low, high = (middle, high) if below < share else (low, middle)
        return (low + high) / 2


def posteriors(measured: Sequence[tuple[float, float]], widest: float, steps: int = 64) -> list[Belief]:
    """What is known of each true value behind (measured value, its variance), when all come from one normal
    distribution of unknown mean and unknown spread of at most `widest` (both with flat priors), by summing over a grid
    of spreads."""
    spreads = [widest * (step + 0.5) / steps for step in range(steps)]
    logs: list[float] = []
    conditional: list[list[tuple[float, float]]] = []
    for spread in spreads:
        totals = [variance + spread**2 for _, variance in measured]
        precision = sum(1 / total for total in totals)
        centre = sum(value / total for (value, _), total in zip(measured, totals, strict=True)) / precision
        misfit = sum((value - centre) ** 2 / total for (value, _), total in zip(measured, totals, strict=True))
        logs.append(-0.5 * (math.log(precision) + misfit + sum(map(math.log, totals))))
        given: list[tuple[float, float]] = []
        for (value, variance), total in zip(measured, totals, strict=True):
            own = spread**2 / total
            scatter = own * variance + (1 - own) ** 2 / precision
            given.append((own * value + (1 - own) * centre, math.sqrt(scatter)))
        conditional.append(given)
    top = max(logs)
    weights = [math.exp(log - top) for log in logs]
    whole = sum(weights)
    return [
        Belief(tuple((weight / whole, *given[i]) for weight, given in zip(weights, conditional, strict=True)))
        for i in range(len(measured))
    ]


_STANDARD = NormalDist()


def _expected_loss(mean: float, deviation: float) -> float:
    return mean * _STANDARD.cdf(mean / deviation) + deviation * _STANDARD.pdf(mean / deviation)


def shares(found: Mapping[str, Deficit], sizes: Mapping[str, float], floor: float) -> dict[str, float]:
    """Ability -> its share of stage 2's tokens; they sum to 1. Abilities that were not asked about have the floor.
    sizes: ability -> its share of the set."""
    needs = {name: found[name].need if name in found else 0.0 for name in sizes}
    needs = needs if sum(needs.values()) > 0 else dict(sizes)
    whole = sum(needs.values())
    return {name: floor / len(sizes) + (1 - floor) * need / whole for name, need in needs.items()}


def tokens_of(conversations: Sequence[tuple[Sequence[str], int]], samples: Sequence[Sample]) -> dict[str, int]:
    """Ability -> tokens, of (ids of its samples, tokens) of each conversation; one of several abilities counts for each
    in parts. Ids of other sets are left out."""
    names = {sample.id: ability(sample) for sample in samples}
    counted = dict.fromkeys(sorted(set(names.values())), 0.0)
    for ids, tokens in conversations:
        for name in ids:
            if name in names:
                counted[names[name]] += tokens / len(ids)
    return {name: round(tokens) for name, tokens in counted.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return round(value, 6) if isinstance(value, float) else value
