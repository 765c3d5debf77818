"""Evaluation files as items: options, answers, pictures, rotations; and what is told of rows that are wrong."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from eval_files import b64, jsonl, mcq, picture, tsv

from open4ov.errors import UserError
from open4ov.evaluate.benchmarks import Type, registry
from open4ov.evaluate.file_suite import FileSuite
from open4ov.evaluate.item import Fault, Item


def suite(path: Path, kind: Type | str = "mcq", **options: Any) -> FileSuite:
    known = registry()
    entry = known.benchmarks.get(kind) or known.of_type("own", kind, path.suffix == ".jsonl")  # type: ignore[arg-type]
    return FileSuite("own", entry, path, known.prompt(entry.prompt), **options)


def split(found: FileSuite) -> tuple[list[Item], list[Fault]]:
    everything = list(found.items())
    return [each for each in everything if isinstance(each, Item)], [e for e in everything if isinstance(e, Fault)]


def test_rows_become_items(tmp_path: Path) -> None:
    found = suite(tsv(tmp_path / "x.tsv", mcq(4, hint="look")))
    items, faults = split(found)
    assert not faults
    assert found.count == 4
    assert [each.answers for each in items] == [("A",), ("B",), ("A",), ("B",)]
    assert items[0].prompt == (
        "<image>Hint: look\nQuestion: Which is right, number 0?\nOptions:\nA. this one\nB. that one\n"
        "Please select the correct answer from the options above. \n"
    )
    assert items[0].cluster == items[1].cluster != items[2].cluster  # two about each picture
    assert items[0].images[0].image.size == (32, 32)
    assert items[3].place.endswith("line 5")
    assert items[3].category == "kind 1"
    assert len({each.key("m") for each in items}) == 4
    assert items[0].key("m") != items[0].key("n")


def test_asked_twice_the_same_items_come(tmp_path: Path) -> None:
    found = suite(tsv(tmp_path / "x.tsv", mcq(3)))
    assert [e.key("m") for e in split(found)[0]] == [e.key("m") for e in split(found)[0]]


def test_pictures_by_reference_list_data_url_and_path(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "one.png").write_bytes(picture("blue"))
    rows = [
        {"index": "1", "image": "3", "question": "q", "answer": "a"},
        {"index": "2", "image": json.dumps([b64("red"), "data:image/png;base64," + b64("green")]), "question": "q",
         "answer": "a"},
        {"index": "3", "image": b64("white"), "question": "q", "answer": "a"},
        {"index": "4", "image_path": "['p/one.png', 'p/one.png']", "question": "q", "answer": "a"},
        {"index": "5", "question": "no picture", "answer": "a"},
    ]  # fmt: skip
    items, faults = split(suite(tsv(tmp_path / "x.tsv", rows), "vqa"))
    assert not faults
    assert [len(each.images) for each in items] == [1, 2, 1, 2, 0]
    assert items[0].images[0].image.getpixel((0, 0)) == (255, 255, 255)
    assert items[3].images[0].image.getpixel((0, 0)) == (0, 0, 255)
    assert items[1].images[0].sha != items[1].images[1].sha


def test_rotations_move_the_options_and_the_answer(tmp_path: Path) -> None:
    rows = [{"index": "7", "question": "q", "A": "w", "B": "x", "C": "y", "answer": "C"}]
    items, _ = split(suite(tsv(tmp_path / "x.tsv", rows), rotate=True))
    assert [list(each.options.values()) for each in items] == [["w", "x", "y"], ["x", "y", "w"], ["y", "w", "x"]]
    assert [each.options[each.answers[0]] for each in items] == ["y", "y", "y"]
    assert {each.group for each in items} == {"7"}
    assert len({each.id for each in items}) == 3


def test_text_sets_from_json_lines(tmp_path: Path) -> None:
    rows = [
        {"question": "1+1?", "choices": ["1", "2"], "answer": 1, "subject": "sums"},
        {"question": "2+2?", "choices": ["4", "5"], "answer": "A", "subject": "sums"},
        {"question": "3+3?", "choices": ["4", "6"], "answer": "6", "subject": "sums"},
        {"question": "4+4?", "choices": ["4", "6"], "answer": 7, "subject": "sums"},
        {"question": "5+5?", "answer": 7, "subject": "sums"},
    ]
    items, faults = split(suite(jsonl(tmp_path / "MMLU.jsonl", rows), "MMLU"))
    assert [each.answers for each in items] == [("B",), ("A",), ("B",)]
    assert items[0].category == "sums"
    assert "A) 1" in items[0].prompt
    assert [fault.place.rpartition(", ")[2] for fault in faults] == ["line 4", "line 5"]
    assert "none of its 2 options" in faults[0].reason
    assert "'choices'" in faults[1].reason


def test_shuffled_options_keep_their_answer(tmp_path: Path) -> None:
    rows = [
        {"Question": f"q{n}", "Correct Answer": "yes", "Incorrect Answer 1": "a", "Incorrect Answer 2": "b",
         "Incorrect Answer 3": "c"}
        for n in range(12)
    ]  # fmt: skip
    items, faults = split(suite(jsonl(tmp_path / "gpqa.jsonl", rows), "GPQA"))
    assert not faults
    assert all(each.options[each.answers[0]] == "yes" for each in items)
    assert len({each.answers for each in items}) > 1


def test_pictures_stand_where_the_text_says(tmp_path: Path) -> None:
    rows = [
        {"index": "1", "image": json.dumps([b64("red"), b64("blue")]), "split": "validation",
         "question": "Is <image 2> like <image 1>?", "A": "yes", "B": "no", "answer": "A"},
        {"index": "2", "image": b64(), "split": "dev", "question": "x", "A": "yes", "B": "no", "answer": "A"},
    ]  # fmt: skip
    items, faults = split(suite(tsv(tmp_path / "MMMU.tsv", rows), "MMMU"))
    assert not faults
    assert len(items) == 1
    shown = [(part.type, part.index) for part in items[0].messages[0].content]
    assert shown == [("text", None), ("image", 1), ("text", None), ("image", 0), ("text", None)]
    rows[0]["question"] = "First <image> then <image>, and <image>?"
    items, _ = split(suite(tsv(tmp_path / "MUIR.tsv", rows[:1]), "MUIRBench"))
    assert [part.index for part in items[0].messages[0].content if part.type == "image"] == [0, 1]
    assert "and <image>?" in items[0].messages[0].text  # a mark without a picture stays


def test_videos_are_folders_of_frames(tmp_path: Path) -> None:
    frames = tmp_path / "frames" / "v1"
    frames.mkdir(parents=True)
    for number in range(10):
        (frames / f"{number:02}.png").write_bytes(picture(("red", "blue")[number % 2]))
    rows = [
        {"index": str(n), "video": name, "question": "q", "candidates": "['run', 'walk']", "answer": "walk",
         "task_type": "t"}
        for n, name in enumerate(["v1.mp4", "v2.mp4", "../frames/v1"])
    ]  # fmt: skip
    items, faults = split(suite(tsv(tmp_path / "MVBench.tsv", rows), "MVBench", frames=4))
    assert items[0].messages[0].content[0].times == [0, 3, 6, 9]
    assert len(items[0].images) == 4
    assert items[0].answers == ("B",)
    assert "frames/v2/" in faults[0].reason
    assert faults[0].place.endswith("line 3")


def test_rotations_in_the_file_are_one_question(tmp_path: Path) -> None:
    rows = [*mcq(2), *[{**row, "index": str(1_000_000 + n)} for n, row in enumerate(mcq(2))]]
    items, _ = split(suite(tsv(tmp_path / "MMBench.tsv", rows), "MMBench_EN"))
    assert [each.group for each in items] == ["0", "1", "0", "1"]


FAULTS = {
    "its image: no base64": {"image": "!" * 100},
    "no such file": {"image": "", "image_path": "gone.png"},
    "lies outside": {"image": "", "image_path": "../gone.png"},
    "its image, '99', is neither base64 nor the index of a row": {"image": "99"},
    "its image, 'not!!base64', is neither base64": {"image": "not!!base64"},
    "has no answer": {"answer": ""},
    "none of its options": {"answer": "C"},
    "one between is empty": {"B": "", "C": "x", "answer": "C"},
    "1 options": {"B": ""},
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_bad_row_is_told_with_file_and_line(tmp_path: Path, reason: str) -> None:
    rows = mcq(3)
    rows[1] |= FAULTS[reason]
    path = tsv(tmp_path / "x.tsv", rows)
    items, faults = split(suite(path, "AI2D"))
    assert len(items) == 2
    assert [fault.place for fault in faults] == [f"{path}, line 3"]
    assert reason in faults[0].reason


def test_an_index_twice_is_told_with_both_lines(tmp_path: Path) -> None:
    items, faults = split(suite(tsv(tmp_path / "x.tsv", [*mcq(2), mcq(1)[0]])))
    assert len(items) == 2
    assert faults[0].place.endswith("line 4")
    assert "index 0 stands at line 2" in faults[0].reason


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    rows = mcq(3)
    rows[0]["question"] = "over\nthree\nlines"
    rows[2]["answer"] = "Z"
    _, faults = split(suite(tsv(tmp_path / "x.tsv", rows)))
    assert faults[0].place.endswith("line 6")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"index\tquestion\n1\tq\n", "no column 'answer'"),
        (b"question\tanswer\nq\ta\n", "no column 'index'"),
        (b"index\tquestion\tanswer\tanswer\n1\tq\ta\tb\n", "stands there twice"),
        (b"index\tquestion\tanswer\n", "has no rows"),
        (b"", "no column"),
        (b"index\tquestion\tanswer\n1\tq\t\n", "not public"),
        (b"index\tquestion\tanswer\n1\t\xff\xfe\ta\n", "no UTF-8"),
    ],
)
def test_a_file_that_cannot_be_asked_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        suite(path, "vqa")
    assert str(path) in str(told.value)


def test_broken_lines_do_not_take_the_others_with_them(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n{broken\n[1]\n{"question": "r", "answer": "b"}\n')
    items, faults = split(suite(path, "vqa"))
    assert len(items) == 2
    assert [fault.place[-6:] for fault in faults] == ["line 2", "line 3"]
    path = tmp_path / "y.tsv"
    path.write_text("index\tquestion\tanswer\n1\tq\ta\n2\tq\n3\tq\ta\n")
    items, faults = split(suite(path, "vqa"))
    assert len(items) == 2
    assert "2 cells under 3 columns" in faults[0].reason


def test_a_huge_picture_is_told_when_it_is_looked_at(tmp_path: Path) -> None:
    head = picture("red")
    chunk = head[12:16] + (100_000).to_bytes(4, "big") * 2 + head[24:29]
    forged = head[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + head[33:]
    rows = [{"index": "1", "image": base64.b64encode(forged).decode(), "question": "q", "answer": "a"}]
    (item,), _ = split(suite(tsv(tmp_path / "x.tsv", rows), "vqa"))
    with pytest.raises(UserError, match="limit"):
        item.images[0].image  # noqa: B018


def test_yes_no_answers_are_checked(tmp_path: Path) -> None:
    rows = [{"index": str(n), "question": "q", "answer": answer} for n, answer in enumerate(("Yes", "no", "perhaps"))]
    items, faults = split(suite(tsv(tmp_path / "x.tsv", rows), "yes_no"))
    assert len(items) == 2
    assert "neither yes nor no" in faults[0].reason
