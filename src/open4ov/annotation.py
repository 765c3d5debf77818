"""What an annotation's question-answer pairs give as answers, as text: people also write numbers, true and false."""

from __future__ import annotations

import json
import math

_TRUTH = {True: {"en": "yes", "zh": "是"}, False: {"en": "no", "zh": "否"}}


def texts(value: object, language: str) -> list[str]:
    """A value as a text, then what else says the same; an empty text where it is none (nothing, a list, an object).

    A text stays as it is, a number is written as JSON has it; true and false become the words that answer a question.
    """
    if isinstance(value, bool):
        words = _TRUTH[value]
        return [words.get(language, words["en"]), *(word for name, word in words.items() if name != language),
                json.dumps(value)]  # fmt: skip
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return [json.dumps(value)]
    return [value if isinstance(value, str) else ""]
