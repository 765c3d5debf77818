"""The `embedding` judge: do the picture's nearest neighbours tell what the sample says?

The picture's neighbours come from retrieval.py. The question is read as the task whose wordings lie nearest to it,
the answer is compared, in the text embedding, with what the neighbours' texts answer there, against what all other
symbols' texts do. The topic is compared with a few words for each task. It abstains where two neighbours are about
equally near, or where the picture resembles no reference.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open4ov.mllm.embedding import embed_texts
from open4ov.mllm.known import known
from open4ov.mllm.library import Library
from open4ov.mllm.retrieval import Neighbours

Floats = NDArray[np.float32]
NEAR = 0.78  # cosine below which a picture resembles no reference
LEAD = 0.02  # by which the first neighbour must be nearer than the second
SURE = 0.5  # cosine below which a question resembles no known one
SLACK = 0.02  # by which the neighbour's answer may be farther than another symbol's

TASK_WORDS = {
    "in_car_name": ("recognition: symbol naming",),
    "in_car_meaning": ("knowledge: meaning",),
    "in_car_severity": ("knowledge: severity and urgency", "recognition: category, sorting by kind"),
    "in_car_action": ("knowledge: what to do about",),
    "in_car_advice": ("knowledge: meaning", "knowledge: what to do about"),
}
"""How topics speak of each task of the library; the likest phrase counts."""


class EmbeddingJudge:
    """Judges by likeness: of the picture to the library's, of question and answer to what is known of those."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def vote(self, neighbours: Neighbours | None, values: dict[str, Any]) -> tuple[int | None, str]:
        """`values`: topic, question, answer, language."""
        if neighbours is None or neighbours.found[0][1] < NEAR:
            return None, "the picture resembles no reference"
        if neighbours.lead < LEAD:
            return None, "two references are about equally near"
        language = values["language"]
        tasks, wordings = self._questions[language]
        near = wordings @ embed_texts([values["question"]])[0]
        if float(near.max()) < SURE:
            return None, "the question resembles no known one"
        task = tasks[int(near.argmax())]
        symbols, rows = self._answers[language, task]
        likeness = rows @ embed_texts([values["answer"]])[0]
        mine = symbols == neighbours.found[0][0]
        if not mine.any():
            return 0, "the nearest reference does not answer such a question"
        if float(likeness[mine].max()) < float(likeness.max()) - SLACK:
            return 0, "the answer is nearer to another symbol's than to the nearest reference's"
        topic = embed_texts([values["topic"]])[0]
        meant = {name: float((words @ topic).max()) for name, words in self._topics.items()}
        if meant[task] < max(meant.values()) - SLACK:
            return 0, "the topic is nearer to another kind of question"
        return 1, "the nearest reference tells the same"

    @cached_property
    def _topics(self) -> dict[str, Floats]:
        return {task: embed_texts(words) for task, words in TASK_WORDS.items()}

    @cached_property
    def _questions(self) -> dict[str, tuple[list[str], Floats]]:
        """Language → the known wordings: their tasks, and embeddings [W, D]."""
        found: dict[str, tuple[list[str], Floats]] = {}
        for language in ("en", "zh"):
            wordings = {
                question: pairs[0].task
                for scene in self._library.scenes.values()
                for question, pairs in known(scene, language).items()
            }
            found[language] = list(wordings.values()), embed_texts(list(wordings))
        return found

    @cached_property
    def _answers(self) -> dict[tuple[str, str], tuple[NDArray[np.str_], Floats]]:
        """(language, task) → whose answers they are, and their embeddings [A, D]."""
        texts: dict[tuple[str, str], dict[tuple[str, str], None]] = defaultdict(dict)
        for symbol, scene in self._library.scenes.items():
            for language in ("en", "zh"):
                for pairs in known(scene, language).values():
                    for qa in pairs:
                        for answer in (qa.answer, *qa.aliases):
                            texts[language, qa.task][symbol, answer] = None
        return {
            key: (np.array([symbol for symbol, _ in rows]), embed_texts([answer for _, answer in rows]))
            for key, rows in texts.items()
        }
