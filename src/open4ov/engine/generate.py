"""The engine: requests come and go, and every step computes something for all that are under way (paper §5.2).

A step (`Engine.step`) is one forward pass: a token for every completion that decodes, and pieces of new prompts. Equal
beginnings of prompts, pictures included, are computed once (`blocks.py`), and a picture seen before is not encoded
again (`vision_cache.py`). Nothing a completion contains depends on what else was in the batch, up to the rounding of
floating-point sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from open4ov.engine import responses, sequence, weights
from open4ov.engine.adapters import Adapters
from open4ov.engine.blocks import BlockPool, Key, root_key
from open4ov.engine.decoding import Decoding
from open4ov.engine.half import Head
from open4ov.engine.handover import Handover
from open4ov.engine.inputs import Inputs
from open4ov.engine.paged import KVStore, Rows, StepMemory
from open4ov.engine.request import Completion, Request
from open4ov.engine.sampler import sample
from open4ov.engine.scheduler import Scheduler
from open4ov.engine.sequence import Chunk, Prompt
from open4ov.engine.text import TextStream
from open4ov.engine.vision_cache import VisionCache, digests, salted
from open4ov.engine.watch import Watch
from open4ov.errors import UserError
from open4ov.model import Encoded, Processor, Qwen3VL, attention

Progress = Callable[[int, int], None]


class Engine:
    """A model and a processor that answer requests, many at a time.

    `max_batch`: completions under way together; `kv_tokens`: tokens whose keys and values are held, in blocks of
    `block_size`; `step_tokens`: most tokens of a step (longer prompts take several). `autocast` computes in that type
    instead of the weights'. `vision_cache` keeps the features of pictures from one call to the next (None: a cache of
    the engine's own); it may be another model's that has the very same tower. `watch`: look whether the weights are
    others before work begins; a server whose weights change by `update_weights` only does without. `graphs`: on a GPU,
    steps that only decode are CUDA graphs (`decoding.py`). Raises UserError for a processor that is not this model's.
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        max_batch: int = 128,
        kv_tokens: int = 32768,
        step_tokens: int = 2048,
        block_size: int = 16,
        autocast: torch.dtype | None = None,
        vision_cache: VisionCache | None = None,
        watch: bool = True,
        graphs: bool = True,
    ) -> None:
        processor.check(model.config)
        self.model, self.processor, self.autocast = model, processor, autocast
        self.vision_cache = vision_cache or VisionCache(model, processor, watch=watch)
        if self.vision_cache.model.vision is not model.vision or self.vision_cache.processor is not processor:
            raise ValueError("vision_cache is of another model or processor than the engine")
        self.weight_version, self.adapters = 0, Adapters(model)
        self.pool = BlockPool(kv_tokens // block_size, block_size)
        self.scheduler = Scheduler(self.pool, max_batch, step_tokens)
        self.dtype = autocast or model.text.embed.weight.dtype
        self._store = KVStore(model.config.text, self.pool.count, block_size, self.dtype, model.device)
        self.handover = Handover(self.scheduler, self._store)
        self._rows = Rows(self._store)
        self._head = Head(model, autocast)
        self._decoding = Decoding(model, self._head, self._store, self._rows, graphs)
        self._lasting = False
        """Whether what autocast has cast outlasts a step"""
        self._inputs = Inputs(model, self.vision_cache)
        self._watch = Watch(model.parameters, watch)
        self._next = 0
        self._whole = True
        self.scheduler.root = self._root()

    def update_weights(self, state: Mapping[str, Tensor] | None = None) -> int:
        """Take over a state dict (None: the model was changed in place); returns the new weight version. Completions
        under way go on with the new weights, and what they have seen is computed anew.

        Raises UserError for weights that do not fit: nothing has changed then. After any other error the weights may be
        partly others: nothing is computed until an update succeeds.
        """
        if state is not None:
            weights.check(self.model, state)
        self._whole = False
        try:
            if state is not None:
                self.model.load_state_dict(state)
            self._whole = True
        finally:
            self._watch.changed()
            if not self._watch.on:
                self.vision_cache.clear()
            self.weight_version += 1
            self._begin_anew()
        return self.weight_version

    def add(self, request: Request) -> int:
        """Queues a request and gives its number. Raises UserError for one that can never be answered: beyond the
        model's positions, or beyond all blocks. What `request.ahead` computes is held until `abort`."""
        return self.begin(self.prompt(request))

    def prompt(self, request: Request, document: Encoded | None = None) -> Prompt:
        """A request's conversation as this engine reads it; any thread may ask. `document`: the same as it was read
        already (`Processor.encode_tokens`); of the messages only the places of pictures count then. Raises UserError
        as `add` does."""
        if document is None:
            document = self.processor.encode(request.messages, request.images, generate=True, pixels=False)
        responses.check(request, len(document), self.model.config.text, self.pool.count * self.pool.size)
        if request.grammar is not None and request.grammar.processor is not self.processor:
            raise ValueError("the grammar is of another processor than the engine's")
        places = self.model.visual_places(document.input_ids)
        names = [salted(request.salt, digest) for digest in digests(request.messages, request.images)]
        adapter = self.adapters.get(request.adapter)
        return Prompt.of(request, document, names, places, self.processor.images.merge_size, adapter)

    def begin(self, prompt: Prompt) -> int:
        """Queues a request that `prompt` has read, and gives its number."""
        number, self._next = self._next, self._next + 1
        for index in range(prompt.request.first, prompt.request.first + prompt.request.n):
            self.scheduler.waiting.append(sequence.Sequence.begin(number, index, prompt))
        return number

    def abort(self, number: int) -> None:
        """Gives up what is left of a request, or is held for it; nothing happens when it is finished."""
        for one in [*self.scheduler.running, *self.scheduler.waiting, *self.scheduler.held.values()]:
            if one.number == number:
                self._rows.leave(one)
                self.scheduler.remove(one)

    def release(self) -> None:
        """Frees the memory of keys and values, for others to use until the next step, which takes it again. Features
        of pictures stay. Raises RuntimeError while anything is under way, or computed ahead and held."""
        if self.busy or self.scheduler.held:
            raise RuntimeError("the engine is at work: its keys and values cannot be given up now")
        self._begin_anew()
        self._store.release()

    @property
    def longest(self) -> int:
        """Tokens that a prompt and its response may have together."""
        return min(self.model.config.text.max_position_embeddings, self.pool.count * self.pool.size)

    @property
    def busy(self) -> bool:
        """Whether there is anything left to compute."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    @torch.no_grad()  # not inference_mode: in it autocast casts every weight anew at each step
    def step(self) -> list[sequence.Sequence]:
        """One forward pass; the completions that got a token by it, finished ones among them (`finish_reason`), and
        those that are computed ahead as far as asked for (`ahead`)."""
        if not self._whole:
            raise RuntimeError("the last update of weights failed half-way: update them again")
        if not self.scheduler.running:
            self.weight_version += self._watch.changed()
            if self._root() != self.scheduler.root:
                self._begin_anew()
        self._store.reserve()
        chunks = self.scheduler.plan()
        for one in [one for one in self._rows.sequences if one not in self.scheduler.running]:  # preempted
            self._rows.leave(one)
        self._store.copy(self.scheduler.copies)
        self.scheduler.copies.clear()
        if not chunks:
            return self.scheduler.take_ready()
        decoded, others = len(self._rows.sequences), set(self._rows.sequences)
        planned = [chunk for chunk in chunks if chunk.sequence not in others]
        fresh = [chunk for chunk in planned if not chunk.sequence.computed]
        continued = [chunk for chunk in planned if chunk.sequence.computed]
        if not planned and self._recorded():
            sampled = list(self._rows.sequences)
            with self.precision():
                logits = self._decoding.logits()
            for one in sampled:
                self.scheduler.computed(Chunk(one, 1))
            self._sample(sampled, logits)
            return sampled + self.scheduler.take_ready()
        kernel = attention.chosen(self.model.text)
        with self.precision():
            memory = StepMemory(self._store, self._rows, bool(decoded), fresh, continued, kernel)
            ordered = [*(Chunk(one, 1) for one in self._rows.sequences), *fresh, *continued]
            packed, vision = self._inputs.pack(ordered, decoded)
            with self.adapters.used((chunk.sequence.prompt.adapter, chunk.count) for chunk in ordered):
                hidden = self.model.hidden_states(packed, vision, memory)
            ends = packed.cu_seqlens[1:] - 1
            whole = [place for place, chunk in enumerate(ordered) if chunk.whole]
            logits = self._head.logits(hidden[ends[whole]]) if whole else None
            responses.score_prompts(self.model, ordered, packed, hidden)
        sampled = [ordered[place].sequence for place in whole]
        for chunk in ordered:
            self.scheduler.computed(chunk)
        if logits is not None:
            self._sample(sampled, logits)
        return sampled + self.scheduler.take_ready()

    def generate(
        self, requests: Sequence[Request], progress: Progress | None = None, prompts: Sequence[Prompt] | None = None
    ) -> list[list[Completion]]:
        """The completions of each request, in order. `progress(done, total)` counts completions. `prompts`: the
        requests as an engine of the same processor and without adapters has read them (`prompt`), where that has been
        done."""
        if any(request.ahead for request in requests):
            raise ValueError("a request computed ahead has no completion; use add")
        numbers: dict[int, int] = {}
        results: list[dict[int, Completion]] = [{} for _ in requests]
        total, done = sum(request.n for request in requests), 0
        try:
            for place in responses.order(requests):
                try:
                    prompt = prompts[place] if prompts else self.prompt(requests[place])
                    numbers[self.begin(prompt)] = place
                except UserError as error:
                    raise UserError(f"request {place}: {error}") from None
            with self.precision():  # one context for all steps: autocast then casts each weight once, not every time
                self._lasting = True
                while done < total:
                    for one in self.step():
                        if one.finish_reason is not None and one.number in numbers:
                            results[numbers[one.number]][one.index] = self.completion(one)
                            done += 1
                            if progress is not None:
                                progress(done, total)
        finally:
            self._lasting = False
            if self._decoding.casts:
                self._decoding.clear()
            if done < total:
                for number in numbers:
                    self.abort(number)
        return [[result[index] for index in sorted(result)] for result in results]

    def stream(self, request: Request) -> Iterator[str]:
        """The text of one completion (`request.n` must be 1) piece by piece; joined, it equals `generate`'s text.

        A piece never splits a character, and text that may turn out to begin a stop string is held back.
        """
        if request.n != 1 or request.ahead:
            raise ValueError(f"stream gives one completion, not n={request.n} or what is computed ahead")
        text = TextStream(self.processor.decode, request.stop)
        number = self.add(request)
        try:
            while True:
                for one in self.step():
                    if one.number != number:
                        continue
                    piece = text.push(one.sampled, last=one.finish_reason is not None)
                    if piece:
                        yield piece
                    if one.finish_reason is not None:
                        return
        finally:
            self.abort(number)

    def completion(self, one: sequence.Sequence) -> Completion:
        """What a finished sequence answers."""
        return responses.completion(one, self.processor, self.weight_version)

    def _recorded(self) -> bool:
        """Whether a step that only decodes can be played back: see `decoding.py`."""
        if not self._decoding.on or (self._decoding.casts and not self._lasting):
            return False
        return all(one.prompt.adapter is None for one in self._rows.sequences)

    def _sample(self, sequences: Sequence[sequence.Sequence], logits: Tensor) -> None:
        drawn = sample(logits, [one.sampling for one in sequences])
        entering: list[sequence.Sequence] = []
        known = set(self._rows.sequences)
        found = zip(sequences, drawn.tokens.tolist(), drawn.log_probs.tolist(), drawn.top, strict=True)
        for one, token, log_prob, top in found:
            responses.take(one, token, log_prob, top)
            one.finish_reason = responses.finish_reason(one, self.processor, self.model.config.text.vocab_size)
            if one.finish_reason is not None:
                self._rows.leave(one)
                self.scheduler.remove(one)
            elif one not in known:
                entering.append(one)
        self._rows.enter(entering)

    def _begin_anew(self) -> None:
        """Weights or the processor's options are others: what is held is of no use."""
        torch.clear_autocast_cache()  # else what autocast has cast serves until the caller's context ends
        for one in list(self._rows.sequences):
            self._rows.leave(one)
        self._head.clear()
        self._decoding.clear()
        self.scheduler.forget(self._root())

    def _root(self) -> Key:
        return root_key(self.weight_version, self.processor.images, self.processor.videos)

    def precision(self) -> AbstractContextManager[object]:
        """What the engine computes in."""
        return torch.autocast(self.model.device.type, self.autocast) if self.autocast else nullcontext()
