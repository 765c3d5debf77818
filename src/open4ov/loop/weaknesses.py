"""The stage `weaknesses` of a round: asks its last model the development questions and says, by label, what it lacks.

Of the vertical: by the places of the topic tree (`places.py`) the share of wrong answers. Of general abilities: what
the base had and this model has not, by the hierarchical estimate that stage 2 finds its blend with (`sft/deficit.py`).
Both draw what few questions say towards the mean of all. It leaves weaknesses.json (`found.py`), and answers.json:
question -> place and verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from open4ov import asking, assets, feedback, training
from open4ov.admission import failing, paired, posterior
from open4ov.evaluate.metrics import wilson
from open4ov.feedback import Wish
from open4ov.loop import places
from open4ov.loop.found import AbilityFound, Belief, Change, Found, PlaceFound, Share
from open4ov.loop.places import Level, Place
from open4ov.loop.questions import Look
from open4ov.model import Processor, Qwen3VL
from open4ov.run_dir import read_json
from open4ov.sample import Sample
from open4ov.sft import deficit, sets
from open4ov.sft.curriculum import ability, by_ability
from open4ov.store import count_samples, read_samples, write_json
from open4ov.verifier import Verifier

if TYPE_CHECKING:
    from open4ov.graph import StageRun

Key = TypeVar("Key")
PRIOR = 4.0
"""Questions' worth of the share of all places that each one's is mixed with"""
LEAST_TOKENS = 96
"""Of a response's limit; above, twice its reference"""


def measure(run: StageRun, look: Look) -> None:
    """Writes weaknesses.json and answers.json."""
    given = run.inputs["development"]
    on = (read_json(given / "summary.json") or {})["on"]
    vertical, general = (read_samples(given / f"{name}.parquet") for name in ("vertical", "general"))
    taught = sets.training(run.inputs["sets"] / "knowledge")
    last = _right(run, look, [*vertical, *general], run.inputs["dpo"] / "model", "the round's model")
    base = _right(run, look, general, assets.base_dir(look.recipe.model), "the base")
    vertical = [sample for sample in vertical if last[sample.id] is not None]
    general = [sample for sample in general if last[sample.id] is not None and base[sample.id] is not None]
    placer = failing.placer(taught)
    asked = {sample.id: placer(sample) for sample in vertical}
    held = [placer(sample) for sample in taught]
    level = look.level or places.finest(held, len(vertical))
    right = {name: bool(value) for name, value in last.items()}
    found = Found(
        round=look.round,
        on=on,
        level=level,
        vertical=_share([right[sample.id] for sample in vertical]),
        general=_change([(bool(base[s.id]), right[s.id]) for s in general]) if general else None,
        places=_places(held, asked, right, level),
        abilities=_abilities(general, base, right, sets.training(run.inputs["sets"] / "ability")) if general else [],
        pairs=_pairs(run.inputs["data"]),
        ratio=_ratio(run.inputs.get("ration")),
        better=_better(run.inputs.get("assess")),
        failed=_failed(run.inputs.get("rl")),
    )
    write_json(run.out / "weaknesses.json", found.model_dump(exclude_none=True))
    told: dict[str, dict[str, Any]] = {}
    for sample in vertical:
        place = places.of(asked[sample.id], level)
        told[sample.id] = {"place": place.title if place else None, "right": right[sample.id]}
    told |= {s.id: {"ability": ability(s), "base": base[s.id], "right": right[s.id]} for s in general}
    write_json(run.out / "answers.json", told)
    summary = {"vertical": found.vertical.right, **({"drop": found.general.drop} if found.general else {})}
    write_json(run.out / "summary.json", summary)
    run.log(summary)


def _right(run: StageRun, look: Look, asked: Sequence[Sample], folder: Path, who: str) -> dict[str, bool | None]:
    """Question -> whether a model answers it rightly; None where the verifier does not say."""
    if not asked:
        return {}
    section = look.recipe.sft
    model, processor = Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)
    model.to(training.device(section.device, "sft.device"))

    def longest(sample: Sample) -> int:
        return max(LEAST_TOKENS, 2 * len(processor.tokenize(sample.messages[-1].text)))

    def told(done: int, total: int) -> None:
        run.progress(f"asking {who}", done, total)

    said = asking.answers(model, processor, asked, run.images.get, section.precision, longest, told)
    with Verifier(section.verifier, look.recipe.admission.mastery.verifier_seconds, "sft.verifier") as verifier:
        verdicts = asking.verdicts(said, asked, verifier)
    silent = [one.reason for one in verdicts if one.right is None]
    if silent:
        run.note(asking.unjudged(len(silent), len(asked), silent[0], "these questions are left out"))
    return {sample.id: one.right for sample, one in zip(asked, verdicts, strict=True)}


def _places(
    taught: Sequence[failing.Place], asked: Mapping[str, failing.Place], right: Mapping[str, bool], level: Level
) -> list[PlaceFound]:
    """The places that samples of the round have, in the order of their names. Questions elsewhere say nothing that a
    plan could answer, and are left to the share of all."""
    made = Counter(place for one in taught if (place := places.of(one, level)))
    marks: dict[Place, list[tuple[bool, bool]]] = {}
    for name, where in asked.items():
        place = places.of(where, level)
        if place is not None and place in made:
            marks.setdefault(place, []).append((True, right[name]))
    believed = shortfalls({place: [answer for _, answer in own] for place, own in marks.items()})
    found: list[PlaceFound] = []
    for place, count in sorted(made.items(), key=lambda item: item[0].title):
        own = [answer for _, answer in marks.get(place, [])]
        found.append(
            PlaceFound(
                domain=place.domain,
                ability=place.ability,
                topic=place.topic,
                made=round(count / made.total(), 6),
                questions=len(own),
                right=_share(own) if own else None,
                shortfall=believed.get(place),
            )
        )
    return found


def shortfalls(marks: Mapping[Key, Sequence[bool]]) -> dict[Key, Belief]:
    """What is believed of each place's share of wrong answers: a Beta, with `PRIOR` questions' worth of the share of
    all places before its own. (The normal model of the deficit drew a place with 71 % wrong of 24 to 99 %, since all
    others were wrong throughout.)"""
    asked = sum(map(len, marks.values()))
    mean = (sum(not one for own in marks.values() for one in own) + 0.5) / (asked + 1)
    found: dict[Key, Belief] = {}
    for key, own in marks.items():
        a = PRIOR * mean + sum(not one for one in own)
        b = PRIOR * (1 - mean) + sum(own)
        middle = a / (a + b)
        low, high = (_beta_quantile(a, b, share) for share in (0.025, 0.975))
        found[key] = Belief(mean=round(middle, 6), low=low, high=high, loss=round(middle + deficit.LEAST_LOSS, 6))
    return found


def _beta_quantile(a: float, b: float, share: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if posterior.betainc(a, b, middle) < share else (low, middle)
    return round((low + high) / 2, 6)


def _abilities(
    general: Sequence[Sample], base: Mapping[str, bool | None], right: Mapping[str, bool], train: Sequence[Sample]
) -> list[AbilityFound]:
    marks = {name: [(bool(base[s.id]), right[s.id]) for s in group] for name, group in by_ability(general).items()}
    believed = _believed(marks, -1.0)
    found: list[AbilityFound] = []
    for name, group in by_ability(train).items():
        own = marks.get(name, [])
        before, after = (round(sum(one[side] for one in own) / len(own), 6) if own else None for side in (0, 1))
        size = round(len(group) / len(train), 6)
        drop = believed.get(name)
        found.append(AbilityFound(ability=name, size=size, questions=len(own), before=before, after=after, drop=drop))
    return found


def _believed(marks: Mapping[Key, Sequence[tuple[bool, bool]]], least: float) -> dict[Key, Belief]:
    """What the hierarchical model makes of each group's (before, after). Its normals know no bounds; what is told lies
    between `least` and 1."""
    if not marks:
        return {}
    keys = list(marks)
    named = {str(number): marks[key] for number, key in enumerate(keys)}
    measured = deficit.measure(named, dict.fromkeys(named, 1.0))

    def told(value: float) -> float:
        return round(min(1.0, max(least, value)), 6)

    return {
        key: Belief(mean=told(one.shrunk), low=told(one.low), high=told(one.high), loss=round(one.need, 6))
        for key, one in zip(keys, measured.values(), strict=True)
    }


def _share(right: Sequence[bool]) -> Share:
    told = wilson(sum(right), len(right)).as_dict()
    return Share(questions=len(right), right=told["score"], low=told["low"], high=told["high"])


def _change(pairs: Sequence[tuple[bool, bool]]) -> Change:
    counted = paired.compare([before for before, _ in pairs], [after for _, after in pairs])
    low, high = paired.interval(counted, 0.95)
    return Change(
        questions=len(pairs),
        before=round(sum(before for before, _ in pairs) / len(pairs), 6),
        after=round(sum(after for _, after in pairs) / len(pairs), 6),
        drop=round(-counted.difference, 6),
        low=round(-high, 6),
        high=round(-low, 6),
    )


def _pairs(data: Path) -> int:
    """Question-answer pairs that the round's budgets asked for."""
    report = read_json(data / "report.json") or {}
    return sum(int(budget) * images for budget, images in report["density"]["budgets"].items())


def _ratio(ration: Path | None) -> float | None:
    found = read_json(ration / "ratio.json") if ration else None
    return None if found is None else float(found["ratio"])


def _better(assess: Path | None) -> list[Wish]:
    if assess is None:
        return []
    return [wish for wish in feedback.read(assess / "feedback.yaml").wishes if wish.want == "better"]


def _failed(rl: Path | None) -> int:
    file = rl / "failed.parquet" if rl else None
    return count_samples(file) if file and file.is_file() else 0
