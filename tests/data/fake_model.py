"""A model of a test's own that plays every role of data construction, for the server in tests/mllm/endpoint.py.

What it says depends on the question alone, and no two questions get the same answer: so a test can tell from the kept
answers which questions were answered.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mllm.endpoint import Raw, completion
from PIL import Image

from open4ov.data.verify import DIMENSIONS

TOPIC = "Counting ~ Object counting ~ Counting dogs"
USAGE = {
    "Ranking": (1001, 31), "Topics": (501, 13), "Density": (401, 7), "Pairs": (2003, 101), "Judgement": (301, 17),
    "Verification": (607, 53),
}  # fmt: skip
"""Tokens in and out of each kind of answer; odd, so that parts are no whole numbers"""


def digest(body: dict[str, Any]) -> str:
    """A name of a question: of its messages and model."""
    return hashlib.sha256(json.dumps([body["model"], body["messages"]]).encode()).hexdigest()[:16]


def kind(body: dict[str, Any]) -> str:
    """Which kind of answer a question asks for, by the name of its schema."""
    return str(body["response_format"]["json_schema"]["name"])


def says(body: dict[str, Any]) -> dict[str, Any]:
    """The answer as data."""
    text, mark = body["messages"][0]["content"][-1]["text"], digest(body)
    ok = {"ok": True, "score": 5, "reason": mark}
    dogs = int(mark, 16) % 89 + 11
    pairs = [
        {"topic": TOPIC, "task": "counting", "type": "open", "language": "en", "aliases": [], "options": [],
         "question": f"How many {what} are there?", "answer": str(number), "response": f"There are {number}: {mark}"}
        for number, what in ((dogs, "brown dogs"), (3, "wooden chairs"), (4, "open windows"))
    ]  # fmt: skip
    pairs[2]["type"] = "description"
    return {
        "Ranking": {"description": f"dogs {mark}", "domain": ["Nature", "Others"], "ability": ["Counting", "Others"]},
        "Topics": {"topics": ["Counting dogs", mark] if "Animals" in text else [mark]},  # the recipe takes one
        "Density": {"subjects": 1, "space": 1, "ocr": 1, "knowledge": 1 - int(mark[:6], 16) / 1e9},
        "Pairs": {"pairs": pairs},
        "Judgement": {"score": int("windows" not in text), "reason": mark},
        "Verification": dict.fromkeys(DIMENSIONS, ok),
    }[kind(body)]


def reply(body: dict[str, Any], number: int) -> Raw:
    """The answer as a completion, with its tokens counted."""
    return Raw(completion(json.dumps(says(body)), USAGE[kind(body)]))


def pictures(folder: Path, count: int) -> Path:
    """A folder of so many different small pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shade = (40 * number % 256, 90 + number, 200 - 3 * number)
        Image.new("RGB", (40 + number, 32), shade).save(folder / f"{number:03}.png")
    return folder


def recipe(path: Path, url: str, images: str | None = None, panel: bool = False, **provider: Any) -> Path:
    """A recipe file whose every role is played by the server at `url`; JSON is YAML. `panel`: by three models, so that
    judges are asked in different words."""
    settings: dict[str, Any] = {
        "kind": "openai", "base_url": url, "model": "m", "api_key_env": "TEST_KEY", "concurrency": 4, "retries": 1,
        "price": {"input": 2.0, "output": 10.0}, **provider,
    }  # fmt: skip
    chosen: dict[str, Any] = {
        "name": "t", "images": {"general_count": 0, **({"vertical": images} if images else {})},
        "data": {"providers": {"default": settings}, "topics_per_pair": 1, "density_evidence": 0, "max_pairs": 3},
    }  # fmt: skip
    if panel:
        for judge in ("judge_2", "judge_3"):
            chosen["data"]["providers"][judge] = {**settings, "model": f"m of {judge}"}
        chosen["data"]["roles"] = {judge: judge for judge in ("judge_2", "judge_3")}
    path.write_text(json.dumps(chosen))
    return path
