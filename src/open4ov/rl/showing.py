"""Some groups of a training for people to look at: `rollouts.json`, which the report shows with their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from open4ov.rl.rollout import Group
from open4ov.rl.schedule import Phase
from open4ov.store import ImageStore

GROUPS = 4
"""Groups of a step that are shown"""


def shown(groups: Sequence[Group], step: int, phase: Phase, images: ImageStore) -> dict[str, Any]:
    """A step's first groups, live ones before dead ones: prompt, pictures (put into `images`), reference, and each
    response with its verdict, advantage and length."""
    chosen = sorted(groups, key=lambda group: group.dead)[:GROUPS]
    return {"step": step, "phase": phase, "groups": [_group(group, images) for group in chosen]}


def _group(group: Group, images: ImageStore) -> dict[str, Any]:
    task, sample = group.task, group.task.sample
    diversity = [None] * len(group.responses) if group.diversity is None else group.diversity.tolist()
    rows = zip(group.responses, group.correct.tolist(), group.advantages.tolist(), diversity, strict=True)
    return {
        "sample": sample.id,
        "task": sample.task,
        "pictures": [name or images.put(picture) for name, picture in zip(_names(group), task.images, strict=True)],
        "prompt": "\n\n".join(message.text for message in task.prompt),
        "reference": sample.answer,
        "dead": group.dead,
        "responses": [
            {
                "text": response.text,
                "correct": correct,
                "advantage": round(advantage, 4),
                "diversity": None if diverse is None else round(diverse, 4),
                "tokens": len(response.token_ids),
                "finish": response.finish_reason,
            }
            for response, correct, advantage, diverse in rows
        ],
    }


def _names(group: Group) -> list[str]:
    named = group.task.sample.images
    return named if len(named) == len(group.task.images) else [""] * len(group.task.images)
