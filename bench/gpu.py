"""On one GPU: a training step and generation at released shapes, random weights, against transformers. See `--help`.

    python -m bench.gpu [--only train,generate,rl] [--rounds 6] [--sides ours,theirs] [--peer PYTHON]

train: a step (forward, backward, AdamW) in bf16 of a 2B-shaped dense model and of a 4-layer model with the experts of
30B-A3B, both sides with every block compiled and recomputing nothing. Tokens a second, and the share of the GPU's dense
bf16 peak that the counted operations make (MFU: causal attention counted as causal, vision counted). generate: 64
requests of 256 new tokens at the 2B shape and of 4 layers of 30B-A3B, our engine in bf16 and FP8 against transformers'
generate. rl: steps of online RL at the 2B shape, prompt four times the response, ours with rollouts by the weights
themselves and by an FP8 copy, against TRL's GRPOTrainer set up as GSPO (as `bench.rl` does it), one after the other.
`--peer`: a Python that has TRL.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

from bench import rl_work
from bench.engines import picture
from bench.measure import machine, write
from bench.rl_report import PHASES
from bench.sft_pace import Worker
from bench.steps import NANO
from open4ov.engine import Engine, Request
from open4ov.engine.quantize import quantize
from open4ov.model import Config, Encoded, Processor, Qwen3VL, pack
from open4ov.model.flops import count
from open4ov.model.sizes import SIZES
from open4ov.sample import assistant, user

PEAK = {"H100": 989e12, "H200": 989e12}
"""Dense bf16 operations a second, by a word of the GPU's name"""
LENGTHS = [1024] * 8
SHAPES = {"2B shape, dense": None, "30B-A3B shape, 4 layers": 4}
"""Title, which begins with a name of SIZES -> decoder layers (None: all)"""


def shape(name: str, processor: Processor, layers: int | None = None) -> Config:
    """A released shape with nano's vocabulary and special tokens at the head of its own."""
    config = SIZES[name]
    ids = {
        "image_token_id": processor.image_id,
        "video_token_id": processor.special["<|video_pad|>"],
        "vision_start_token_id": processor.special["<|vision_start|>"],
        "vision_end_token_id": processor.special["<|vision_end|>"],
    }
    text = config.text if layers is None else replace(config.text, num_hidden_layers=layers)
    return replace(config, text=text, **ids)


def documents(processor: Processor) -> list[Encoded]:
    found: list[Encoded] = []
    for number, length in enumerate(LENGTHS):
        document = processor.encode([user("What is this?", 1), assistant("one two three " * length)], [picture(number)])
        found.append(processor.cut(document, length))
    return found


def random(config: Config, dtype: torch.dtype = torch.bfloat16) -> Qwen3VL:
    """A random model on the GPU, where it is drawn in no time."""
    with torch.device("meta"):
        model = Qwen3VL(config).to(dtype)
    model.to_empty(device="cuda")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.02)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def save(config: Config, processor: Processor, directory: Path) -> Path:
    """A random model of that shape in bf16, for both sides; the same one where it has been saved before."""
    if not directory.exists():
        random(config).save_pretrained(directory)
        processor.save_pretrained(directory)
    return directory


def folder_of(title: str, folder: Path) -> Path:
    return folder / title.replace(" ", "-").replace(",", "")


def family(config: Config) -> type[Qwen3VLForConditionalGeneration] | type[Qwen3VLMoeForConditionalGeneration]:
    return Qwen3VLMoeForConditionalGeneration if config.text.num_experts else Qwen3VLForConditionalGeneration


def step_of(
    kind: str, config: Config, directory: Path, docs: list[Encoded], processor: Processor
) -> Callable[[], None]:
    """A training step of `ours` or `theirs`, blocks compiled."""
    if kind == "ours":
        model = Qwen3VL.from_pretrained(directory, torch.bfloat16).cuda()
        blocks = [*model.vision.blocks, *model.text.layers]
        packed = pack(docs).to("cuda")

        def loss() -> Tensor:
            return model.loss(packed)
    else:
        model = family(config).from_pretrained(directory, dtype=torch.bfloat16).cuda().train()
        blocks = [*model.model.visual.blocks, *model.model.language_model.layers]
        ids = torch.stack([d.input_ids for d in docs])
        batch = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": torch.stack([d.input_ids.where(d.targets, -100) for d in docs]),
            "mm_token_type_ids": (ids == processor.image_id).int(),
            "pixel_values": torch.cat([d.pixels for d in docs]).to(torch.bfloat16),
            "image_grid_thw": torch.cat([d.grids for d in docs]),
        }
        batch = {name: value.cuda() for name, value in batch.items()}

        def loss() -> Tensor:
            return model(**batch, use_cache=False).loss

    for block in blocks:
        block.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()

    return step


def train(rounds: int, folder: Path, sides: Sequence[str]) -> str:
    processor = Processor.from_pretrained(NANO)
    docs = documents(processor)
    grids = [tuple(grid) for d in docs for grid in d.grids.tolist()]
    peak = next(value for word, value in PEAK.items() if word in torch.cuda.get_device_name())
    lines = ["| model | side | tokens/s | MFU | step, ms | peak memory, GiB |", "|---|---|---|---|---|---|"]
    for title, layers in SHAPES.items():
        config = shape(title.split()[0], processor, layers)
        directory = save(config, processor, folder_of(title, folder))
        work = count(config, LENGTHS, grids, sum(int(d.targets.sum()) for d in docs)).training()
        for side in sides:
            try:
                torch.compiler.reset()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                step = step_of(side, config, directory, docs, processor)
                for _ in range(3):
                    step()
                seconds = []
                for _ in range(rounds):
                    began = time.perf_counter()
                    step()
                    seconds.append(time.perf_counter() - began)
                middle = statistics.median(seconds)
                memory = torch.cuda.max_memory_allocated() / 2**30
                lines.append(
                    f"| {title} | {side} | {sum(LENGTHS) / middle:.0f} | {100 * work / middle / peak:.1f} % | "
                    f"{1000 * middle:.0f} | {memory:.1f} |"
                )
            except (RuntimeError, TypeError, ValueError) as error:
                lines.append(f"| {title} | {side} | {type(error).__name__}: {str(error)[:120]} | | | |")
            print(lines[-1], flush=True)
            step = None
            torch.cuda.empty_cache()
    return "\n".join(lines)


def generate(folder: Path) -> str:
    processor = Processor.from_pretrained(NANO)
    lines = ["| model | who | tokens/s | seconds | peak memory, GiB |", "|---|---|---|---|---|"]
    for title, layers in SHAPES.items():
        config = shape(title.split()[0], processor, layers)
        lines += _answered(title, config, save(config, processor, folder_of(title, folder)), processor)
    return "\n".join(lines)


def _answered(title: str, config: Config, directory: Path, processor: Processor) -> list[str]:
    words = "What does this light on the dashboard mean and what should the driver do? "
    asked = [Request([user(words * 4, 1)], [picture(n, 128, 128)], max_tokens=256, ignore_eos=True) for n in range(64)]
    tokens = sum(one.max_tokens for one in asked)
    lines: list[str] = []
    for who in ("ours, bf16", "ours, fp8", "transformers, bf16"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run = _generator(who, config, directory, asked, processor)
        run()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        took = time.perf_counter() - began
        memory = torch.cuda.max_memory_allocated() / 2**30
        lines.append(f"| {title} | {who} | {tokens / took:.0f} | {took:.1f} | {memory:.1f} |")
        print(lines[-1], flush=True)
        del run
    return lines


def _generator(
    who: str, config: Config, directory: Path, asked: list[Request], processor: Processor
) -> Callable[[], object]:
    if who.startswith("ours"):
        model = Qwen3VL.from_pretrained(directory, torch.bfloat16).cuda().requires_grad_(False)
        if "fp8" in who:
            quantize(model, "fp8")
        engine = Engine(model, processor, max_batch=64, kv_tokens=65536, watch=False)

        def run() -> object:
            engine.update_weights()
            return engine.generate(asked)

        return run
    model = family(config).from_pretrained(directory, dtype=torch.bfloat16).cuda().eval()
    model.generation_config.eos_token_id = None
    docs = [processor.encode(one.messages, one.images, generate=True) for one in asked]
    ids = torch.stack([d.input_ids for d in docs])
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == processor.image_id).int(),
        "pixel_values": torch.cat([d.pixels for d in docs]).to(torch.bfloat16),
        "image_grid_thw": torch.cat([d.grids for d in docs]),
    }
    batch = {name: value.cuda() for name, value in batch.items()}
    return lambda: model.generate(**batch, max_new_tokens=256, do_sample=False, pad_token_id=processor.pad_id)


RL = {"group": 8, "prompts": 4, "minibatches": 2}
RL_SHAPE = rl_work.Shape(768, 192, 24)
PARTS = 2
"""Forward passes in which the peer takes a mini-batch: its activations are many times ours"""


def online(rounds: int, folder: Path, sides: Sequence[str], peer: str) -> str:
    """Seconds of a step's phases and peak memory on the GPU; medians of the rounds after one that warms up."""
    processor = Processor.from_pretrained(NANO)
    model = save(shape("2B", processor), processor, folder_of(next(iter(SHAPES)), folder))
    torch.cuda.empty_cache()
    rl_work.make(folder, processor, RL_SHAPE, (rounds + 1) * RL["prompts"], RL["group"])
    told = RL | {
        "model": str(model), "data": str(folder), "precision": "bf16", "threads": 8, "response": RL_SHAPE.response,
        "rate": 1e-6, "steps": rounds + 1, "fed": False, "device": "cuda",
    }  # fmt: skip
    who_is: dict[str, dict[str, Any]] = {
        "ours": {},
        "ours, FP8 rollouts": {"rollout": {"weights": "fp8"}},
        "TRL": {"parts": PARTS, "compile": False, "rewards": rl_work.RIGHT},
    }
    lines = [
        "| who | rollout, s | score, s | update, s | step, s | peak GPU memory, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for number, (who, own) in enumerate(who_is.items()):
        if ("theirs" if who == "TRL" else "ours") not in sides:
            continue
        out = folder / f"online-{number}"
        out.mkdir()
        (out / "told.json").write_text(json.dumps(told | own | {"out": str(out)}))
        module, python = ("bench.rl_peer", peer) if who == "TRL" else ("bench.rl_ours", sys.executable)
        worker = Worker(python, module, [str(out / "told.json")], out / "log", told["threads"])
        try:
            steps = worker.block(rounds + 1)["steps"][1:]
            assert all(step["response"] == steps[0]["response"] for step in steps), steps
            phases = [statistics.median(step["phases"][name][0] for step in steps) for name in PHASES]
            peak = max(step["gpu"] for step in steps)
            cells = [f"{seconds:.2f}" for seconds in (*phases, sum(phases))]
            lines.append(f"| {who} | {' | '.join(cells)} | {peak:.1f} |")
        except RuntimeError as error:
            lines.append(f"| {who} | {str(error)[-1500:]} | | | | |")
        finally:
            worker.close()
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="train,generate,rl")
    parser.add_argument("--sides", default="ours,theirs", help="of train and rl")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has TRL")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    sides = options.sides.split(",")
    parts: dict[str, Callable[[Path], str]] = {
        "train": lambda folder: train(options.rounds, folder, sides),
        "generate": generate,
        "rl": lambda folder: online(options.rounds, folder, sides, options.peer),
    }
    text = f"# One GPU\n\n{machine()}- GPU: {torch.cuda.get_device_name()}\n"
    with tempfile.TemporaryDirectory() as name:
        for part in options.only.split(","):
            made = parts[part](Path(name))
            text += f"\n## {part.capitalize()}\n\n{made}\n"
    print(text)
    print(write("gpu", text))


if __name__ == "__main__":
    main()
