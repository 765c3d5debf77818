"""Looking after the output: a response that has become a loop, or no text any more, is stopped and marked.

Looked at every `EVERY` tokens. The marks are finish reasons: "repetition" for a stretch of tokens that comes again and
again, "garbled" for replacement and other unprintable characters, for letters that change their script all the time,
and for tokens that the model itself holds for as unlikely as noise (what high penalties or temperatures lead to). What
a grammar dictates, where nothing else may stand, is not the model's doing and is left out: JSON of eighty equal items
that a schema asks for is no loop.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

EVERY = 16
UNPRINTABLE = ("Cc", "Cn", "Co", "Cs")
"""Unicode categories of control, unassigned, private and surrogate characters"""
REASONS = ("repetition", "garbled")


@dataclass(frozen=True)
class Degeneration:
    """From when on a response counts as degenerate.

    `period`: longest stretch looked for, tokens; it has to come `times` times and fill `repeated` tokens at the end.
    `window`: tokens looked at for garbling: at least `share` of their characters unprintable, or of neighbouring
    letters in different scripts, or, on average, tokens less likely than `surprise` times the logarithm of the
    vocabulary's size (1: as unlikely as tokens drawn from all alike).
    """

    period: int = 128
    times: int = 4
    repeated: int = 96
    window: int = 48
    share: float = 0.3
    surprise: float = 0.75

    def reason(
        self,
        tokens: Sequence[int],
        log_probs: Sequence[float],
        vocabulary: int,
        decode: Callable[[list[int]], str],
        dictated: Sequence[bool] = (),
    ) -> str | None:
        """What is wrong with a response so far, if anything. tokens: those sampled; log_probs: of each, or none at
        all, then the likelihood does not count; dictated: of each whether a grammar left no choice, or none at all."""
        runs = [list(tokens)] if not any(dictated) else _runs(tokens, dictated)
        own = [token for run in runs for token in run]
        if self.repeats(own):
            return "repetition"
        if len(own) < self.window:
            return None
        lately = sum(log_probs[-self.window :]) / self.window
        if -lately > self.surprise * math.log(vocabulary):
            return "garbled"
        left, texts = self.window, list[str]()
        for run in reversed(runs):
            texts.append(decode(run[-left:]))
            left -= len(run)
            if left <= 0:
                break
        if len(texts) > 1:  # where a run borders on what was dictated, a character may be cut
            texts = [text.strip("\ufffd") for text in texts]
        text = "".join(reversed(texts))
        return "garbled" if self.garbled(text) and (text or len(texts) == 1) else None

    def first(
        self,
        tokens: Sequence[int],
        log_probs: Sequence[float],
        vocabulary: int,
        decode: Callable[[list[int]], str],
    ) -> tuple[int, str] | None:
        """After how many tokens a whole response would have been stopped, and why: for engines that cannot be told to
        look themselves. The end of the response is not looked at: it has ended there anyhow."""
        for count in range(EVERY, len(tokens), EVERY):
            if reason := self.reason(tokens[:count], log_probs[:count], vocabulary, decode):
                return count, reason
        return None

    def repeats(self, tokens: Sequence[int]) -> bool:
        """Whether the end is one stretch of at most `period` tokens, over and over."""
        count = len(tokens)
        for period in range(1, min(self.period, count // self.times) + 1):
            same = max(self.repeated, self.times * period) - period
            if same + period <= count and tokens[count - same :] == tokens[count - same - period : count - period]:
                return True
        return False

    def garbled(self, text: str) -> bool:
        """Whether a text is noise by its characters."""
        text = text.strip("\ufffd")  # a cut through the middle of a character
        if not text:
            return True
        wrong = sum(
            one == "\ufffd" or (unicodedata.category(one) in UNPRINTABLE and one not in "\t\n\r") for one in text
        )
        scripts = [_script(one) for one in text if one.isalpha()]
        changes = sum(one != other for one, other in pairwise(scripts))
        return wrong >= self.share * len(text) or (
            len(scripts) > self.window // 2 and changes >= self.share * len(scripts)
        )


def _runs(tokens: Sequence[int], dictated: Sequence[bool]) -> list[list[int]]:
    """The stretches between what was dictated."""
    groups = groupby(zip(tokens, dictated, strict=True), key=lambda pair: pair[1])
    return [[token for token, _ in group] for forced, group in groups if not forced]


def _script(letter: str) -> str:
    """The script of a letter, by the first word of its Unicode name; those of Japanese count as one."""
    name = unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "HALFWIDTH", "FULLWIDTH") else name
