"""Evaluation files for tests, and a model that answers what the test says."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from open4ov.evaluate.answer_book import AnswerBook, Entry
from open4ov.evaluate.answering import Asked, _fresh
from open4ov.evaluate.item import Item, Suite


def picture(colour: str = "red", size: tuple[int, int] = (32, 32)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


def b64(colour: str = "red") -> str:
    return base64.b64encode(picture(colour)).decode()


def tsv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(names)
        table.writerows([[row.get(name, "") for name in names] for row in rows])
    return path


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def mcq(count: int = 4, **more: str) -> list[dict[str, str]]:
    """Choices whose right answer is A, B, A, B, ...; two about each picture."""
    colours = ("red", "green", "blue", "white")
    return [
        {
            "index": str(index),
            "image": b64(colours[index // 2 % 4]),
            "question": f"Which is right, number {index}?",
            "A": "this one" if index % 2 == 0 else "that one",
            "B": "that one" if index % 2 == 0 else "this one",
            "answer": "AB"[index % 2],
            "category": f"kind {index % 2}",
            **more,
        }
        for index in range(count)
    ]


class Says:
    """Answers with a function of the item, and counts how often it was asked; `stops` ends the asking after so many."""

    def __init__(self, answer: Callable[[Item], str], identity: str = "says", stops: int | None = None) -> None:
        self.answer, self.identity, self.stops, self.asked = answer, identity, stops, 0

    def ask(self, suites: Sequence[Suite], book: AnswerBook, progress: Any) -> Asked:
        asked = Asked()
        for item, key in _fresh(suites, self.identity, book, asked):
            if self.stops is not None and asked.asked >= self.stops:
                asked.stopped = "the endpoint went away"
                continue
            book.add(Entry.of(item, key, self.identity, [(self.answer(item), 3, "stop")] * item.samples))
            asked.asked += 1
            self.asked += 1
        return asked
