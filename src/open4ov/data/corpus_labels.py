"""Labels of what our own general corpora drew: by the task of the question and by what was drawn, so nobody is asked.

The paper puts open data through label matching and manages it with the vertical (§3.2.2). What we drew needs no
matching: its labels are known. They are given by the ids of the shipped tree; one that lacks an id leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from open4ov.corpora import palette
from open4ov.data.labels import AXES, LabelTree
from open4ov.sample import Axis, Label, Sample

_ABILITY = {
    "naming": "recognition.object",
    "colour": "attributes.colour",
    "charts": "charts.value",
    "reasoning": "numeric.arithmetic",
    "arithmetic": "numeric.arithmetic",
    "instruction": "instruction.format",
}
_BESIDE = ("left", "right", "above", "below", "左边", "右边", "上方", "下方")
"""Answers that say where one thing is from another"""
_FROM = ("right of ", "below the ", "的右边", "的下面")
_COMPARED = (" more ", " fewer ", " larger ", " smaller ")
_NUMBERS = ("number", "larger", "compare", "count")
"""Instructions that are about numbers; the others are about words"""

Names = Mapping[str, tuple[str, str]]


def names(tree: LabelTree) -> dict[Axis, dict[str, tuple[str, str]]]:
    """Axis → L2 id → names of L1 and L2."""
    return {axis: {l2.id: (l1.name, l2.name) for l1 in tree.axis(axis) for l2 in l1.l2} for axis in AXES}


def labelled(sample: Sample, tree: LabelTree, known: Mapping[Axis, Names]) -> Sample:
    """The sample with its labels on both axes; `known`: by `names`. One that has labels keeps them."""
    if sample.labels:
        return sample
    found: list[Label] = []
    for axis, ids in (("domain", _domains(sample.scene or {}, tree)), ("ability", [_ability(sample)])):
        places = dict.fromkeys(known[axis][one] for one in ids if one in known[axis])
        found += [Label(axis=axis, l1=l1, l2=l2) for l1, l2 in places]
    return sample.model_copy(update={"labels": found})


def _ability(sample: Sample) -> str:
    question = next((message.text for message in sample.messages if message.role == "user"), "")
    answer = sample.answer or ""
    match sample.task:
        case "counting":
            coloured = (f"{name} things" in question or f"{chinese}的东西" in question
                        for name, chinese in palette.CHINESE.items())  # fmt: skip
            return "counting.attribute" if any(coloured) else "counting.objects"
        case "reading":
            return "reading.numbers" if answer.replace(" / ", "").isdigit() else "reading.text"
        case "position":
            beside = answer in _BESIDE or any(words in question for words in _FROM)
            return "spatial.relations" if beside else "spatial.location"
        case "comparing":
            return "comparison.quantity" if any(word in question for word in _COMPARED) else "comparison.images"
        case "charts" if question.startswith("Which"):
            return "charts.extreme"
        case task:
            return _ABILITY.get(task, "")


def _domains(scene: Mapping[str, Any], tree: LabelTree) -> list[str]:
    match scene.get("kind"):
        case "chart":
            return ["business.charts"]
        case "text":
            return ["education.literacy" if scene.get("of") in ("word", "chinese") else "education.arithmetic"]
        case "pair":
            return [one for part in scene["scenes"] for one in _domains(part, tree)]
        case "none" if scene.get("of") == "instruction":
            return ["education.arithmetic" if scene.get("do") in _NUMBERS else "education.literacy"]
        case "none":
            return ["education.arithmetic"]
        case _:
            return _shown(scene.get("objects", []), tree)


def _shown(things: list[dict[str, Any]], tree: LabelTree) -> list[str]:
    """Of one kind of thing what the tree's tags say it is; of characters words or numbers; of others objects."""
    if not things:
        return []
    shown = {str(thing["name"]) for thing in things}
    if all(thing.get("type") == "character" for thing in things):
        return ["education.arithmetic" if all(name.isdigit() for name in shown) else "education.literacy"]
    if len(shown) == 1:
        tag = f"object:{next(iter(shown))}"
        if found := [l2.id for l1 in tree.domain for l2 in l1.l2 if tag in l2.tags]:
            return found
    return ["daily_life.household"]
