"""Who generates in `python -m bench.serve`: our engine, transformers' generate, and vLLM in a venv of its own.

All of them get the same prompts as token ids and the same pictures, greedy, and as many new tokens as a request says.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

from bench.steps import NANO, middle
from open4ov.engine import Engine, Request
from open4ov.model import Config, Encoded, Processor, Qwen3VL
from open4ov.sample import user

WORDS = ["the", "car", "shows", "a", "red", "light", "driver", "should", "stop", "now", "because", "oil", "low", "油压"]
Generate = Callable[[], list[list[int]]]
"""The new tokens of every request"""


def tiny(config: Config) -> Config:
    """About two million parameters: nano's vocabulary and pixels, 128 wide, two layers."""
    text = replace(
        config.text,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        mrope_section=(8, 4, 4),
    )
    vision = replace(
        config.vision,
        hidden_size=64,
        intermediate_size=128,
        num_heads=2,
        depth=2,
        out_hidden_size=128,
        deepstack_visual_indexes=(0, 1),
    )
    return replace(config, text=text, vision=vision)


def build(kind: str, folder: Path) -> Path:
    """The folder of `nano`, or of a random model of the shape `tiny` or `middle` (60 M), written there."""
    if kind == "nano":
        return NANO
    config = Qwen3VL.from_pretrained(NANO).config
    shape = {"tiny": tiny, "60M": middle}[kind](config)
    Qwen3VL(shape, seed=1).save_pretrained(folder / kind)
    Processor.from_pretrained(NANO).save_pretrained(folder / kind)
    return folder / kind


def picture(seed: int, width: int = 96, height: int = 96) -> Image.Image:
    """Coloured squares: sides that are multiples of 32, which no processor resizes."""
    small = np.random.default_rng(seed).integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


def requests(count: int, prompt: tuple[int, int], new: tuple[int, int], pictures: int) -> list[Request]:
    """`count` requests: words of a prompt and new tokens drawn from the ranges; one of `pictures` has a picture (0:
    none)."""
    rng = random.Random(0)
    found: list[Request] = []
    for number in range(count):
        shown = [picture(number)] if pictures and number % pictures == 0 else []
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(*prompt)))
        found.append(Request([user(text, len(shown))], shown, max_tokens=rng.randint(*new), ignore_eos=True))
    return found


@dataclass
class Work:
    """Requests as every contestant takes them."""

    requests: list[Request]
    documents: list[Encoded]
    processor: Processor

    @staticmethod
    def of(asked: Sequence[Request], processor: Processor) -> Work:
        documents = [processor.encode(one.messages, one.images, generate=True) for one in asked]
        return Work(list(asked), documents, processor)

    @property
    def tokens(self) -> int:
        return sum(one.max_tokens for one in self.requests)


def ours(directory: Path, work: Work, dtype: torch.dtype, engine: Engine | None = None) -> Generate:
    """Our engine, with nothing kept from one round to the next."""
    if engine is None:
        model = Qwen3VL.from_pretrained(directory).to(dtype).requires_grad_(False)
        engine = Engine(model, Processor.from_pretrained(directory), max_batch=64, watch=False)

    def run() -> list[list[int]]:
        engine.update_weights()  # forgets blocks and pictures
        return [one[0].token_ids for one in engine.generate(work.requests)]

    return run


def transformers(directory: Path, work: Work, dtype: torch.dtype, batch: int = 64) -> Generate:
    """transformers' generate over padded batches; pictures come ready as patches, which costs it nothing here."""
    experts = json.loads((directory / "config.json").read_text())["model_type"] == "qwen3_vl_moe"
    family = Qwen3VLMoeForConditionalGeneration if experts else Qwen3VLForConditionalGeneration
    model = family.from_pretrained(directory, dtype=dtype).eval()
    model.generation_config.eos_token_id = None

    def run() -> list[list[int]]:
        found: list[list[int]] = []
        for start in range(0, len(work.requests), batch):
            part = slice(start, start + batch)
            found += _generate(model, work.processor, work.documents[part], work.requests[part])
        return found

    return run


@torch.inference_mode()
def _generate(
    model: Any, processor: Processor, documents: Sequence[Encoded], asked: Sequence[Request]
) -> list[list[int]]:
    longest, new = max(map(len, documents)), max(one.max_tokens for one in asked)
    ids = torch.full((len(documents), longest), processor.pad_id)
    mask = torch.zeros(len(documents), longest, dtype=torch.long)
    for row, document in enumerate(documents):
        ids[row, longest - len(document) :] = document.input_ids
        mask[row, longest - len(document) :] = 1
    video = processor.special["<|video_pad|>"]
    kinds = (ids == processor.image_id).int() + 2 * (ids == video).int()
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds}
    for name, which in (("image", processor.image_id), ("video", video)):
        shown = [d for d in documents if (d.input_ids == which).any()]
        if shown:
            pixels = "pixel_values" if name == "image" else "pixel_values_videos"
            batch[pixels] = torch.cat([d.pixels for d in shown]).to(model.dtype)
            batch[f"{name}_grid_thw"] = torch.cat([d.grids for d in shown])
    out = model.generate(**batch, max_new_tokens=new, do_sample=False, pad_token_id=processor.pad_id)
    return [row[longest : longest + one.max_tokens].tolist() for row, one in zip(out, asked, strict=True)]


class VLLM:
    """vLLM in a process of its own (`bench/vllm_worker.py`), one thread, everything in that process."""

    def __init__(self, python: Path, directory: Path, dtype: str, folder: Path) -> None:
        self._folder = folder
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "OMP_NUM_THREADS": "1",
        }
        worker = Path(__file__).with_name("vllm_worker.py")
        command = [str(python), str(worker), str(directory), dtype]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.version: str = self._answer()["version"]

    def generate(self, work: Work) -> Generate:
        """Hands the work over; what is called then makes vLLM do it once."""
        told: list[dict[str, Any]] = []
        for number, (one, document) in enumerate(zip(work.requests, work.documents, strict=True)):
            paths = [self._folder / f"{id(work)}-{number}-{place}.png" for place in range(len(one.images))]
            for path, image in zip(paths, one.images, strict=True):
                image.save(path)
            ids = list(_without_runs(document.input_ids.tolist(), work.processor.image_id))
            told.append({"ids": ids, "images": [str(path) for path in paths], "max_tokens": one.max_tokens})
        self._ask({"work": id(work), "requests": told})
        return lambda: self._ask({"run": id(work)})["tokens"]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.wait(60)

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise RuntimeError(f"the vLLM worker ended with {self._process.wait()}")


def _without_runs(ids: Sequence[int], pad: int) -> Iterator[int]:
    """One placeholder for each picture: vLLM puts in the others itself."""
    for place, token in enumerate(ids):
        if token != pad or place == 0 or ids[place - 1] != pad:
            yield token


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
