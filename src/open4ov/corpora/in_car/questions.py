"""Asks about an in-car scene: what it is, what it means, how urgent it is, what to do. All from the scene alone.

Scene fields: kind "in_car", size, split, objects (one: its name and colour), symbol (its id), symbol_kind ("tell_tale"
or "road_sign"), colour; and, each as {"en": ..., "zh": ...}: names (the name first, then aliases), meaning, severity,
action.
"""

from __future__ import annotations

import random

from open4ov.corpora.in_car.knowledge import Language, Symbol
from open4ov.corpora.in_car.render import SIDE
from open4ov.corpora.item import QA, Scene

TASKS = ("in_car_name", "in_car_meaning", "in_car_severity", "in_car_action", "in_car_advice")
"""in_car_advice asks for meaning and action at once."""
NAMED_FIRST = ("in_car_meaning", "in_car_action", "in_car_advice")
"""Tasks whose responses begin with the symbol's name: "low oil pressure: The engine oil pressure is too low."."""

_ANY: dict[Language, dict[str, list[str]]] = {
    "en": {
        "in_car_name": ["What is this symbol?", "Name this symbol.", "What is this symbol called?"],
        "in_car_meaning": ["What does this symbol mean?", "What does it mean?", "Explain this symbol."],
        "in_car_severity": [],
        "in_car_action": ["What should I do?", "What should the driver do?", "What do I do when I see this?"],
        "in_car_advice": [
            "What does this symbol mean and what should I do?",
            "Explain this symbol and tell me what to do.",
        ],
    },
    "zh": {
        "in_car_name": ["这是什么标志？", "这个标志叫什么？", "图中是什么标志？"],
        "in_car_meaning": ["这个标志是什么意思？", "它表示什么？", "请解释这个标志。"],
        "in_car_severity": [],
        "in_car_action": ["我该怎么办？", "司机应该怎么做？", "看到它该怎么做？"],
        "in_car_advice": ["这个标志是什么意思，我该怎么办？", "请解释这个标志并告诉我怎么做。"],
    },
}
_BY_KIND: dict[str, dict[Language, dict[str, list[str]]]] = {
    "tell_tale": {
        "en": {
            "in_car_name": ["Which dashboard symbol is this?"],
            "in_car_meaning": ["What does this dashboard symbol mean?"],
            "in_car_severity": ["How urgent is it?", "How urgent is this symbol?", "How soon must I act?"],
            "in_car_action": ["What should I do about this dashboard symbol?"],
            "in_car_advice": ["What does this light mean and what should I do?"],
        },
        "zh": {
            "in_car_name": ["这是什么仪表符号？"],
            "in_car_meaning": ["这个仪表符号是什么意思？"],
            "in_car_severity": ["有多紧急？", "这个标志有多紧急？", "需要多快处理？"],
            "in_car_action": ["看到这个仪表符号该怎么办？"],
            "in_car_advice": ["这个灯是什么意思，我该怎么办？"],
        },
    },
    "road_sign": {
        "en": {
            "in_car_name": ["Which road sign is this?"],
            "in_car_meaning": ["What does this road sign mean?"],
            "in_car_severity": [
                "What kind of sign is this?",
                "Which class of road sign is it?",
                "What type of sign is it?",
            ],
            "in_car_action": ["What should I do at this road sign?"],
            "in_car_advice": ["What does this sign mean and what should I do?"],
        },
        "zh": {
            "in_car_name": ["这是什么路牌？"],
            "in_car_meaning": ["这个路牌是什么意思？"],
            "in_car_severity": ["这是哪一类标志？", "这个路牌属于哪一类？", "它是什么类型的标志？"],
            "in_car_action": ["看到这个路牌该怎么办？"],
            "in_car_advice": ["这个路牌是什么意思，我该怎么办？"],
        },
    },
}


def scene(symbol: Symbol, split: str) -> Scene:
    """The annotation of a rendering of `symbol`: everything `questions` needs."""
    return {
        "kind": "in_car",
        "size": [SIDE, SIDE],
        "split": split,
        "objects": [{"name": symbol.en.name, "colour": symbol.colour}],
        "symbol": symbol.id,
        "symbol_kind": symbol.kind,
        "colour": symbol.colour,
        "names": {"en": [symbol.en.name, *symbol.en.aliases], "zh": [symbol.zh.name, *symbol.zh.aliases]},
        "meaning": {"en": symbol.en.meaning, "zh": symbol.zh.meaning},
        "severity": {"en": symbol.severity_in("en"), "zh": symbol.severity_in("zh")},
        "action": {"en": symbol.en.action, "zh": symbol.zh.action},
    }


def phrasings(symbol_kind: str, task: str, language: Language) -> list[str]:
    """Every wording in which `task` is asked about that kind of symbol."""
    return [*_ANY[language][task], *_BY_KIND[symbol_kind][language][task]]


def questions(scene: Scene, rng: random.Random, language: Language) -> list[QA]:
    """One question a task, in the order of `TASKS`, each in a wording drawn by `rng`.

    A response says which symbol it is before it tells what that means or asks for: what was recognised can then be
    checked, and a model learns each symbol once, not once for every kind of question.
    """
    kind = scene["symbol_kind"]
    name, *aliases = scene["names"][language]
    meaning, severity, action = (scene[key][language] for key in ("meaning", "severity", "action"))
    answers: dict[str, tuple[str, list[str]]] = {
        "in_car_name": (name, aliases),
        "in_car_meaning": (meaning, []),
        "in_car_severity": (severity, _severity_aliases(kind, severity, language)),
        "in_car_action": (action, []),
        "in_car_advice": (meaning + ("" if language == "zh" else " ") + action, []),
    }
    found: list[QA] = []
    for task, (answer, other) in answers.items():
        response = answer
        if task in NAMED_FIRST:
            response = f"{name}：{answer}" if language == "zh" else f"{name}: {answer}"
            other = [response]
        found.append(QA(task, rng.choice(phrasings(kind, task, language)), answer, other, response))
    return found


def _severity_aliases(kind: str, severity: str, language: Language) -> list[str]:
    if kind != "road_sign":
        return []
    return [f"{severity} sign"] if language == "en" else [f"{severity}标志"]
