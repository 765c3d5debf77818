"""What `engine/vllm_worker.py` does, by our engine: a process that `VLLM` starts in place of vLLM's interpreter.

DIES_ONCE names a file: as long as it is there, the process removes it at its sixth request for tokens and dies.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from vllm_like import generated

from open4ov.engine import Completion, Engine
from open4ov.model import Processor, Qwen3VL


def loaded(folder: str) -> Engine:
    return Engine(Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder))


def answer(whole: list[int], one: Completion) -> dict[str, Any]:
    return {
        "prompt": whole,
        "tokens": one.token_ids,
        "log_probs": one.log_probs,
        "top": [[] for _ in one.token_ids],
        "prompt_log_probs": one.prompt_log_probs or None,
        "finish_reason": one.finish_reason,
    }


def main() -> None:
    engine: Engine | None = None
    asked = 0
    for line in sys.stdin:
        message = json.loads(line)
        result: Any = None
        if message["op"] == "generate":
            assert engine is not None
            shown = {
                key: Image.frombytes("RGB", tuple(raw["size"]), base64.b64decode(raw["rgb"]))
                for key, raw in message["images"].items()
            }
            result = []
            for one in message["requests"]:
                asked += 1
                dies = Path(os.environ.get("DIES_ONCE", "none"))
                if asked == 6 and dies.exists():
                    dies.unlink()
                    os._exit(3)
                whole, (found,) = generated(
                    engine, one["prompt"], [shown[key] for key in one["images"]], one["sampling"]
                )
                result.append(answer(whole, found))
        else:
            engine = loaded(message["path"] if message["op"] == "reload" else message["arguments"]["model"])
        print(json.dumps({"result": result}), flush=True)


if __name__ == "__main__":
    main()
