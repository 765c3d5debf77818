"""Generation with continuous refill: rows of one KV cache, each an unfinished completion (paper §5.2).

A prompt is computed once, with its images, and its keys and values are copied to the rows of its n completions.
Prompts that are equal in words and pictures share that computation; a picture seen before is not encoded again.
Rows that finish make room for the next prompts. Nothing a completion contains depends on what else was in the batch,
up to the rounding of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from open4ov.engine.batch import Batch, Row
from open4ov.engine.request import Completion, Request
from open4ov.engine.text import TextStream, cut_at_stop
from open4ov.engine.vision_cache import VisionCache
from open4ov.model import Processor, Qwen3VL

Progress = Callable[[int, int], None]


class Engine:
    """A model and a processor that answer batches of requests.

    `max_batch`: rows decoded together; `batch_tokens`: most cached tokens, rows times the longest row (one prompt with
    its completions is always admitted, however long). `autocast` computes in that type instead of the weights'.
    `vision_cache` keeps the features of pictures from one call to the next (None: a cache of the engine's own).
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        max_batch: int = 128,
        batch_tokens: int = 65536,
        autocast: torch.dtype | None = None,
        vision_cache: VisionCache | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.max_batch = max_batch
        self.batch_tokens = batch_tokens
        self.autocast = autocast
        self.vision_cache = vision_cache or VisionCache(model, processor)
        self.weight_version = 0

    def update_weights(self, state: Mapping[str, Tensor] | None = None) -> int:
        """Take over a state dict (None: the model was changed in place); returns the new weight version."""
        if state is not None:
            self.model.load_state_dict(state)
        self.weight_version += 1
        return self.weight_version

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        """The completions of each request, in order. `progress(done, total)` counts completions."""
        results: list[dict[int, Completion]] = [{} for _ in requests]
        total, done = sum(request.n for request in requests), 0
        with self._precision():  # one context for all steps: autocast then casts each weight once, not at every step
            for row in self._advance(requests):
                if row.finish_reason is None:
                    continue
                results[row.request][row.index] = self._completion(row)
                done += 1
                if progress is not None:
                    progress(done, total)
        return [[result[index] for index in sorted(result)] for result in results]

    def stream(self, request: Request) -> Iterator[str]:
        """The text of one completion (`request.n` must be 1) piece by piece; joined, it equals `generate`'s text.

        A piece never splits a character, and text that may turn out to begin a stop string is held back.
        """
        if request.n != 1:
            raise ValueError(f"stream gives one completion, not n={request.n}")
        text = TextStream(self.processor.decode, request.stop)
        for row in self._advance([request]):
            piece = text.push(row.token_ids, last=row.finish_reason is not None)
            if piece:
                yield piece

    def _advance(self, requests: Sequence[Request]) -> Iterator[Row]:
        """Every row after each of its tokens; the caller sees `finish_reason` set once, on the row's last token."""
        batch = Batch(
            self.model,
            self.processor,
            requests,
            self.max_batch,
            self.batch_tokens,
            self.autocast,
            self.vision_cache,
        )
        while batch.waiting or batch.rows:
            for row in batch.admit() or batch.decode():
                row.finish_reason = self._finish_reason(row)
                yield row
            batch.drop_finished()

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.model.device.type, self.autocast) if self.autocast else nullcontext()

    def _finish_reason(self, row: Row) -> str | None:
        if row.token_ids[-1] == self.processor.eos_id:
            return "stop"
        if row.asked.stop:
            text = self.processor.decode(row.token_ids)
            if any(stop in text for stop in row.asked.stop):
                return "stop"
        return "length" if len(row.token_ids) >= row.asked.max_tokens else None

    def _completion(self, row: Row) -> Completion:
        assert row.finish_reason is not None
        text = cut_at_stop(self.processor.decode(row.token_ids), row.asked.stop)
        return Completion(text, row.token_ids, row.log_probs, row.finish_reason, self.weight_version)
