"""Questions that were never asked before, put by this package and by the bare official client, for `bench/data.py`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai

from open4ov.mllm import Asker, Prompt, Request
from open4ov.mllm.answers import Judgement
from open4ov.mllm.reply import schema
from open4ov.recipe import DataSection, ProviderSection

os.environ["OPEN4OV_BENCH_KEY"] = "none-needed-here"
numbers = itertools.count()


def values() -> dict[str, Any]:
    """A question that was never asked before."""
    return {
        "topic": "Counting ~ Object counting ~ Counting dogs",
        "question": f"How many? {next(numbers)}",
        "answer": "2",
    }


def asker(url: str, concurrency: int, place: Path | None) -> Asker:
    settings = ProviderSection(
        kind="openai", base_url=url, model="m", api_key_env="OPEN4OV_BENCH_KEY", concurrency=concurrency
    )
    return Asker(DataSection(providers={"default": settings}), place=place)


def judgements(numbers: Iterable[int]) -> list[Request]:
    """Questions that are the same in every process."""
    known = ({"topic": "Counting", "question": f"How many? {number}", "answer": "2"} for number in numbers)
    return [Request("judge_1", Prompt("judge", one), (), Judgement) for one in known]


def ours(asking: Asker, requests: int) -> None:
    asked = [Request("judge_1", Prompt("judge", values()), (), Judgement) for _ in range(requests)]
    failed = [one for one in asking.ask_many(asked) if not isinstance(one, dict)]
    assert not failed, failed[0]


def bare(client: openai.OpenAI) -> str:
    """What a user would write: render, ask, read."""
    return client.chat.completions.create(**question()).choices[0].message.content or ""


def question() -> dict[str, Any]:
    content = [{"type": "text", "text": Prompt("judge", values()).text}]
    return {
        "model": "m", "messages": [{"role": "user", "content": content}], "temperature": 0,
        "max_completion_tokens": 4096, "response_format": schema(Judgement).response_format,
    }  # fmt: skip


def threads(call: Callable[[], object], requests: int, concurrency: int) -> None:
    if concurrency == 1:
        for _ in range(requests):
            call()
        return
    with ThreadPoolExecutor(concurrency) as pool:
        for done in [pool.submit(call) for _ in range(requests)]:
            done.result()
