"""A provider for tests that need answers and not their contents: it ranks, scores, writes and agrees at once."""

from __future__ import annotations

from typing import Any

from open4ov.mllm.ask import Asker, Request
from open4ov.mllm.guessing import made_up
from open4ov.recipe import DataSection


class MadeUp:
    """Keeps what it was asked."""

    concurrency = 1

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def identity(self, role: str) -> str:
        return "made-up"

    def answer(self, request: Request) -> dict[str, Any]:
        self.asked.append(request)
        answer = made_up(request)
        return {"pairs": []} if request.role == "synthesize" else answer

    def of(self, role: str) -> list[Request]:
        return [request for request in self.asked if request.role == role]


def asker(section: DataSection, provider: MadeUp) -> Asker:
    """All roles by one provider."""
    return Asker(section, {"default": provider})
