"""Pictures that do not show what is asked (paper §4.1.2): blank or noise, one of something else, one with the evidence
cut away.

What a picture shows is known from its annotation alone (`Sample.scene`): names of things (`names`, or `objects` with
their `name`), and where they are (`box` of an object: left, top, right, bottom in pixels). Objects of the shipped
corpora have places and names of their own kind, which `corpora` reads. Where an annotation does not say, nothing is
made of it: nobody could tell that the question has lost its answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from PIL import Image

from open4ov.answers import normalise
from open4ov.corpora import looking, scenes
from open4ov.sample import Sample

Box = tuple[int, int, int, int]
LEAST_LEFT = 0.3
"""Smallest share of the picture that a crop beside the evidence may be; below it the evidence is painted over"""
GREYS = ((255, 255, 255), (0, 0, 0), (128, 128, 128), (220, 220, 220))


def blank(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A picture of one grey, or of noise, of that width and height."""
    if rng.random() < 0.5:
        return Image.new("RGB", size, rng.choice(GREYS))
    noise = np.random.default_rng(rng.getrandbits(63)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def named(sample: Sample) -> set[str]:
    """The things in the sample's picture that its question names."""
    question = normalise(sample.messages[0].text)
    return {name for name in things(sample) if _says(question, normalise(name))}


def _says(text: str, name: str) -> bool:
    """Whether a text has a name in it: Latin ones as whole words, which may be plural ("What" says no hat)."""
    if not name or not name.isascii():
        return bool(name) and name in text
    return re.search(rf"(?<![a-z0-9]){re.escape(name)}(?:s|es)?(?![a-z0-9])", text) is not None


def things(sample: Sample) -> set[str]:
    """What the annotation says is in the picture, in the sample's language."""
    scene = sample.scene or {}
    found: set[str] = set()
    names = scene.get("names")
    if isinstance(names, dict) and (told := cast("dict[str, object]", names).get(sample.language)):
        found |= {str(name) for name in (cast("list[object]", told) if isinstance(told, list) else [told])}
    for thing in _objects(scene):
        if name := _name(thing, sample.language):
            found.add(name)
    return found


def unrelated(sample: Sample, others: Sequence[Sample], rng: random.Random, tries: int = 16) -> Sample | None:
    """One of the other samples whose picture has none of what the question names; None where the question names
    nothing, or no such picture is found: "What is this?" can be answered from any picture."""
    asked = named(sample)
    if not asked or not others:
        return None
    for _ in range(tries):
        other = rng.choice(others)
        # of another language its things have other names, and nobody could tell
        there = things(other) if other.language == sample.language and other.images != sample.images else set[str]()
        if there and not any(one in name or name in one for one in asked for name in there):
            return other
    return None


def evidence(sample: Sample) -> list[Box]:
    """Where in the picture the things are that the question names; empty where that is not known, or where it is all
    that the picture shows."""
    asked, known = named(sample), _objects(sample.scene or {})
    boxes: list[Box] = []
    rest = 0
    for thing in known:
        if _name(thing, sample.language) not in asked:
            rest += 1
        elif (box := _box(thing)) is not None:
            boxes.append(box)
        else:
            return []
    return boxes if rest else []


def hidden(picture: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """The largest part of the picture beside the boxes; where that is small, the picture with them painted over in the
    colour of its border."""
    width, height = picture.size
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    beside = [(0, 0, left, height), (right, 0, width, height), (0, 0, width, top), (0, bottom, width, height)]
    best = max(beside, key=lambda box: max(box[2] - box[0], 0) * max(box[3] - box[1], 0))
    if max(best[2] - best[0], 0) * max(best[3] - best[1], 0) >= LEAST_LEFT * width * height:
        return picture.crop(best)
    painted = picture.copy()
    levels = np.asarray(picture)
    border = np.ones(levels.shape[:2], dtype=bool)
    border[1:-1, 1:-1] = False
    colour = tuple(int(level) for level in np.median(levels[border], axis=0))
    for box in boxes:
        painted.paste(colour, (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)))
    return painted


def change(kind: str, sample: Sample, get: Callable[[str], Image.Image], rng: random.Random) -> Image.Image | None:
    """The picture of a sample in the ablation `kind`; None where it cannot be made."""
    if kind == "blank_image":
        return blank(get(sample.images[0]).size, rng)
    assert kind == "hidden_evidence", kind
    boxes = evidence(sample)
    return hidden(get(sample.images[0]), boxes) if boxes else None


def _objects(scene: dict[str, Any]) -> list[dict[str, Any]]:
    given = scene.get("objects")
    if not isinstance(given, list):
        return []
    return [cast("dict[str, Any]", thing) for thing in cast("list[Any]", given) if isinstance(thing, dict)]


def _name(thing: dict[str, Any], language: str) -> str | None:
    """What a thing is called: in the shipped corpora by the name that their questions use."""
    if (own := looking.called(thing, language)) is not None:
        return own
    name = thing.get("name")
    if isinstance(name, dict):
        name = cast("dict[str, Any]", name).get(language)
    return name if isinstance(name, str) and name else None


def _box(thing: dict[str, Any]) -> Box | None:
    given = thing.get("box")
    if isinstance(given, list) and len(cast("list[Any]", given)) == 4:
        left, top, right, bottom = (round(float(side)) for side in cast("list[float]", given))
        return (left, top, right, bottom)
    return scenes.box(thing)
