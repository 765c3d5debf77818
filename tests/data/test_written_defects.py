"""Known defects of samples that a model wrote, where no question is asked twice in the same words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from open4ov.data import defects, report
from open4ov.data.defect_index import Index, record
from open4ov.data.topics import Topic
from open4ov.sample import Sample, assistant, user

TOPICS = [
    Topic("Counting animals", ("Nature", "Animals"), ("Counting", "Object counting")),
    Topic("Counting signs", ("Automotive", "Road signs"), ("Counting", "Object counting")),
    Topic("Naming animals", ("Nature", "Animals"), ("Recognition", "Category")),
]


def written(number: int, language: str = "en") -> Sample:
    """Image `number` of one of two domains; each question has a number of its own in it."""
    topic, answer = TOPICS[number % 2], f"{number} 个" if language == "zh" else f"there are {number}"
    return Sample(
        id=f"{language}{number}", source="t", task="counting", images=[f"sha{number}"], answer=answer,
        language=language, topics=[topic.path], labels=topic.labels(), extra={"type": "counting"},  # type: ignore[arg-type]
        messages=[user(f"How many of kind {number}, {language}?", images=1), assistant(f"{answer}.")],
    )  # fmt: skip


def test_all_four_kinds_come_at_equal_rates_and_are_what_they_say() -> None:
    clean = [written(number, language) for number in range(40) for language in ("en", "zh")]
    made = defects.inject(clean, TOPICS, 0.5, 3)
    assert Counter(one.extra["defect"] for one in made) == dict.fromkeys(defects.KINDS, 10)
    by_question = {one.messages[0].text: one for one in clean}
    for one in made:
        base = by_question[one.messages[0].text]
        match one.extra["defect"]:
            case "wrong_answer":
                assert one.images == base.images
                assert one.answer != base.answer
                assert one.messages[-1].text == f"{one.answer}."
                assert ("个" in str(one.answer)) == (base.language == "zh")
            case "wrong_image":
                assert one.answer == base.answer
                assert int(one.images[0][3:]) % 2 != int(base.images[0][3:]) % 2  # of the other domain
            case "wrong_language":
                assert ("个" in str(one.answer)) == (base.language == "en")
                assert one.answer == written(int(base.images[0][3:]), "zh" if base.language == "en" else "en").answer
            case _:
                assert one.topics == [TOPICS[2].path]


def test_a_kind_that_cannot_be_made_is_noted_and_the_others_share(tmp_path: Path) -> None:
    clean = [written(number) for number in range(40)]
    made = defects.inject(clean, TOPICS, 0.6, 3)
    counts = Counter(one.extra["defect"] for one in made)
    assert counts == {"wrong_answer": 8, "wrong_image": 8, "wrong_topic": 8}
    told = {
        "counts": {}, "unanswered": {"questions": 0}, "density": {},
        "defects": {kind: {"samples": counts[kind]} for kind in defects.KINDS},
    }  # fmt: skip
    assert report.warnings(told) == [
        "of 24 known defects only 0 wrong_language could be made; of that recall says little"
    ]
    told["defects"] = {kind: {"samples": 0} for kind in defects.KINDS}
    assert report.warnings(told) == []


@pytest.mark.parametrize("most", [3, 1024])
def test_they_are_the_same_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("open4ov.data.defects.MOST_ALIKE", most)
    monkeypatch.setattr("open4ov.data.defect_index.MOST_ALIKE", most)
    clean = [written(number, language) for number in range(20) for language in ("en", "zh")]
    index = Index(tmp_path / "i.sqlite", [record(defects.trait(0, sample)) for sample in clean])
    right = defects.inject(clean, TOPICS, 0.7, 5)
    assert list(index.inject(TOPICS, 0.7, 5, (one.model_dump_json() for one in clean))) == right
    index.close()
