"""Inference against transformers' generate and vLLM: the same model, the same requests, one run. See `--help`.

    python -m bench.serve [--only parity,throughput,turns,stages] [--rounds 3] [--vllm .venv-vllm/bin/python]
    python -m bench.serve --only load --minutes 10

parity: greedy tokens in fp32 against both, on text, one picture, several pictures and video. throughput: useful tokens
a second on ragged requests. turns: time to the first token of a second turn, and of a session whose picture came
earlier. stages: the same under load, with encode and prefill as processes of their own. load: a server under mixed
requests, its memory and its blocks. One thread everywhere unless a part says otherwise.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from bench.engines import VLLM, Work, build, ours, picture, requests, transformers
from bench.latency import stages, turns
from bench.load import load
from bench.measure import in_turn, machine, ratio, write
from open4ov.engine import Engine, Request
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user
from open4ov.sample import video as clip

PARTS = ("parity", "throughput", "turns", "stages", "load")
TIE = 1e-4
"""A gap of logits below which either token is right"""


def cases() -> dict[str, list[Request]]:
    """Requests of every kind of input, for parity."""
    text = [Request([user(f"How many squares are there? {number} + {number}")]) for number in range(8)]
    one = [Request([user("Describe the image.", 1)], [picture(n, 96, 64 + 32 * (n % 2))]) for n in range(8)]
    several = [
        Request([user("Compare them.", 3)], [picture(n), picture(n + 50, 64, 96), picture(n + 90)]) for n in range(4)
    ]
    video = [
        Request([clip("What happens?", [0.0, 0.5, 1.0, 1.5])], [picture(number * 10 + frame) for frame in range(4)])
        for number in range(4)
    ]
    kinds = {"text": text, "one picture": one, "several pictures": several, "video": video}
    return {
        kind: [Request(one.messages, one.images, max_tokens=48, ignore_eos=True) for one in found]
        for kind, found in kinds.items()
    }


def parity(vllm: Path | None, folder: Path) -> str:
    """How many requests give the same 48 tokens; where one differs, the gap of the two tokens' logits."""
    lines = ["| model | input | requests | equal to transformers | equal to vLLM | differing: gap of logits |"]
    lines.append("|---|---|---|---|---|---|")
    for kind in ("nano", "60M"):
        directory = build(kind, folder)
        processor = Processor.from_pretrained(directory)
        peer = VLLM(vllm, directory, "float32", folder) if vllm else None
        for name, asked in cases().items():
            work = Work.of(asked, processor)
            found = ours(directory, work, torch.float32)()
            theirs = {"transformers": transformers(directory, work, torch.float32)()}
            if peer and name != "video":
                theirs["vLLM"] = peer.generate(work)()
            gaps = [
                f"{who}, request {n}: {_gap(directory, asked[n], a, b)}"
                for who, all_of_them in theirs.items()
                for n, (a, b) in enumerate(zip(found, all_of_them, strict=True))
                if a != b
            ]
            equal = [str(sum(a == b for a, b in zip(found, x, strict=True))) for x in theirs.values()]
            equal += ["not asked"] if len(equal) == 1 else []
            lines.append(f"| {kind} | {name} | {len(asked)} | {' | '.join(equal)} | {'; '.join(gaps) or 'none'} |")
        if peer:
            peer.close()
    return "\n".join(lines)


def _gap(directory: Path, asked: Request, mine: list[int], other: list[int]) -> str:
    """By how much the log-probabilities of the first two tokens that differ do, as our model has them."""
    engine = Engine(Qwen3VL.from_pretrained(directory), Processor.from_pretrained(directory))
    found = engine.generate([replace(asked, top_log_probs=100)])[0][0]
    place = next(n for n, (a, b) in enumerate(zip(mine, other, strict=True)) if a != b)
    likely = dict(found.top_log_probs[place])
    gap = likely[mine[place]] - likely.get(other[place], -torch.inf)
    return f"token {place}, gap {gap:.1e}{' (a tie)' if gap < TIE else ''}"


def throughput(vllm: Path | None, folder: Path, rounds: int) -> str:
    """Useful tokens a second: those that were asked for."""
    lines = [
        "| model | requests | ours, tokens/s | transformers | vLLM | ours is faster than transformers | than vLLM |",
        "|---|---|---|---|---|---|---|",
    ]
    jobs = {
        ("60M", "64 of 16 to 256 new tokens, prompts of 8 to 32 words, a quarter with a picture"): (
            64, (8, 32), (16, 256), 4,
        ),
        ("tiny", "32 of 128 new tokens, short text"): (32, (6, 12), (128, 128), 0),
    }  # fmt: skip
    for (kind, title), (count, prompt, new, pictures) in jobs.items():
        directory = build(kind, folder)
        work = Work.of(requests(count, prompt, new, pictures), Processor.from_pretrained(directory))
        contestants = {
            "ours": ours(directory, work, torch.float32),
            "transformers": transformers(directory, work, torch.float32),
        }
        peer = VLLM(vllm, directory, "float32", folder) if vllm else None
        if peer:
            contestants["vLLM"] = peer.generate(work)
        seconds = in_turn(contestants, rounds, warmup=1 if kind == "tiny" else 0)  # a minute a round is warm enough
        if peer:
            peer.close()
        speeds = {name: f"{work.tokens / statistics.median(found):.0f}" for name, found in seconds.items()}
        against = [
            ratio(seconds[name], seconds["ours"]) if name in seconds else "-" for name in ("transformers", "vLLM")
        ]
        figures = [speeds.get(name, "not asked") for name in ("ours", "transformers", "vLLM")]
        lines.append(f"| {kind} | {title} | {' | '.join(figures)} | {' | '.join(against)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="parity,throughput,turns,stages", help=f"of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load")
    parser.add_argument("--vllm", type=Path, default=None, help="the Python of a venv with vLLM (scripts/vllm_venv.sh)")
    options = parser.parse_args()
    asked = options.only.split(",")
    if unknown := [name for name in asked if name not in PARTS]:
        parser.error(f"--only: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    text = f"# Inference\n\n{machine()}- one thread each; fp32\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "parity": lambda: parity(options.vllm, folder),
            "throughput": lambda: throughput(options.vllm, folder, options.rounds),
            "turns": lambda: turns(folder, options.rounds),
            "stages": lambda: stages(folder),
            "load": lambda: load(options.minutes),
        }
        for part in asked:
            found = f"\n## {part.capitalize()}\n\n{parts[part]()}\n"
            print(found, flush=True)
            text += found
    print(write("serve" if "load" not in asked else "serve-load", text))


if __name__ == "__main__":
    main()
