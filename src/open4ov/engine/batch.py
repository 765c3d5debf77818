"""The running batch: prompts waiting, completions under way, and the one KV cache whose first rows are theirs.

Rows stay dense: a finished row's place is taken by the last one, so every step computes live rows only. The cache
grows when a longer prompt comes; long prompts go first, so that rows of a batch are of like length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from open4ov.engine.request import Request
from open4ov.engine.sampler import Sampling, sample
from open4ov.engine.vision_cache import VisionCache, digests
from open4ov.errors import UserError
from open4ov.model import Encoded, KVCache, Pack, Processor, Qwen3VL, VisionFeatures, pack
from open4ov.model.processing import visuals

LENGTH_STEP = 32
"""The cache's row length is a multiple of this many tokens."""


@dataclass
class Row:
    """One unfinished completion: whose it is, what it sampled so far, and the M-RoPE position of its newest token."""

    request: int
    index: int
    asked: Request
    sampling: Sampling
    position: int
    needs: int
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class Prompt:
    """One conversation, the digests of its images and videos (a video's are its frames' joined), and the (request,
    completion) pairs that continue it."""

    request: Request
    digests: list[str]
    wanted: list[tuple[int, int]] = field(default_factory=list)


class Batch:
    """Answers `requests` with at most `max_rows` rows at a time and `max_tokens` cached tokens (rows x longest).

    A prompt is admitted with all its completions at once; one that is larger than the limits is admitted alone.
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        requests: Sequence[Request],
        max_rows: int,
        max_tokens: int,
        autocast: torch.dtype | None,
        pictures: VisionCache,
    ) -> None:
        self.pictures = pictures
        self.model, self.processor, self.requests = model, processor, requests
        self.max_rows, self.max_tokens, self.autocast = max_rows, max_tokens, autocast
        self.waiting = deque(sorted(_prompts(requests), key=_size, reverse=True))
        self.rows: list[Row] = []
        self._cache = model.new_cache(0, 0, autocast)
        self._encoded: Encoded | None = None

    @torch.inference_mode()
    def admit(self) -> list[Row]:
        """Prefill waiting prompts when a quarter of the rows is free; the new rows, each with its first token."""
        if not self.waiting or (self.rows and 4 * len(self.rows) > 3 * self.max_rows):
            return []
        prompts: list[Prompt] = []
        documents: list[Encoded] = []
        fresh: list[Row] = []
        longest = max((row.needs for row in self.rows), default=0)
        while self.waiting:
            prompt = self.waiting[0]
            document = self._encode_next(prompt)
            needs = len(document) + max(self.requests[request].max_tokens for request, _ in prompt.wanted)
            if needs > (most := self.model.config.text.max_position_embeddings):
                raise UserError(
                    f"request {prompt.wanted[0][0]}: {len(document)} tokens and up to {needs - len(document)} of a "
                    f"response are beyond the model's {most} (max_position_embeddings): shorten it, or lower max_tokens"
                )
            count = len(self.rows) + len(fresh) + len(prompt.wanted)
            if count > len(prompt.wanted) and (count > self.max_rows or count * max(longest, needs) > self.max_tokens):
                break
            longest = max(longest, needs)
            fresh += [self._row(request, index, document) for request, index in prompt.wanted]
            prompts.append(prompt)
            documents.append(document)
            self.waiting.popleft()
            self._encoded = None
        if not fresh:
            return []
        with self._precision():
            packed = pack(documents).to(self.model.device)
            cache = self.model.new_cache(len(documents), max(map(len, documents)), self.autocast)
            hidden = self.model.hidden_states(packed, self._vision(prompts, documents), cache)
            logits = self.model.logits(hidden[packed.cu_seqlens[1:] - 1])
        owner = torch.tensor([i for i, prompt in enumerate(prompts) for _ in prompt.wanted], device=logits.device)
        self._append(cache, owner, longest)
        self.rows += fresh
        self._sample(fresh, logits[owner])
        return fresh

    @torch.inference_mode()
    def decode(self) -> list[Row]:
        """One more token for every row."""
        device = self.model.device
        for row in self.rows:
            row.position += 1
        step = Pack.step(
            torch.tensor([row.token_ids[-1] for row in self.rows], device=device),
            torch.tensor([row.position for row in self.rows], device=device),
        )
        with self._precision():
            logits = self.model.logits(self.model.hidden_states(step, cache=self._live()))
        self._sample(self.rows, logits)
        return self.rows

    @torch.inference_mode()
    def drop_finished(self) -> None:
        """Forget rows with a `finish_reason`; the last rows move into their places."""
        finished = [place for place, row in enumerate(self.rows) if row.finish_reason is not None]
        kept = len(self.rows) - len(finished)
        holes = [place for place in finished if place < kept]
        movers = [place for place in range(kept, len(self.rows)) if self.rows[place].finish_reason is None]
        for hole, mover in zip(holes, movers, strict=True):
            self.rows[hole] = self.rows[mover]
            self._cache.keys[:, hole] = self._cache.keys[:, mover]
            self._cache.values[:, hole] = self._cache.values[:, mover]
            self._cache.lengths[hole] = self._cache.lengths[mover]
        del self.rows[kept:]

    def _row(self, request: int, index: int, document: Encoded) -> Row:
        asked = self.requests[request]
        sampling = Sampling(asked.temperature, asked.top_k, asked.top_p, asked.seed, index)
        needs = len(document) + asked.max_tokens
        return Row(request, index, asked, sampling, document.next_position - 1, needs)

    def _sample(self, rows: list[Row], logits: Tensor) -> None:
        tokens, log_probs = sample(logits, [row.sampling for row in rows])
        for row, token, log_prob in zip(rows, tokens.tolist(), log_probs.tolist(), strict=True):
            row.token_ids.append(token)
            row.log_probs.append(log_prob)

    def _encode_next(self, prompt: Prompt) -> Encoded:
        if self._encoded is None:
            request = prompt.request
            self._encoded = self.processor.encode(request.messages, request.images, generate=True, pixels=False)
        return self._encoded

    def _vision(self, prompts: list[Prompt], documents: list[Encoded]) -> VisionFeatures | None:
        """Features of all images of the documents in order."""
        names = [name for prompt in prompts for name in prompt.digests]
        if not names:
            return None
        seen = [one for prompt in prompts for one in visuals(prompt.request.messages, prompt.request.images)]
        return VisionFeatures.cat(self.pictures.features(documents, seen, names))

    def _append(self, prefilled: KVCache, owner: Tensor, longest: int) -> None:
        """Copy row owner[i] of `prefilled` to row len(rows) + i, in a cache that has room for `longest` tokens."""
        first, last = len(self.rows), len(self.rows) + len(owner)
        self._reserve(last, longest)
        for mine, theirs in ((self._cache.keys, prefilled.keys), (self._cache.values, prefilled.values)):
            mine[:, first:last, : prefilled.max_len] = theirs[:, owner]
        self._cache.lengths[first:last] = prefilled.lengths[owner]

    def _reserve(self, rows: int, length: int) -> None:
        length = -(-length // LENGTH_STEP) * LENGTH_STEP
        old, live = self._cache, len(self.rows)
        if rows <= old.batch and length <= old.max_len:
            return
        rows = max(rows, min(2 * old.batch, self.max_rows))
        self._cache = self.model.new_cache(rows, max(length, old.max_len if live else 0), self.autocast)
        if live:
            self._cache.keys[:, :live, : old.max_len] = old.keys[:, :live]
            self._cache.values[:, :live, : old.max_len] = old.values[:, :live]
            self._cache.lengths[:live] = old.lengths[:live]

    def _live(self) -> KVCache:
        """The cache's used rows, as a view: what is written to it is written to the cache."""
        view, used = KVCache.__new__(KVCache), len(self.rows)
        view.keys, view.values = self._cache.keys[:, :used], self._cache.values[:, :used]
        view.lengths = self._cache.lengths[:used]
        return view

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.model.device.type, self.autocast) if self.autocast else nullcontext()


def _size(prompt: Prompt) -> int:
    """A prompt's length, roughly: characters, and one for each 256 pixels."""
    words = sum(len(message.text) for message in prompt.request.messages)
    return words + sum(image.width * image.height for image in prompt.request.images) // 256


def _prompts(requests: Sequence[Request]) -> list[Prompt]:
    """The distinct conversations of the requests, in order of first appearance."""
    found: dict[tuple[str, ...], Prompt] = {}
    for index, request in enumerate(requests):
        used = digests(request.messages, request.images)
        key = (*(message.model_dump_json() for message in request.messages), *used)
        prompt = found.setdefault(key, Prompt(request, used))
        prompt.wanted += [(index, n) for n in range(request.n)]
    return list(found.values())
