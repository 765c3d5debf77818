"""failures.html: what the model still gets wrong after the short training, grouped by label, what it lost first.

One file that loads nothing from elsewhere and runs no script; its policy is in the page itself, since it is opened from
a disk. The same questions for both models; all texts are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from open4ov import templates
from open4ov.admission.assess import Asked
from open4ov.admission.failing import Group
from open4ov.feedback import Wish
from open4ov.sample import Sample
from open4ov.store import ImageError, atomic

SHOWN = 12
"""Most questions of a group that are shown"""
SIDE = 224
"""Longer side of a picture on the page, pixels"""


@dataclass(frozen=True)
class Card:
    """One question as the page shows it. `pictures` are data URIs."""

    pictures: list[str]
    earlier: str
    question: str
    language: str
    reference: str
    before: str
    after: str
    was_right: bool
    id: str


@dataclass(frozen=True)
class Section:
    """One group: what it is, its figures, and its failures, of which `hidden` are not shown."""

    title: str
    probe: str
    asked: int
    before: float
    after: float
    lost: int
    wrong: int
    wish: Wish | None
    harm: str
    cards: list[Card]
    hidden: int


def write(
    path: Path,
    verdict: Mapping[str, Any],
    found: Sequence[Group],
    wishes: Sequence[Wish],
    questions: Mapping[str, Sample],
    image: Callable[[str], Image.Image],
) -> None:
    """Writes the page, whole or not at all. `verdict`: the contents of verdict.json; `image`: by its digest."""
    sections = [_section(group, wishes, questions, image) for group in found if group.wrong]
    environment = templates.environment("open4ov.admission")
    html = environment.get_template("failures.html.jinja").render(
        verdict=verdict, sections=sections, right=[group for group in found if not group.wrong], policy="@policy@"
    )
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    with atomic(path) as temporary:
        temporary.write_text(html.replace("@policy@", policy, 1), encoding="utf-8")


def _section(
    group: Group, wishes: Sequence[Wish], questions: Mapping[str, Sample], image: Callable[[str], Image.Image]
) -> Section:
    order = sorted(group.wrong, key=lambda one: not one.right[0])
    return Section(
        title=group.title,
        probe=group.probe,
        asked=len(group.asked),
        before=group.before,
        after=group.after,
        lost=len(group.lost),
        wrong=len(group.wrong),
        wish=next((wish for wish in wishes if group.probe == "vertical" and wish.place == group.place), None),
        harm=group.harm,
        cards=[_card(one, questions[one.id], image) for one in order[:SHOWN]],
        hidden=max(0, len(order) - SHOWN),
    )


def _card(one: Asked, sample: Sample, image: Callable[[str], Image.Image]) -> Card:
    *earlier, question = sample.messages[:-1]
    return Card(
        pictures=[_picture(sha, image) for sha in sample.images],
        earlier="\n".join(f"{message.role}: {message.text}" for message in earlier),
        question=question.text,
        language=sample.language,
        reference=sample.answer or "",
        before=one.before,
        after=one.after,
        was_right=one.right[0],
        id=sample.id,
    )


def _picture(sha: str, image: Callable[[str], Image.Image]) -> str:
    """A picture as a data URI, no larger than the page shows it; empty where it is not there any more."""
    try:
        small = image(sha).convert("RGB")
    except ImageError:
        return ""
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return templates.png_uri(buffer.getvalue())
