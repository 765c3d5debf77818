"""Figures, captions, text and their order on pages whose contents are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pypdfium2", reason="needs the extra: pip install 'open4ov[documents]'")

from documents.compose import Sheet, photo, save
from documents.pages_known import LEFT, RIGHT, Known, article, paper

from open4ov.documents.blocks import Block, Box
from open4ov.documents.candidates import Found, find
from open4ov.documents.exam import printed
from open4ov.documents.extract import Settings, extract, pages
from open4ov.store import ImageStore


def read(pdf: Path, **settings: object) -> tuple[Found, Path, ImageStore]:
    folder, store = pdf.parent / "read" / pdf.stem, ImageStore(pdf.parent / "images")
    extract(pdf, folder, store, Settings.model_validate(settings), lambda done, total: None)
    return find(folder), folder, store


def same_place(block: Block, box: tuple[float, float, float, float]) -> bool:
    """Intersection over union of at least 0.8."""
    a, b = block.place, Box(*box)
    shared = a.common(b)
    return shared.width > 0 and shared.height > 0 and shared.area / (a.area + b.area - shared.area) >= 0.8


def score(found: Found, known: list[Known]) -> tuple[float, float, float]:
    """Precision and recall of figures, and the share of known figures that have their caption."""
    matched = [
        (figure, caption)
        for page, box, caption in known
        for figure in found.figures
        if figure.block.page == page and same_place(figure.block, box)
    ]
    captions = sum(figure.block.caption == caption for figure, caption in matched)
    return len(matched) / len(found.figures), len(matched) / len(known), captions / len(known)


Article = tuple[list[Known], Found, Path, ImageStore]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Article:
    folder = tmp_path_factory.mktemp("article")
    return article(folder / "a.pdf"), *read(folder / "a.pdf")


def test_figures_and_captions_of_a_composed_article(composed: Article) -> None:
    known, found, _, _ = composed
    assert score(found, known) == (1.0, 1.0, 1.0)
    assert found.pages == 4
    by_label = {figure.block.label: figure for figure in found.figures}
    assert by_label["figure 1"].text[0].startswith("As Figure 1 shows")
    assert by_label["figure 1"].referred
    assert "如图7所示" in by_label["图 7"].text[0]


def test_the_score_can_fail(composed: Article) -> None:
    known, found, _, _ = composed
    moved = [(page, (a + 90, b, c + 90, d), caption) for page, (a, b, c, d), caption in known]
    assert score(found, moved)[1] == 0.0
    assert score(found, [(page, box, "another") for page, box, _ in known])[2] == 0.0


def test_columns_are_read_one_after_the_other(composed: Article) -> None:
    _, _, folder, _ = composed
    blocks = list(pages(folder))[1].blocks
    texts = [block.text for block in blocks if block.kind in ("heading", "text")]
    assert texts[0] == "Two columns and a wide title across both of them"
    kinds = ["left" if LEFT[0] in text else "right" if RIGHT[0] in text else "title" for text in texts]
    assert kinds == ["title", "left", "left", "right", "right"]
    assert texts[1] == " ".join(LEFT * 3)


def test_the_pictures_are_what_is_on_the_page(composed: Article) -> None:
    _, found, _, store = composed
    figure = found.figures[0]
    assert figure.block.image
    shown = store.get(figure.block.image).resize((120, 90))
    difference = np.abs(np.asarray(shown, dtype=int) - np.asarray(photo(1), dtype=int)).mean()
    other = np.abs(np.asarray(shown, dtype=int) - np.asarray(photo(2), dtype=int)).mean()
    assert difference < 12 < other
    assert figure.page_image
    assert store.get(figure.page_image).size == (1224, 1584)


@pytest.mark.parametrize("rotate", [90, 180, 270])
def test_a_turned_page_is_read_as_it_is_displayed(tmp_path: Path, rotate: int) -> None:
    sheet = Sheet(rotate=rotate)
    sheet.image((100, 100, 300, 250), photo(1))
    save(tmp_path / "t.pdf", [sheet])
    found, _, store = read(tmp_path / "t.pdf")
    w, h = sheet.size
    where = {
        90: (h - 250, 100, h - 100, 300),
        180: (w - 300, h - 250, w - 100, h - 100),
        270: (100, w - 300, 250, w - 100),
    }
    assert same_place(found.figures[0].block, where[rotate])
    assert found.figures[0].block.image
    shown = store.get(found.figures[0].block.image)
    turned = photo(1).rotate(-rotate, expand=True).resize(shown.size)
    assert np.abs(np.asarray(shown, dtype=int) - np.asarray(turned, dtype=int)).mean() < 12


def test_a_caption_after_the_page_break_is_its_figures(tmp_path: Path) -> None:
    one, two = Sheet(), Sheet()
    one.paragraph(72, 60, LEFT)
    one.image((100, 400, 500, 700), photo(3))
    two.text(72, 60, "Figure 2.1. The tank from above")
    two.paragraph(72, 100, RIGHT)
    save(tmp_path / "b.pdf", [one, two])
    found, _, _ = read(tmp_path / "b.pdf")
    assert [(figure.block.label, figure.block.caption) for figure in found.figures] == [
        ("figure 2.1", "Figure 2.1. The tank from above")
    ]


def test_logos_and_running_titles_are_furniture(tmp_path: Path) -> None:
    sheets = []
    for number in range(4):
        sheet = Sheet()
        sheet.image((480, 60, 560, 120), photo(7))
        sheet.text(72, 20, f"The river, chapter {number + 1}")
        sheet.paragraph(72, 200, LEFT)
        sheet.text(300, 770, str(number + 1))
        sheets.append(sheet)
    sheets[2].image((100, 300, 300, 450), photo(8))
    save(tmp_path / "l.pdf", sheets)
    found, _, _ = read(tmp_path / "l.pdf")
    assert found.decorations == 4
    assert [same_place(figure.block, (100, 300, 300, 450)) for figure in found.figures] == [True]
    assert not any("The river, chapter" in text for text in found.figures[0].text)


def test_questions_of_an_exam_with_their_pictures_and_answers(tmp_path: Path) -> None:
    known = paper(tmp_path / "p.pdf")
    found, _, _ = read(tmp_path / "p.pdf")
    assert [(question.language, question.number) for question in found.questions] == [
        ("en", 1), ("en", 2), ("en", 3), ("en", 4), ("zh", 5),
    ]  # fmt: skip
    for question in found.questions:
        wanted = known.get((question.language, question.number))
        if wanted is None:
            assert not question.figures
            assert question.options == {"A": "Paris", "B": "Rome", "C": "Oslo", "D": "Bern"}
            continue
        assert [same_place(figure, wanted["box"]) for figure in question.figures] == [True]
        assert question.answer == (wanted["letter"] or wanted["answer"])
    assert found.questions[0].options == {"A": "1.5 A", "B": "2.5 A", "C": "3.5 A", "D": "4.5 A"}
    assert len(found.questions[3].options) == 2


def block(text: str, kind: str = "text") -> Block:
    return Block.model_validate({"kind": kind, "page": 1, "box": (0, 0, 10, 10), "text": text})


def test_lists_and_numbered_headings_are_no_questions() -> None:
    texts = ["1. Introduction", "2. The first part is done by hand.", "3.1 Setup", "4) Pour the water into the tank."]
    assert list(printed([block(text) for text in texts])) == []


@pytest.mark.parametrize(
    ("key", "answers"),
    [
        ("参考答案 1-3 BCA", ["B", "C", "A"]),
        ("Answers: 1. B; 2. 4.5 cm; 3. x = 2", ["B", "4.5 cm", "x = 2"]),
        ("Answer key 1) B 2) C 3) A", ["B", "C", "A"]),
    ],
)
def test_keys(key: str, answers: list[str]) -> None:
    stems = [block(f"{number}. What is shown in figure {number}?") for number in (1, 2, 3)]
    assert [question.answer for question in printed([*stems, block(key)])] == answers


def test_an_answer_and_its_solution_behind_the_question() -> None:
    found = list(printed([block("第3题 如图，求阴影部分的面积。"), block("【答案】12 【解析】由图可知……")]))
    assert [(one.number, one.answer, one.text) for one in found] == [(3, "12", "如图，求阴影部分的面积。")]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Figure 3.1. Coexistence of systems", "figure 3.1"),
        ("Fig. 2a: Level", "figure 2a"),
        ("FIGURE 7 The tank", "figure 7"),
        ("图 3-2 电路", "图 3-2"),
        ("图3 电路图", "图 3"),
        ("Table 2: Readings", "table 2"),
        ("Figure 3 shows that the level rises.", None),
        ("Fig. 4 and Fig. 5 are alike", None),
        ("图3所示的电路", None),
        ("figures are given below", None),
        ("The tank", None),
    ],
)
def test_what_is_a_caption(text: str, label: str | None) -> None:
    from open4ov.documents.captions import caption_label

    assert caption_label(text) == label
