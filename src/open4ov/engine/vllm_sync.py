"""Weights for vLLM: written so that it reads all of them, and looked at through its log-probabilities afterwards.

Where embedding and head are tied, vLLM (0.32, on a CPU) keeps the head it has packed when weights are read again, and
answers with new layers under an old head. A checkpoint that holds both is read as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from open4ov.engine.request import Completion, Request
from open4ov.model import Encoded, Processor, Qwen3VL, pack
from open4ov.sample import user

TOLERANCE = {torch.float32: 0.002, torch.bfloat16: 0.08, torch.float16: 0.02}
"""Largest mean difference of log-probabilities that rounding may make, by the type that vLLM computes in"""


class WeightsDiffer(RuntimeError):
    """vLLM, or a server, does not compute what the model computes; what it samples must not be used."""


def save_untied(model: Qwen3VL, processor: Processor, folder: Path, dtype: torch.dtype) -> None:
    """Writes the model with a head of its own (`tie_word_embeddings` false), and the processor's files."""
    weights = model.state_dict()
    if model.head is None:
        with torch.device("meta"):
            twin = Qwen3VL(replace(model.config, tie_word_embeddings=False))
        twin.load_state_dict({**weights, "head.weight": weights["text.embed.weight"].clone()}, assign=True)
        model = twin
    model.save_pretrained(folder, dtype)
    processor.save_pretrained(folder)


def probes(processor: Processor) -> list[Request]:
    """A text and a picture, each sampled from (hot and cut, so that a log p of the wrong distribution shows) and then
    scored. Sampling comes first: it is what would meet kept keys, values and features."""
    side = processor.images.factor
    blocks = torch.arange(16 * 3).view(4, 4, 3).mul(5) % 256
    picture = Image.fromarray(blocks.to(torch.uint8).numpy()).resize((4 * side, 4 * side), Image.Resampling.NEAREST)
    text = Request([user("Which of 17, 4 and 29 is the largest? What is it called, and why?")])
    seen = Request([user("Describe the picture, one part after the other.", images=1)], [picture])
    hot = [replace(one, max_tokens=8, temperature=0.7, top_k=50, top_p=0.9, seed=5) for one in (text, seen)]
    return [*hot, *(replace(one, max_tokens=1, prompt_log_probs=True) for one in (text, seen))]


def check(
    model: Qwen3VL, processor: Processor, asked: Sequence[Request], answers: Sequence[Completion], tolerance: float
) -> None:
    """Compares the answers to `probes` with the model's own log-probabilities of the same tokens.

    Raises WeightsDiffer, with what differs and by how much, when the mean difference of one is above `tolerance`.
    """
    faults: list[str] = []
    of_text = of_prompt = False
    for request, answer in zip(asked, answers, strict=True):
        own = own_log_probs(model, processor, request, answer.token_ids)
        prompt = len(own) - len(answer.token_ids)
        theirs = torch.tensor([*answer.prompt_log_probs, *answer.log_probs])
        own, first = (own, 0) if request.prompt_log_probs else (own[prompt:], prompt)
        gaps = (own - theirs).abs()
        if not float(gaps.mean()) <= tolerance:  # NaN differs, too
            of_text |= not request.images
            of_prompt |= request.prompt_log_probs
            worst = int(gaps.argmax())
            faults.append(
                f"{'prompt' if request.prompt_log_probs else 'sampled'} tokens of the "
                f"{'picture' if request.images else 'text'} probe by {gaps.mean():.4f} on average, most at token "
                f"{first + worst + 1} ({theirs[worst]:.4f} where the model says {own[worst]:.4f})"
            )
    if faults:
        if not of_prompt:
            hint = "while sampling only: another distribution is reported, or keys and values of older weights are used"
        elif of_text:
            hint = "with a text alone: the decoder or its head (a tied checkpoint leaves an old head)"
        else:
            hint = "with a picture only: the vision tower, or features kept from older weights"
        raise WeightsDiffer(f"its log-probabilities differ: {'; '.join(faults)}. Seen {hint}")


@torch.inference_mode()
def own_log_probs(model: Qwen3VL, processor: Processor, request: Request, token_ids: Sequence[int]) -> Tensor:
    """log p of each token of the prompt after the first, and of `token_ids`, a response to it, at the request's
    temperature (1 when greedy) [T - 1 + len(token_ids)]."""
    document = processor.encode(request.messages, request.images, generate=True)
    whole = _with_response(document, token_ids)
    packed = replace(pack([whole]), places=model.visual_places(document.input_ids))  # a response may say placeholders
    hidden = model.hidden_states(packed.to(model.device))[:-1]
    ids = whole.input_ids[1:].to(model.device)
    return model.score(hidden, ids, request.temperature or 1.0)[0].float().cpu()


def _with_response(document: Encoded, token_ids: Sequence[int]) -> Encoded:
    count = len(token_ids)
    after = document.next_position + torch.arange(count)
    return replace(
        document,
        input_ids=torch.cat([document.input_ids, torch.tensor(token_ids, dtype=torch.long)]),
        positions=torch.cat([document.positions, after.expand(3, -1)], dim=1),
        targets=torch.cat([document.targets, torch.ones(count, dtype=torch.bool)]),
        next_position=document.next_position + count,
    )
