"""What is asked of the engine and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from open4ov.engine.degeneration import Degeneration
from open4ov.engine.grammar import Grammar
from open4ov.sample import Message

COLDEST = 1e-5
"""Below that temperature only the likeliest token is left, and logits divided by it are no numbers any more"""
LEAST_REPETITION = 0.01
"""Logits that are divided by less are none, either"""


@dataclass(frozen=True)
class Request:
    """What to generate: `n` completions of one conversation that ends with the user's turn.

    `images` are those the messages' image parts index. `temperature` 0 (or below
    COLDEST) is greedy; `top_k` 0 and `top_p` 1 do not cut.
    `max_tokens` counts the closing token. Completion i of a request samples from its own stream (seed, i). `min_p`
    leaves out what is less than that share as likely as the likeliest. The penalties are those of the OpenAI API
    (presence, frequency: of sampled tokens) and of transformers (repetition: of the prompt's too). With `top_log_probs`
    so many alternatives of each token are given, with `prompt_log_probs` the prompt's own log-probabilities. With
    `ignore_eos` the closing token is one like any other, which measurements want. With
    `grammar` (`grammar.Grammars` makes them) only what it allows is sampled; with `degeneration` a response that has
    become a loop or noise is stopped. What is computed for a `salt` (blocks, features of pictures) is found again only
    by requests of the same salt. `adapter` names one of the engine's LoRA adapters. With `ahead` nothing is sampled:
    the first so many tokens of the prompt are computed and held until it is given up. `first` is the number of the
    first completion: who has completions 0 to 3 already asks for the next four with `first=4`.
    """

    messages: list[Message]
    images: list[Image.Image] = field(default_factory=list)
    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    n: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_log_probs: int = 0
    prompt_log_probs: bool = False
    ignore_eos: bool = False
    grammar: Grammar | None = None
    degeneration: Degeneration | None = None
    salt: str = ""
    adapter: str = ""
    ahead: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.n < 1:
            raise ValueError(f"max_tokens and n must be at least 1, got {self.max_tokens} and {self.n}")
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "temperature and top_k must not be negative and top_p must lie in (0, 1], "
                f"got {self.temperature}, {self.top_k} and {self.top_p}"
            )
        if self.temperature < COLDEST:
            object.__setattr__(self, "temperature", 0.0)
        if not 0 <= self.min_p <= 1 or self.repetition_penalty < LEAST_REPETITION or self.top_log_probs < 0:
            raise ValueError(
                f"min_p must lie in [0, 1], repetition_penalty be at least {LEAST_REPETITION} and top_log_probs not "
                "negative, got "
                f"{self.min_p}, {self.repetition_penalty} and {self.top_log_probs}"
            )
        if self.ahead < 0 or (self.ahead and (self.n > 1 or self.prompt_log_probs)):
            raise ValueError("ahead must not be negative, and goes neither with n above 1 nor with prompt_log_probs")
        if self.first < 0:
            raise ValueError(f"first must not be negative, got {self.first}")
        if "" in self.stop:
            raise ValueError("an empty stop string would stop every completion at once")


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    `token_ids` are all sampled tokens, the closing one included when the model ended by itself; `log_probs` has one
    entry for each: log p(token) under the model's own distribution at the request's temperature (1 when greedy), not
    cut by top-k or top-p. `text` has no special tokens and ends before the stop string. `finish_reason` is "stop"
    (closing token or stop string), "length", "repetition" or "garbled" (see `degeneration.py`), or "error" when the
    grammar could not be followed any further.
    """

    text: str
    token_ids: list[int]
    log_probs: list[float]
    finish_reason: str
    weight_version: int
    top_log_probs: list[list[tuple[int, float]]] = field(default_factory=list)
    """For each token, when asked for: the likeliest tokens there, with their log p"""
    prompt_log_probs: list[float] = field(default_factory=list)
    """When asked for: log p of each token of the prompt after the first, placeholders of pictures included"""
