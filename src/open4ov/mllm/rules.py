"""Evidence from a scene: does a (topic, question, answer) hold by what is known of the scene?

The `rules` judge asks it of the annotation, the `pixels` judge of the scene that it read from the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from open4ov.corpora import QA
from open4ov.mllm.known import category, known, plain, right, task_tags

Verdict = tuple[int | None, str]


def judge(scene: dict[str, Any], values: dict[str, Any], source: str, *, abilities: bool) -> Verdict:
    """1 when the question is known, the answer right and the topic one of the question's; None for a question that the
    rules do not know. `values`: question, answer, language, tags of the topic's labels; `source` names the scene.
    Without `abilities` only the topic's domain is compared: pixels show what a thing is, not what a question is for.
    """
    pairs = known(scene, values["language"]).get(values["question"])
    if pairs is None:
        if any(values["question"] in known(scene, language) for language in ("en", "zh")):
            return 0, "the question is in another language"
        return None, f"no rule answers this question from {source}"
    fitting = [qa for qa in pairs if right(qa, values["answer"])]
    if not fitting:
        return 0, f"by {source} the answer is not right"
    belongs = fits if abilities else in_domain
    if not any(belongs(qa, scene, values["tags"]) for qa in fitting):
        return 0, f"by {source} the question is not one of this topic"
    return 1, f"holds by {source}"


def task(scene: dict[str, Any] | None, values: dict[str, Any]) -> Verdict:
    """Whether a task of RL is sound: 1 when its question is known and its answer right; None where the annotation does
    not know the question, or there is none. `values`: question, answer, language."""
    if not scene:
        return None, "there is no annotation"
    pairs = known(scene, values["language"]).get(values["question"])
    if pairs is None:
        return None, "no rule answers this question from the annotation"
    if not any(right(qa, values["answer"]) for qa in pairs):
        return 0, "by the annotation the answer is not right"
    return 1, "holds by the annotation"


def fits(qa: QA, scene: dict[str, Any], tags: dict[str, Sequence[str]]) -> bool:
    """Whether the question belongs to the topic, by both of its labels."""
    return in_ability(qa, scene, tags) and in_domain(qa, scene, tags)


def in_ability(qa: QA, scene: dict[str, Any], tags: dict[str, Sequence[str]]) -> bool:
    """Its task is among the ability label's tags."""
    return bool(set(tags["ability"]) & task_tags(qa, category(scene)))


def in_domain(qa: QA, scene: dict[str, Any], tags: dict[str, Sequence[str]]) -> bool:
    """The domain label's tags name something of the scene; a label without tags is open to every scene."""
    there = {f"kind:{scene.get('kind')}", f"category:{category(scene)}", f"task:{qa.task}"}
    there |= {f"object:{thing['name']}" for thing in scene.get("objects", []) if "name" in thing}
    return not tags["domain"] or bool(set(tags["domain"]) & there)


def verify(scene: dict[str, Any], values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The five dimensions of a response, from the annotation. A question it does not know fails authenticity: nothing
    in the annotation supports the response."""
    pairs = known(scene, values["language"]).get(values["question"], [])
    response, answer = values["response"], values["answer"]
    fitting = [qa for qa in pairs if right(qa, answer)]
    said = [text for text in (answer, *(a for qa in fitting for a in (qa.answer, *qa.aliases))) if plain(text)]
    others = [qa for asked in known(scene, values["language"]).values() for qa in asked]
    checks = {
        "accuracy": (bool(fitting), "the annotation gives another answer"),
        "completeness": (any(plain(text) in plain(response) for text in said), "the answer is not in the response"),
        "authenticity": (
            any(plain(response) == plain(text) for qa in others for text in (qa.response, qa.answer, *qa.aliases)),
            "the response is not what the annotation supports",
        ),
        "relevance": (any(fits(qa, scene, values["tags"]) for qa in fitting), "not about the topic"),
        "plausibility": (_steady(response), "the response repeats itself or breaks off"),
    }
    return {name: {"ok": ok, "reason": "holds by the annotation" if ok else why} for name, (ok, why) in checks.items()}


def _steady(response: str) -> bool:
    """No clause said twice, no bracket left open."""
    clauses = [plain(part) for part in response.replace("。", ".").replace(";", ".").split(".") if plain(part)]
    pairs = all(response.count(a) == response.count(b) for a, b in ("()", "{}", "[]", "（）", "“”"))
    return bool(clauses) and len(set(clauses)) == len(clauses) and pairs
