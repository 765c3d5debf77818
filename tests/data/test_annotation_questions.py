"""Questions of the recipe put to a folder's annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov.data import labels
from open4ov.data.annotation_questions import asked, check_tasks
from open4ov.data.images import folder
from open4ov.errors import UserError
from open4ov.recipe import DataSection, load
from open4ov.recipe_images import QuestionSection
from open4ov.recipe_labels import LabelsSection
from open4ov.sample import Sample
from open4ov.store import ImageStore

NAMING = {"task": "naming", "ask": {"en": ["What is it?", "Name it."], "zh": ["这是什么？"]},
          "answer": {"en": "name", "zh": "name_zh"}, "aliases": {"en": "also"}}  # fmt: skip
MEANING = {"task": "meaning", "ask": {"en": ["Explain it."]}, "answer": "meaning", "response": "{name}: {meaning}",
           "rule": "sentence"}  # fmt: skip
HEART = {"name": "heart", "name_zh": "心脏", "also": ["human heart", " "], "meaning": "It pumps the blood."}


def pictures(path: Path, *annotations: dict[str, Any] | None) -> list[Sample]:
    """A picture an annotation, each of its own colour."""
    path.mkdir(exist_ok=True)
    for number, one in enumerate(annotations):
        Image.new("RGB", (40, 40), (10 + 20 * number, 200, 90)).save(path / f"p{number}.png")
        if one is not None:
            (path / f"p{number}.json").write_text(json.dumps(one, ensure_ascii=False), "utf-8")
    return list(folder(path, 10_000, ImageStore(path.parent / "store"), []))


def sections(*questions: dict[str, Any]) -> list[QuestionSection]:
    return [QuestionSection.model_validate(one) for one in questions]


def test_answers_and_responses_are_the_annotations_own(tmp_path: Path) -> None:
    (image,) = asked(pictures(tmp_path / "p", HEART), sections(NAMING, MEANING), [])
    assert image.scene is not None
    naming, chinese, meaning = image.scene["qa"]
    assert naming["question"] in NAMING["ask"]["en"]
    assert (naming["answer"], naming["aliases"], naming["response"]) == ("heart", ["human heart"], "heart")
    assert (chinese["language"], chinese["answer"], chinese["aliases"]) == ("zh", "心脏", [])
    assert (meaning["answer"], meaning["response"]) == ("It pumps the blood.", "heart: It pumps the blood.")
    assert (naming["rule"], meaning["rule"]) == ("exact", "sentence")
    assert image.scene["name"] == "heart"


def test_questions_of_the_annotation_come_first_and_pictures_without_one_stay(tmp_path: Path) -> None:
    own = {"question": "Is it red?", "answer": True}
    first, second = asked(pictures(tmp_path / "p", {**HEART, "qa": [own]}, None), sections(NAMING), [])
    assert first.scene is not None
    assert first.scene["qa"][0]["question"] == "Is it red?"
    assert second.scene is None


def test_wordings_are_drawn_by_content_whatever_the_file_is_called(tmp_path: Path) -> None:
    questions = sections({**NAMING, "ask": {"en": [f"wording {n}" for n in range(50)]}})
    before = pictures(tmp_path / "p", HEART, {**HEART, "name": "lungs"})
    for file in (tmp_path / "p").iterdir():
        file.rename(file.with_name(f"z{file.stem[::-1]}{file.suffix}"))
    after = list(folder(tmp_path / "p", 10_000, ImageStore(tmp_path / "store"), []))

    def wordings(images: list[Sample]) -> dict[str, str]:
        return {i.images[0]: i.scene["qa"][0]["question"] for i in asked(images, questions, []) if i.scene}

    assert wordings(before) == wordings(after)
    assert len(set(wordings(before).values())) == 2


def test_a_picture_that_lacks_a_key_is_not_asked_and_is_listed(tmp_path: Path) -> None:
    skipped: list[dict[str, str]] = []
    lacking = {"name": "lungs", "name_zh": "肺"}
    _, second = asked(pictures(tmp_path / "p", HEART, lacking), sections(NAMING, MEANING), skipped)
    assert second.scene is not None
    assert [entry["task"] for entry in second.scene["qa"]] == ["naming", "naming"]
    assert skipped == [{"file": "p1.png", "reason": "its annotation has no 'meaning', so that 'meaning' is not asked"}]


def test_a_key_that_no_annotation_has_is_an_error_with_the_nearest_one(tmp_path: Path) -> None:
    images = pictures(tmp_path / "p", HEART, HEART | {"name": "lungs"})
    wrong = sections({**MEANING, "answer": "meanings", "response": None})
    with pytest.raises(UserError) as told:
        asked(images, wrong, [])
    assert "questions.0 ('meaning'): none of the 2 annotations has the key 'meanings'" in str(told.value)
    assert "did you mean 'meaning'" in str(told.value)
    assert "name (2)" in str(told.value)
    with pytest.raises(UserError, match="none of the 1 pictures has an annotation"):
        asked(pictures(tmp_path / "q", None), sections(NAMING), [])


def test_a_qa_that_is_no_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the `qa` of p0\.png is no list"):
        asked(pictures(tmp_path / "p", {**HEART, "qa": "x"}), sections(NAMING), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{task: a, ask: {en: [x]}, answer: {zh: n}}]", r"questions\.0\.answer: names no key for 'en'"),
        ("[{task: a, ask: {en: []}, answer: n}]", r"ask\.en: needs at least one wording"),
        ("[{task: a, ask: {en: [x]}, answer: n, response: '{}'}]", "a pair of braces holds a key"),
        ("[{task: a, ask: {en: [x]}, answer: n, response: '{n'}]", "expected '}'"),
        ("[{task: a, ask: {en: [x], zh: [y]}, answer: n, response: {en: '{n}'}}]", r"response: has no 'zh'"),
        ("[{task: a, ask: {en: [x]}, answer: n}, {task: a, ask: {en: [x]}, answer: n}]", "of images.questions.0"),
        ("[{task: a, ask: {de: [x]}, answer: n}]", "questions.0.ask.de"),
        ("[{task: a, aske: {en: [x]}, answer: n}]", "unknown key 'aske'; did you mean 'ask'"),
        ("[{task: a, ask: {en: [x]}, answer: n, rule: fuzzy}]", "questions.0.rule"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_asked_are_refused(tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: a\nimages:\n  vertical: photos\n  questions: {text}\n", "utf-8")
    with pytest.raises(UserError, match=message):
        load(recipe)


def test_a_task_that_no_ability_knows_is_told_where_the_catalog_ranks() -> None:
    tree = labels.load()
    check_tasks(sections(NAMING, MEANING), DataSection(), tree)
    wrong = sections(NAMING, {**MEANING, "task": "meanin"})
    with pytest.raises(UserError, match=r"questions\.1\.task: no ability label has the tag 'task:meanin'.*'meaning'"):
        check_tasks(wrong, DataSection(), tree)
    model = DataSection.model_validate({"providers": {"default": {"kind": "openai", "model": "m"}}})
    check_tasks(wrong, model, tree)
    added = {"id": "reading", "l2": [{"id": "reading.mean", "name": "Meanin", "tags": ["task:meanin"]}]}
    check_tasks(wrong, DataSection(), labels.load(LabelsSection.model_validate({"ability": [added]})))


def test_a_corpus_is_not_asked_by_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: a\nimages: {title: cars, questions: [{task: a, ask: {en: [x]}, answer: n}]}\n")
    with pytest.raises(UserError, match=r"images\.questions: has no effect.*\n.*images\.title: has no effect"):
        load(recipe)
