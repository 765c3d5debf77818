"""The model layer against transformers' Qwen3-VL, and against its own plain forms. See `--help`.

    python -m bench.model [--rounds 12] [--only steps,prefix,experts,rope,recompute,pictures]

steps: a training step (forward, backward, AdamW) in bf16 on equal and on unequal lengths, images included; the peer
pads to the longest, we pack. prefix: 8 responses to one prompt, scored and updated once together and in 8 rows, against
what the counted operations allow. experts: grouped products against the loop. rope: the fused turn against the naive
form. recompute: bytes kept and time of each mode. pictures: host time for an image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.measure import in_turn, machine, ratio, write
from bench.steps import LENGTHS, NANO, middle, steps, work
from open4ov.model import Encoded, Pack, Processor, Qwen3VL, VisionFeatures, pack
from open4ov.model.flops import shared_prefix
from open4ov.model.images import batch_patches, patches
from open4ov.model.moe import KERNELS, MoE
from open4ov.model.rope import rotate, text_angles
from open4ov.parallel import recompute
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.sample import user


def prefix(rounds: int) -> str:
    """Scoring and update of a group: the prompt (one picture) is four times as long as a response."""
    processor, model = Processor.from_pretrained(NANO), Qwen3VL.from_pretrained(NANO)
    model.vision.requires_grad_(False)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8))
    prompt = processor.encode([user("How many are there? " * 36, 1)], [image], generate=True)
    with torch.no_grad():
        vision = model.encode_images(prompt.pixels, prompt.grids)
    length = len(prompt) // 4
    generator = torch.Generator().manual_seed(0)
    responses = [torch.randint(0, 6000, (length,), generator=generator).tolist() for _ in range(8)]
    rows = pack([_extended(prompt, response) for response in responses])
    features = VisionFeatures.cat([vision] * 8)
    groups = SharedPrefix.build([(prompt, vision)], [responses])

    def shared() -> Tensor:
        return log_probs(model, groups)[0]

    def apart() -> Tensor:
        return model.log_probs(rows, features)[0]

    def update(score: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                score()
            score().sum().backward()
            model.zero_grad(set_to_none=True)

        return run

    seconds = in_turn({"shared": update(shared), "apart": update(apart)}, rounds)
    allowed = (
        shared_prefix(model.config, len(prompt), [length] * 8, shared=False).forward
        / shared_prefix(model.config, len(prompt), [length] * 8).forward
    )
    found = statistics.median(a / b for a, b in zip(seconds["apart"], seconds["shared"], strict=True))
    return (
        f"Prompt {len(prompt)} tokens, 8 responses of {length}: {ratio(seconds['apart'], seconds['shared'])} times "
        f"faster; the counted operations allow {allowed:.2f}: {100 * found / allowed:.0f} % of it."
    )


def _extended(prompt: Encoded, tokens: list[int]) -> Encoded:
    places = torch.arange(prompt.next_position, prompt.next_position + len(tokens)).expand(3, -1)
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, torch.tensor(tokens)]),
        positions=torch.cat([prompt.positions, places], dim=1),
        targets=torch.cat([torch.zeros(len(prompt), dtype=torch.bool), torch.ones(len(tokens), dtype=torch.bool)]),
    )


def experts(rounds: int) -> str:
    """Forward and backward of one sparse layer, 1,024 tokens, bf16."""
    lines = ["| experts x width, top k, hidden | loop / grouped (quartiles) |", "|---|---|"]
    text = Qwen3VL.from_pretrained(NANO).config.text
    for number, width, top, hidden in ((8, 128, 2, 256), (32, 128, 4, 256), (64, 256, 8, 512)):
        moe = MoE(
            replace(text, hidden_size=hidden, num_experts=number, num_experts_per_tok=top, moe_intermediate_size=width)
        )
        for weight in moe.parameters():
            torch.nn.init.normal_(weight, 0.0, 0.05)
        x = torch.randn(1024, hidden, requires_grad=True)

        def step(kernel: str, moe: MoE = moe, x: Tensor = x) -> None:
            moe.kernel = kernel
            with torch.autocast("cpu", torch.bfloat16):
                out = moe(x)
            out.float().square().mean().backward()

        seconds = in_turn({kernel: (lambda kernel=kernel: step(kernel)) for kernel in KERNELS}, rounds)
        lines.append(f"| {number} x {width}, {top}, {hidden} | {ratio(seconds['loop'], seconds['grouped'])} |")
    return "\n".join(lines)


def rope(rounds: int) -> str:
    """Forward and backward of the turn of 2,048 tokens' queries (16 heads of 128)."""
    config = replace(Qwen3VL.from_pretrained(NANO).config.text, head_dim=128, mrope_section=(24, 20, 20))
    positions = torch.arange(2048).expand(3, -1)
    cos, sin = text_angles(config, positions)
    x = torch.randn(2048, 16, 128, requires_grad=True)

    plain_sin = torch.cat((-sin[:, :64], sin[:, 64:]), -1)  # our table has the sign in it
    up = torch.ones_like(x)

    def naive() -> None:
        """As model code writes it: the halves of a head negated, joined, multiplied and added."""
        first, second = x.chunk(2, dim=-1)
        (x * cos[:, None] + torch.cat((-second, first), -1) * plain_sin[:, None]).backward(up)

    def fused() -> None:
        rotate(x, cos, sin).backward(up)

    seconds = in_turn({"naive": naive, "fused": fused}, rounds)
    return f"One operator on the batch's table: {ratio(seconds['naive'], seconds['fused'])} times faster than naively."


def recomputation(rounds: int) -> str:
    processor = Processor.from_pretrained(NANO)
    model = Qwen3VL(middle(Qwen3VL.from_pretrained(NANO).config))
    batch: Pack = pack(work(processor, LENGTHS["equal"]).documents)
    lines = ["| mode (language and vision) | kept for the backward pass | step time against none |", "|---|---|---|"]
    kept: dict[str, int] = {}

    def step(mode: recompute.Mode) -> None:
        recompute.apply(model, language=mode, vision=mode)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(batch)
        loss.backward()
        model.zero_grad(set_to_none=True)

    modes: tuple[recompute.Mode, ...] = ("none", "op", "full")
    for mode in modes:
        recompute.apply(model, language=mode, vision=mode)
        with torch.autocast("cpu", torch.bfloat16):
            kept[mode] = recompute.saved_bytes(lambda: model.loss(batch))
    seconds = in_turn({mode: (lambda mode=mode: step(mode)) for mode in modes}, rounds)
    for mode in modes:
        lines.append(f"| {mode} | {kept[mode] / 2**20:.1f} MiB | {ratio(seconds[mode], seconds['none'])} |")
    return "\n".join(lines)


def pictures(rounds: int) -> str:
    """Host CPU time for an image of 640 x 480: all on the host, and only the bytes handed over."""
    settings = replace(Processor.from_pretrained(NANO).images, min_pixels=65_536, max_pixels=262_144)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)) for _ in range(16)]

    def one_by_one() -> None:
        for image in images:
            patches(image, settings)

    def hand_over() -> None:
        torch.stack([torch.from_numpy(np.array(image)) for image in images])

    contestants = {"one by one": one_by_one, "batch": lambda: batch_patches(images, settings), "bytes": hand_over}
    seconds = {
        name: 1000 * statistics.median(found) / len(images) for name, found in in_turn(contestants, rounds).items()
    }
    return (
        f"One by one {seconds['one by one']:.1f} ms an image; as one batch of tensor operations {seconds['batch']:.1f} "
        f"ms here, of which the host's own part, where a GPU does the rest, is {seconds['bytes']:.2f} ms."
    )


PARTS: dict[str, Callable[[int], str]] = {
    "steps": steps,
    "prefix": prefix,
    "experts": experts,
    "rope": rope,
    "recompute": recomputation,
    "pictures": pictures,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--only", default=",".join(PARTS))
    chosen = arguments.parse_args()
    torch.set_flush_denormal(True)
    torch._dynamo.config.recompile_limit = 64  # their layers ask for more than the usual 8
    text = f"# The model layer\n\n{machine()}"
    for name in chosen.only.split(","):
        began = time.monotonic()
        text += f"\n## {name}\n\n{PARTS[name](chosen.rounds)}\n"
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(text)
    print(write("model", text))


if __name__ == "__main__":
    main()
