"""Questions without a picture that are answered, beside those that are refused: the sense of the words decides, and
nothing on their surface.

For each picture question that is refused for want of its picture there is one that needs none: in the same language,
with or without a box alike, and of like length (as `sft/preference/relevance.py` has it for stage 3).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from open4ov.answers import INSTRUCTION, plainly
from open4ov.sample import Sample, assistant, user

LENGTH_STEP = {"en": 10, "zh": 4}
"""Questions whose lengths (characters, without the instruction to box) fall into one step of so many are alike."""
BOXABLE = 32
"""Characters of the longest answer that is asked for in a box"""
Cell = tuple[str, bool, int]


def cell(sample: Sample) -> Cell:
    """What can be seen on a question's surface: language, box, and length in steps."""
    question = sample.messages[0].text
    bare = plainly(question)
    return sample.language, bare is not None, len(question if bare is None else bare) // LENGTH_STEP[sample.language]


class Texts:
    """Questions without a picture by their surface."""

    def __init__(self, samples: Sequence[Sample], seed: int | str) -> None:
        self._cells: dict[Cell, list[Sample]] = {}
        shuffled = list(samples)
        random.Random(f"texts {seed}").shuffle(shuffled)
        for sample in shuffled:
            self._cells.setdefault(cell(sample), []).append(sample)
        self._asked: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._cells)

    def like(self, sample: Sample) -> Sample | None:
        """A question not given out before whose surface is most like that of the sample's; None when none of its
        language is left."""
        language, box, length = cell(sample)
        cells = sorted(
            (one for one in self._cells if one[0] == language and self._cells[one]),
            key=lambda one: (one[1] != box, abs(one[2] - length)),
        )
        for one in cells:
            waiting = self._cells[one]
            while waiting:
                found = waiting.pop()
                if found.id not in self._asked:
                    self._asked.add(found.id)
                    return found
        return None


def variants(sample: Sample) -> list[Sample]:
    """The sample as it is, and the other way about a box: without the instruction and with the bare answer, or with
    it."""
    question, answer = sample.messages[0].text, sample.answer
    bare = plainly(question)
    if not answer:
        return [sample]
    if bare is not None:
        return [sample, _asked(sample, bare, answer)]
    if len(answer) > BOXABLE or set(answer) & set("\n{}\\") or answer[-1] in ".。!！?？":
        return [sample]
    space = "" if sample.language == "zh" else " "
    boxed = question + space + INSTRUCTION[sample.language]
    return [sample, _asked(sample, boxed, f"\\boxed{{{answer}}}")]


def _asked(sample: Sample, question: str, response: str) -> Sample:
    return sample.model_copy(update={"messages": [user(question), assistant(response)]})
