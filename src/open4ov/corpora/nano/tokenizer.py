"""The nano tokenizer: byte-level BPE with Qwen's splitting rule and Qwen3-VL's special tokens.

It is trained on general text only: the questions and answers of the general corpora, the documentation strings of
Python's standard library (plain English prose), and a list of common Chinese characters, each on its own. Nothing
is taken from a vertical's knowledge; everyday words that a vertical also uses ("door open") do stand in the prose.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from open4ov.model.processing import SPECIAL_TOKENS

# Qwen2's pre-tokenisation: contractions, words with their leading space, single digits, punctuation, line ends.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], characters: str, vocabulary: int = 6144) -> Tokenizer:
    """Train the byte-level BPE.

    texts: running text. characters: each gets a token of its own (Chinese). vocabulary: tokens in all, specials
    included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_characters(texts, characters), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def _with_characters(texts: Iterable[str], characters: str) -> Iterator[str]:
    yield from texts
    for character in characters:
        for _ in range(500):  # often enough that its bytes merge before any English pair
            yield character


def english_prose() -> Iterator[str]:
    """Documentation strings of the standard library's modules, in name order."""
    for name in sorted(sys.stdlib_module_names):
        if name.startswith("_") or name in {"antigravity", "this", "idlelib", "turtledemo", "lib2to3", "test"}:
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # built without an optional library
            continue
        yield from _docstrings(module, set())
        for info in sorted(pkgutil.iter_modules(getattr(module, "__path__", None) or []), key=str):
            if not info.name.startswith("_") and info.name not in {"__main__", "idle_test"}:
                try:
                    yield from _docstrings(importlib.import_module(f"{name}.{info.name}"), set())
                except ImportError:
                    continue


def _docstrings(thing: object, seen: set[int]) -> Iterator[str]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    doc = getattr(thing, "__doc__", None)
    if isinstance(doc, str):
        yield doc
    for _, member in sorted(vars(thing).items()) if hasattr(thing, "__dict__") else ():
        if getattr(member, "__module__", None) == getattr(thing, "__name__", "") and callable(member):
            yield from _docstrings(member, seen)
