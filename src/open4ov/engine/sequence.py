"""One completion under way: its tokens, the blocks that hold their keys and values, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from open4ov.engine.adapters import Adapter
from open4ov.engine.blocks import Key, block_key, root_key
from open4ov.engine.request import Request
from open4ov.engine.sampler import Sampling
from open4ov.model import Encoded, VisionFeatures


@dataclass(frozen=True)
class Prompt:
    """A request's conversation as tokens, the same for its n completions."""

    request: Request
    document: Encoded
    """Without pixels"""
    token_ids: list[int]
    """All, or the first `request.ahead`"""
    digests: list[str]
    """What identifies each picture and video, in order"""
    places: Tensor
    """Long [M]: where the tokens of pictures stand"""
    seen: dict[int, str]
    """For each token of a picture, which picture's and which of its tokens"""
    adapter: Adapter | None = None
    """What it is computed with beside the model"""

    @staticmethod
    def of(
        request: Request,
        document: Encoded,
        digests: list[str],
        places: Tensor,
        merge: int,
        adapter: Adapter | None = None,
    ) -> Prompt:
        """`merge`: side of the patches that make a token."""
        tokens: list[int] = (document.grids.prod(1) // merge**2).tolist()
        names = [f"{digest}:{i}" for digest, count in zip(digests, tokens, strict=True) for i in range(count)]
        seen = dict(zip(places.tolist(), names, strict=True))
        ids: list[int] = document.input_ids.tolist()
        if request.ahead:
            ids, places = ids[: request.ahead], places[places < request.ahead]
        return Prompt(request, document, ids, digests, places, seen, adapter)


@dataclass(eq=False)
class Sequence:
    """Completion `index` of request number `number`."""

    number: int
    index: int
    prompt: Prompt
    sampling: Sampling
    tokens: list[int]
    """The prompt's and those sampled"""
    log_probs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_log_probs: list[float] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    """Tokens whose keys and values are in the blocks"""
    found: int | None = None
    """Tokens that were computed already when it first began"""
    features: VisionFeatures | None = None
    """Of the prompt's pictures, while they are needed"""
    finish_reason: str | None = None
    awaited: bool = False
    """Whether equal prompts wait for this one's to be computed"""
    keys: list[Key] = field(default_factory=list)
    """Names of the full blocks so far, from the root"""

    @staticmethod
    def begin(number: int, index: int, prompt: Prompt) -> Sequence:
        """A completion of which nothing is there but the prompt."""
        asked, tokens = prompt.request, list(prompt.token_ids)
        sampling = Sampling(
            asked.temperature,
            asked.top_k,
            asked.top_p,
            asked.seed,
            index,
            min_p=asked.min_p,
            repetition=asked.repetition_penalty,
            presence=asked.presence_penalty,
            frequency=asked.frequency_penalty,
            top=asked.top_log_probs,
            tokens=tokens,
            prompt=len(tokens),
            grammar=asked.grammar.begin() if asked.grammar else None,
        )
        return Sequence(number, index, prompt, sampling, tokens)

    @property
    def request(self) -> Request:
        return self.prompt.request

    @property
    def ahead(self) -> bool:
        """Whether it is computed and held only, for a request that is still to come."""
        return self.request.ahead > 0

    @property
    def sampled(self) -> list[int]:
        return self.tokens[len(self.prompt.token_ids) :]

    @property
    def remaining(self) -> int:
        """Tokens still to be computed before the next can be sampled."""
        return len(self.tokens) - self.computed

    def slot(self, token: int, size: int) -> int:
        """Where a token's keys and values lie."""
        return self.blocks[token // size] * size + token % size

    def position(self, token: int) -> int:
        """M-RoPE position of a sampled token."""
        return token - len(self.prompt.token_ids) + self.prompt.document.next_position

    def positions(self, start: int, count: int) -> Tensor:
        """M-RoPE positions [3, count] of the tokens from `start` on."""
        document, known = self.prompt.document, len(self.prompt.token_ids)
        end = start + count
        own = document.positions[:, start : min(end, known)]
        after = torch.arange(max(start, known), max(end, known)) - known + document.next_position
        return torch.cat([own, after.expand(3, -1)], dim=1)

    def name_blocks(self, root: Key, size: int) -> None:
        """Brings `keys` up to the blocks that `tokens` fill."""
        while (len(self.keys) + 1) * size <= len(self.tokens):
            start = len(self.keys) * size
            self.keys.append(self.key_of(root, start, start + size, size))

    def key_of(self, root: Key, start: int, end: int, size: int) -> Key:
        """The name of the tokens from `start`, where a block begins, to `end`."""
        salt, adapter = self.request.salt, self.prompt.adapter.digest if self.prompt.adapter else ""
        own = root_key(root, salt, adapter) if salt or adapter else root
        parent = self.keys[start // size - 1] if start else own
        seen = " ".join(self.prompt.seen[t] for t in range(start, end) if t in self.prompt.seen)
        return block_key(parent, self.tokens[start:end], seen)


@dataclass(frozen=True)
class Chunk:
    """The next `count` tokens of a sequence, to be computed in one step."""

    sequence: Sequence
    count: int

    @property
    def whole(self) -> bool:
        """Whether a token is sampled after it."""
        return self.count == self.sequence.remaining and not self.sequence.ahead
