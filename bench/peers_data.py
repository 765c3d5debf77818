"""The same questions, asked by a peer: run by `bench/data.py` in the peers' own environment, never imported.

    PYTHON bench/peers_data.py distilabel|curator QUESTIONS.json URL CONCURRENCY

QUESTIONS.json is a list of prompts. Prints one line of JSON: seconds without imports, processor time, answers, how many
of them fit the schema, and versions. Both ask for structured output and have their own retries.

distilabel: its `OpenAILLM`, structured output by instructor's calls of a tool (with 1.5.3 no other mode can be named).
Of a pipeline only the part that asks, in batches of as many prompts as may be open: it has no other limit. A batch in
which a request fails for good is lost as a whole, as a step of a pipeline would lose it.

Bespoke Curator: an `LLM` with `response_format`, the OpenAI back end, the shortest pause after a rate limit that it
takes (1 s; the default is 10 s) and a fresh cache. Its tokenizer's table comes from the network, so one of single bytes
stands in; the endpoint counts the tokens anyway.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

os.environ.update(
    OPENAI_API_KEY="none-needed-here", CURATOR_DISABLE_CACHE="1", TELEMETRY_ENABLED="0", CURATOR_VIEWER="0",
    CURATOR_DISABLE_RICH_DISPLAY="1", CURATOR_CACHE_DIR=tempfile.mkdtemp(), LITELLM_LOCAL_MODEL_COST_MAP="True",
    HF_HUB_OFFLINE="1", DO_NOT_TRACK="1",
)  # fmt: skip

from pydantic import BaseModel


class Judgement(BaseModel):
    """What the questions ask for, as `open4ov.mllm.answers.Judgement`."""

    score: Literal[0, 1] | None
    reason: str


def fits(text: object) -> bool:
    try:
        return Judgement.model_validate_json(text if isinstance(text, str) else "") is not None
    except ValueError:
        return False


def distilabel(prompts: list[str], url: str, concurrency: int) -> tuple[int, int]:
    from distilabel.models import OpenAILLM

    llm = OpenAILLM(
        model="m",
        base_url=url,
        api_key="none-needed-here",
        structured_output={"schema": Judgement},
    )
    llm.load()
    answers = good = 0
    begin()
    for start in range(0, len(prompts), concurrency):
        batch = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + concurrency]]
        try:
            found = llm.generate_outputs(batch, max_new_tokens=4096, temperature=0.0)
        except Exception as error:
            print(f"a batch of {len(batch)} is lost: {type(error).__name__}: {error}"[:400], file=sys.stderr)
            continue
        texts = [one["generations"][0] for one in found if one["generations"]]
        answers += sum(text is not None for text in texts)
        good += sum(fits(text) for text in texts)
    return answers, good


def curator(prompts: list[str], url: str, concurrency: int) -> tuple[int, int]:
    import tiktoken
    import tiktoken.registry

    single = {bytes([byte]): byte for byte in range(256)}
    tiktoken.registry.ENCODINGS["cl100k_base"] = tiktoken.Encoding(
        "cl100k_base", pat_str=r"[\s\S]", mergeable_ranks=single, special_tokens={}
    )
    from bespokelabs import curator as package

    class Judge(package.LLM):
        response_format = Judgement

        def prompt(self, row: dict[str, Any]) -> str:
            return row["prompt"]

        def parse(self, row: dict[str, Any], response: Judgement) -> dict[str, Any]:
            return {"text": response.model_dump_json()}

    llm = Judge(
        model_name="m",
        backend="openai",
        generation_params={"temperature": 0.0},
        backend_params={
            "base_url": url, "max_concurrent_requests": concurrency, "max_requests_per_minute": 10**6,
            "max_tokens_per_minute": 10**9, "seconds_to_pause_on_rate_limit": 1, "require_all_responses": False,
        },
    )  # fmt: skip
    begin()
    found = llm([{"prompt": prompt} for prompt in prompts])
    texts = [row["text"] for row in getattr(found, "dataset", found)]
    return len(texts), sum(fits(text) for text in texts)


began = used = 0.0


def begin() -> None:
    global began, used
    began, used = time.perf_counter(), time.process_time()


def main() -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    name, questions, url, concurrency = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    prompts = json.loads(Path(questions).read_text())
    out, sys.stdout = sys.stdout, sys.stderr
    answers, good = {"distilabel": distilabel, "curator": curator}[name](prompts, url, concurrency)
    found = {"seconds": time.perf_counter() - began, "processor": time.process_time() - used, "answers": answers}
    package = {"distilabel": "distilabel", "curator": "bespokelabs-curator"}[name]
    versions = f"{package} {metadata.version(package)}, openai {metadata.version('openai')}"
    print(json.dumps({**found, "good": good, "versions": versions}), file=out, flush=True)
    os._exit(0)  # without its threads, which may not end


if __name__ == "__main__":
    main()
