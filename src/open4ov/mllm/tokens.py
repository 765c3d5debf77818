"""How many tokens a question will have, before any endpoint has counted them.

Two rules for text, since the tokenizer is the endpoint's: `bound`, which no byte-level vocabulary exceeds, for what may
be spent at most; `guess`, near to what English and Chinese usually take, for an estimate. Images have one rule for
both, named in the recipe (`image_tokens`).
"""

from __future__ import annotations

import math

from open4ov.recipe_providers import ImageRule

MESSAGE = 16
"""Tokens a chat template may add to a message"""

RULES = {
    "patch32": "one token for 32 x 32 pixels (Qwen3-VL)",
    "patch28": "one token for 28 x 28 pixels (Qwen2-VL, Qwen2.5-VL)",
    "tiles": "85 and 170 for each tile of 512 pixels, after scaling (GPT-4o, high detail)",
}


def bound(text: str) -> int:
    """Not fewer than any byte-level tokenizer gives: the UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def guess(text: str) -> int:
    """About as many as usual: one for four ASCII characters, one for each other."""
    if text.isascii():
        return math.ceil(len(text) / 4)
    plain = sum(character < "\x80" for character in text)
    return math.ceil(plain / 4) + len(text) - plain


def of_image(rule: ImageRule | int, width: int, height: int) -> int:
    """Tokens of an image of so many pixels by the rule of a recipe."""
    if isinstance(rule, int):
        return rule
    if rule == "tiles":
        shrink = min(1.0, 2048 / max(width, height))
        shrink *= min(1.0, 768 / max(1.0, min(width, height) * shrink))
        wide, high = (math.ceil(round(side * shrink) / 512) for side in (width, height))
        return 85 + 170 * max(1, wide) * max(1, high)
    side = 32 if rule == "patch32" else 28
    return 2 + max(1, round(width / side + 0.5)) * max(1, round(height / side + 0.5))


def rule_in_words(rule: ImageRule | int) -> str:
    """The rule as a person reads it."""
    return f"{rule} an image (data.providers.*.image_tokens)" if isinstance(rule, int) else RULES[rule]
