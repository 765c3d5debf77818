"""Who bears what an answer took: steps of samples that were made with it, and the sums of a report.

- Labels and density are asked once for an image: all samples made from it bear equal parts.
- Questions of an image are written together: the samples made of them bear equal parts, pairs that were dropped none.
- Votes and checks are asked for one sample, which bears them whole.
- Topics belong to the tree and not to a sample; they, images without a sample and answers that led to nothing are in
  the report under `no_sample`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from open4ov.mllm.took import Total
from open4ov.sample import Sample, Step

_COUNTS = ("input", "output", "money")


def noted(sample: Sample, *steps: Step | None) -> Sample:
    """A copy of the sample with the steps behind its own; the sample itself when there are none."""
    more = [step for step in steps if step is not None]
    return sample.model_copy(update={"steps": [*sample.steps, *more]}) if more else sample


def shares(step: Step, among: int) -> list[Step]:
    """Equal parts of a step: whole tokens that sum to its own, the first parts being the smaller ones."""
    if among < 2 or step.input is None:
        return [step] * among

    def part(whole: int | None, number: int) -> int | None:
        return None if whole is None else whole * (number + 1) // among - whole * number // among

    return [
        step.model_copy(
            update={
                "input": part(step.input, number),
                "output": part(step.output, number),
                "cost": None if step.cost is None else step.cost / among,
                "among": among,
            }
        )
        for number in range(among)
    ]


def share(image: Sample, made: Sequence[Sample], *written: Step | None) -> None:
    """Gives the samples made of an image their steps: parts of the image's own, and of `written` by those that a model
    wrote; the annotation's own questions (stage `annotation`) bear nothing of that."""
    own = [list(sample.steps[len(image.steps) :]) for sample in made]
    steps: list[list[Step]] = [[] for _ in made]
    for step in image.steps:
        for mine, part in zip(steps, shares(step, len(made)), strict=True):
            mine.append(part)
    asked = [at for at, more in enumerate(own) if not any(step.stage == "annotation" for step in more)]
    for step in written:
        if step is not None:
            for at, part in zip(asked, shares(step, len(asked)), strict=True):
                steps[at].append(part)
    for sample, mine, more in zip(made, steps, own, strict=True):
        sample.steps = [*mine, *more]


def unpaid(steps: Iterable[Step]) -> list[Step]:
    """Steps of a copy: the sample that it was copied from bears what they took."""
    nothing: dict[str, Any] = dict.fromkeys(("input", "output", "estimated", "among", "cost", "kept"))
    return [step.model_copy(update=nothing) for step in steps]


def borne(samples: Iterable[Sample]) -> dict[str, Any]:
    """What samples bear together: input and output tokens, and money (None where none of it has a price)."""
    read = written = 0
    money: list[float] = []
    for sample in samples:
        for step in sample.steps:
            read += step.input or 0
            written += step.output or 0
            if step.cost is not None:
                money.append(step.cost)
    return {"input": read, "output": written, "money": sum(money) if money else None}


def figures(totals: Mapping[str, Total], **groups: Mapping[str, Any]) -> dict[str, Any]:
    """The part `costs` of a report: `steps` (by step), `total`, what each group of samples bears (`borne`), and
    `no_sample`, the rest. Empty where no answer took anything, as with the catalog."""
    if not totals:
        return {}
    total = sum(totals.values(), Total()).figures()
    found = {name: dict(group) for name, group in groups.items()}
    rest: dict[str, Any] = {}
    for name in _COUNTS:
        taken = sum(group[name] or 0 for group in found.values())
        rest[name] = None if total[name] is None else max(0, total[name] - taken)
    if rest["money"] is not None and rest["money"] < 1e-9 * max(total["money"], 1e-12):
        rest["money"] = 0.0  # what rounding left over
    steps = {stage: one.figures() for stage, one in totals.items()}
    return {"steps": steps, "total": total, **found, "no_sample": rest}


def merged(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sums of several `figures`."""
    result: dict[str, Any] = {}
    for one in parts:
        _add(result, one)
    return result


def _add(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            _add(into.setdefault(key, {}), cast("dict[str, Any]", value))
        elif value is not None:
            into[key] = (into.get(key) or 0) + value
        else:
            into.setdefault(key, None)


def per_kept(costs: Mapping[str, Any], kept: int) -> dict[str, Any]:
    """Money and tokens for each kept sample, in all and by step, whatever the others took included: `total` of the
    costs over the number kept. None where nothing was kept or no cost is known: the catalog's cannot be counted."""
    if not costs or not kept:
        return {"money": None, "tokens": None, "roles": {}}

    def each(one: Mapping[str, Any]) -> dict[str, Any]:
        money = one["money"]
        return {"money": None if money is None else money / kept, "tokens": (one["input"] + one["output"]) / kept}

    return {**each(costs["total"]), "roles": {stage: each(one) for stage, one in costs["steps"].items()}}
