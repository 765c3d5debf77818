"""Responses, apart from how tokens are computed: which ones there is room for, how one grows and why it ends.

Shapes: T tokens of a step, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch
from torch import Tensor

from open4ov.engine.degeneration import EVERY
from open4ov.engine.request import Completion, Request
from open4ov.engine.sequence import Chunk, Sequence
from open4ov.engine.text import cut_at_stop
from open4ov.errors import UserError
from open4ov.model import Pack, Processor, Qwen3VL
from open4ov.model.config import TextConfig


def order(requests: Many[Request]) -> list[int]:
    """The places of requests in the order in which they are begun: the longest first, like with like."""
    return sorted(range(len(requests)), key=lambda place: -_size(requests[place]))


def _size(request: Request) -> int:
    """A prompt's length, roughly: characters, and one for each 256 pixels."""
    words = sum(len(message.text) for message in request.messages)
    return words + sum(image.width * image.height for image in request.images) // 256


def check(request: Request, tokens: int, config: TextConfig, held: int) -> None:
    """Raises UserError for a prompt of so many tokens whose response can never be: beyond the model's positions, or
    beyond the `held` tokens of all blocks."""
    most = config.max_position_embeddings
    if tokens + request.max_tokens > most:
        raise UserError(
            f"a request of {tokens} tokens and up to {request.max_tokens} of a response is beyond the model's "
            f"{most} (max_position_embeddings): shorten it, or lower max_tokens"
        )
    if tokens + request.max_tokens > held:
        raise UserError(
            f"a request of {tokens} tokens and up to {request.max_tokens} of a response is beyond the {held} that "
            "the engine can hold: raise kv_tokens, or lower max_tokens"
        )


def score_prompts(model: Qwen3VL, chunks: Many[Chunk], packed: Pack, hidden: Tensor) -> None:
    """Adds the log-probabilities of the prompt's tokens that these chunks predict, where they were asked for. `hidden`:
    the final states [T, D] of the chunks' tokens, end to end."""
    borders: list[int] = packed.cu_seqlens.tolist()
    for place, chunk in enumerate(chunks):
        one = chunk.sequence
        known = len(one.prompt.token_ids)
        last = min(one.computed + chunk.count, known - 1)
        if not one.request.prompt_log_probs or one.computed >= last:
            continue
        states = hidden[borders[place] : borders[place] + last - one.computed]
        ids = torch.tensor(one.tokens[one.computed + 1 : last + 1], device=hidden.device)
        del one.prompt_log_probs[one.computed :]  # computed again after it had to wait
        one.prompt_log_probs += model.score(states, ids, one.request.temperature or 1.0)[0].tolist()


def take(one: Sequence, token: int, log_prob: float, top: list[tuple[int, float]]) -> None:
    """Adds a sampled token. `top`: the likeliest ones there, with their log p."""
    one.tokens.append(token)
    one.log_probs.append(log_prob)
    if one.request.top_log_probs:
        one.top.append(top)
    if one.sampling.grammar is not None:
        one.sampling.grammar.take(token)


def finish_reason(one: Sequence, processor: Processor, vocabulary: int) -> str | None:
    """Why a response ends with its last token (see `Completion`); None where it goes on."""
    if one.sampling.grammar is not None and one.sampling.grammar.failed:
        return "error"
    if one.tokens[-1] == processor.eos_id and not one.request.ignore_eos:
        return "stop"
    if one.request.stop:
        text = processor.decode(one.sampled)
        if any(stop in text for stop in one.request.stop):
            return "stop"
    if len(one.sampled) >= one.request.max_tokens:
        return "length"
    watched = one.request.degeneration
    if watched is None or len(one.log_probs) % EVERY:
        return None
    likely = [] if one.request.grammar else one.log_probs  # what a grammar dictates may well be unlikely
    dictated = one.sampling.grammar.dictated if one.sampling.grammar is not None else []
    return watched.reason(one.sampled, likely, vocabulary, processor.decode, dictated)


def completion(one: Sequence, processor: Processor, version: int) -> Completion:
    """What a finished sequence answers. `version`: of the weights."""
    assert one.finish_reason is not None
    text = cut_at_stop(processor.decode(one.sampled), one.request.stop)
    return Completion(text, one.sampled, one.log_probs, one.finish_reason, version, one.top, one.prompt_log_probs)
