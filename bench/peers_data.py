"""The same questions, asked by a peer: run by `bench/data.py` in the peers' own environment, never imported.

    PYTHON bench/peers_data.py distilabel|curator URL REQUESTS CONCURRENCY

Prints one line of JSON: seconds and answers. Each is set up as its documentation shows for a local endpoint.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time

PROMPT = "Judge one training sample. Question {number}: does the answer fit? Answer with JSON."


def distilabel(url: str, requests: int, concurrency: int) -> tuple[float, int]:
    """Its OpenAI client class, `concurrency` prompts a batch: the part of a pipeline that asks."""
    from distilabel.models import OpenAILLM

    llm = OpenAILLM(model="m", base_url=url, api_key="none-needed-here")
    llm.load()
    prompts = [[{"role": "user", "content": PROMPT.format(number=number)}] for number in range(requests)]
    llm.generate_outputs(prompts[:4])
    began, answers = time.perf_counter(), 0
    for start in range(0, requests, concurrency):
        for found in llm.generate_outputs(prompts[start : start + concurrency]):
            answers += any(found["generations"])
    return time.perf_counter() - began, answers


def curator(url: str, requests: int, concurrency: int) -> tuple[float, int]:
    """An `LLM` over a list of prompts, with a fresh cache."""
    os.environ.update(
        CURATOR_DISABLE_CACHE="1", TELEMETRY_ENABLED="0", CURATOR_VIEWER="0", OPENAI_API_KEY="none-needed"
    )
    os.environ["CURATOR_CACHE_DIR"] = tempfile.mkdtemp()
    from bespokelabs import curator as package

    llm = package.LLM(
        model_name="m",
        backend="openai",
        backend_params={
            "base_url": url, "max_concurrent_requests": concurrency, "max_requests_per_minute": 10**6,
            "max_tokens_per_minute": 10**9, "require_all_responses": False,
        },
    )  # fmt: skip
    llm([PROMPT.format(number=-1)])
    prompts = [PROMPT.format(number=number) for number in range(requests)]
    began = time.perf_counter()
    found = llm(prompts)
    return time.perf_counter() - began, len(getattr(found, "dataset", found))


def main() -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    name, url, requests, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    seconds, answers = {"distilabel": distilabel, "curator": curator}[name](url, requests, concurrency)
    print(json.dumps({"seconds": seconds, "answers": answers}))


if __name__ == "__main__":
    main()
