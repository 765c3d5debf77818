"""Brevity pairs (paper §4.1.2: overly long replies, redundant information): a concise worked answer over a redundant
one with the same result."""

from __future__ import annotations

from open4ov.answers import boxed
from open4ov.sample import Sample

WORDY = {
    "en": ("Let me look at the {} carefully.", "Let me check this again.", "So the final answer is \\boxed{{{}}}"),
    "zh": ("让我仔细看看{}。", "让我再检查一遍。", "所以最终答案是 \\boxed{{{}}}"),
}
SUBJECT = {"en": ("question", "picture"), "zh": ("题目", "图片")}


def concise(sample: Sample) -> str | None:
    """The sample's worked response if it is short and to the point, else None."""
    response = sample.messages[-1].text
    if boxed(response) is None or any(said in response for said in ("final answer", "Let me", "最终答案", "让我")):
        return None
    return response


def redundant(sample: Sample) -> str:
    """The same working with an announcement, said twice, and a restated conclusion."""
    working = sample.messages[-1].text.rpartition("\\boxed")[0].strip()
    look, check, conclusion = WORDY[sample.language]
    subject = SUBJECT[sample.language][bool(sample.images)]
    said = [look.format(subject), working, check, working, conclusion.format(sample.answer)]
    return ("" if sample.language == "zh" else " ").join(part for part in said if part)
