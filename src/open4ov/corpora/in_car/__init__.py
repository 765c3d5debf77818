"""The in-car assistant: dashboard tell-tales and road signs with what they mean and what to do (docs/in-car.md)."""

from open4ov.corpora.in_car.items import asked, items, pictures
from open4ov.corpora.in_car.knowledge import KnowledgeError, Symbol, excluded, fragments, load, symbol
from open4ov.corpora.in_car.questions import TASKS, questions, scene
from open4ov.corpora.in_car.render import render

__all__ = [
    "TASKS",
    "KnowledgeError",
    "Symbol",
    "asked",
    "excluded",
    "fragments",
    "items",
    "load",
    "pictures",
    "questions",
    "render",
    "scene",
    "symbol",
]
