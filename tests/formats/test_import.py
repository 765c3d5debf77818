"""Files as they are found in the world: what is understood, what is guessed, what is refused and where it is told."""

from __future__ import annotations

import base64
import gc
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open4ov.errors import UserError
from open4ov.formats import lines
from open4ov.formats.convert import export_set, import_set
from open4ov.sample import Message, Sample
from open4ov.store import ImageStore, Seen, read_samples


def png(colour: int = 1) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def shape(message: Message) -> list[str | int | None]:
    return [part.text if part.type == "text" else part.index for part in message.content]


@pytest.fixture
def taken(tmp_path: Path) -> Callable[..., list[Sample]]:
    """Writes rows into a file beside a.png and b.png, and imports it."""
    for place, name in enumerate(("a.png", "b.png")):
        (tmp_path / name).write_bytes(png(place * 99))

    def take(rows: list[Any], name: str = "rows.jsonl", **options: Any) -> list[Sample]:
        text = "\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows, indent=2)
        (tmp_path / name).write_text(text)
        import_set(tmp_path / name, tmp_path / "in", **options)
        return read_samples(tmp_path / "in" / "samples.parquet")

    return take


def refusals(tmp_path: Path) -> list[tuple[str, str]]:
    entries = map(json.loads, (tmp_path / "in" / "skipped.jsonl").read_text("utf-8").splitlines())
    return [(entry["place"], entry["reason"]) for entry in entries]


def says(*said: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)]
    return {"conversations": turns, **fields}


# ---------------------------------------------------------------------------------------------- forms


def test_places_of_images_in_conversations(taken: Callable[..., list[Sample]]) -> None:
    found = taken(
        [
            says("<image>\nWhat?", "A cat.", image="a.png"),
            says("What?\n<image>", "A cat.", image="a.png"),
            says("<image><image>Compare <image> and", "x", image=["a.png", "b.png", "a.png"]),
            says("No token", "x", image="a.png"),
            says("<image>\nWhat does `<image>` mean?", "A place.", image="a.png"),
            says("first", "x", "<image>\nsecond", "y", images=["b.png"]),
            says("text only", ""),
            says("<image>\nWhat?", "x", image="a.png", system="你是"),
        ],
        "rows.json",
    )
    assert [shape(sample.messages[0]) for sample in found] == [
        [0, "What?"], ["What?", 0], [0, 1, "Compare ", 2, " and"], [0, "No token"], [0, "What does `<image>` mean?"],
        ["first"], ["text only"], ["你是"],
    ]  # fmt: skip
    assert shape(found[5].messages[2]) == [0, "second"]
    assert [message.text for message in found[6].messages] == ["text only", ""]
    assert [message.role for message in found[7].messages] == ["system", "user", "assistant"]


def test_rows_that_cannot_be_used_are_told_with_line_and_reason(
    taken: Callable[..., list[Sample]], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(png()[:40])
    (tmp_path / "text.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    (tmp_path.parent / "outside.png").write_bytes(png())
    (tmp_path / "link.png").symlink_to(tmp_path.parent / "outside.png")
    bad = [
        (says("<image> and <image>", "x", image="a.png"), "2 `<image>` in its texts"),
        (says("<image>", "x", image="missing.png"), "missing.png: no such file"),
        (says("<image>", "x", image="broken.png"), "its header is damaged"),
        (says("<image>", "x", image="text.png"), "not PNG, JPEG"),
        (
            says("<image>", "x", image="../outside.png"),
            "lies outside of the folders given; name its folder with --images",
        ),
        (says("<image>", "x", image="link.png"), "lies outside"),
        (says("<image>", "x", image="https://x.org/a.png"), "images are not fetched"),
        (says("<image>", "x", image="data:image/png;base64,@@"), "no base64"),
        (says("<image>", "x", image={"id": 3}), "not by a path or data URL"),
        (says("<video>", "x", videos=["a.mp4"]), "its videos cannot be read"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "from 'tool'; known: human"),
        ({"conversations": [{"from": "human"}]}, "conversations[0] has no `from` and `value`"),
        ({"conversations": "x"}, "it has no list `conversations`"),
        ([1], "a JSON array, not an object"),
        (says("\ud800", "x"), "half of a character"),
        (says("x", "y", far=1e999), "Infinity is no JSON number"),
        (says("x", "y", open4ov="{"), "its field 'open4ov' is no JSON object"),
    ]
    found = taken([says("good", "x"), *(row for row, _ in bad)], "rows.jsonl", format="llava")
    assert len(found) == 1
    told = refusals(tmp_path)
    assert [place for place, _ in told] == [f"line {number}" for number in range(2, len(bad) + 2)]
    for (_, reason), (_, expected) in zip(told, bad, strict=True):
        assert expected in reason
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: 2 `<image>`"):
        import_set(tmp_path / "rows.jsonl", tmp_path / "strict", "llava", strict=True)
    done = import_set(tmp_path / "rows.jsonl", tmp_path / "more", "llava", images=[tmp_path.parent])
    assert done.refused == len(bad) - 2, "what lies below --images may be named"


def test_messages_in_their_several_dialects(taken: Callable[..., list[Sample]], tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(png(7)).decode()
    one = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    found = taken(
        [
            {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": None}]},
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, "b"]}]},
            {
                "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}],
                "images": ["b.png", "a.png"],
            },
            {"messages": [{"role": "user", "content": "<image>\n<image>\n哪个？"}], "images": ["a.png", "b.png"]},
            {"messages": [{"role": "tool", "content": "x"}]},
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        ]
    )
    assert [shape(message) for sample in found for message in sample.messages] == [
        [0, "What?"], [], [0, "b"], [0, 1], [0, 1, "哪个？"],
    ]  # fmt: skip
    assert found[2].images == list(reversed(found[3].images))
    assert [place for place, _ in refusals(tmp_path)] == ["line 5", "line 6"]
    assert "'tool' has no place" in refusals(tmp_path)[0][1]
    assert "'input_audio' has no place" in refusals(tmp_path)[1][1]


def test_an_array_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_CHUNK", 7)
    rows = [{"n": n, "text": "好" * n, "inner": [{"a": "]},{"}]} for n in range(30)]
    for indent in (None, 0, 4):
        (tmp_path / "x.json").write_text("\ufeff \n" + json.dumps(rows, indent=indent, ensure_ascii=False), "utf-8")
        assert [row for _, row in lines.read(tmp_path / "x.json")] == rows
    text = json.dumps(rows[:3], indent=1)
    places = [place for place, _ in lines.read(tmp_path / "x.json")]
    assert places[0] == "row 1 (line 3)"
    (tmp_path / "x.json").write_text(text[:-9])
    *good, (_, last) = lines.read(tmp_path / "x.json")
    assert [row for _, row in good] == rows[:2]
    assert isinstance(last, lines.Bad)
    assert "cannot be read" in last.reason or "lost" in last.reason


def test_a_table_by_its_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "picture": pa.array([{"bytes": png(9), "path": "cat.png"}, {"bytes": b"junk", "path": None}]),
            "frage": ["Was?", "Was?"],
            "antwort": ["Katze", "Hund"],
            "when": pa.array([1, 2], pa.timestamp("s")),
            "license": ["MIT", "MIT"],
        }
    )
    pq.write_table(table, tmp_path / "validation-0.parquet")
    columns = {"picture": "image", "frage": "question", "antwort": "answer"}
    done = import_set(tmp_path / "validation-0.parquet", tmp_path / "in", columns=columns)
    (sample,) = read_samples(tmp_path / "in" / "samples.parquet")
    assert (shape(sample.messages[0]), sample.messages[1].text, sample.answer) == ([0, "Was?"], "Katze", "Katze")
    assert sample.extra == {
        "fields": {"when": "1970-01-01 00:00:01", "license": "MIT"}, "image_files": ["cat.png"],
    }  # fmt: skip
    assert sample.split == "val"
    assert refusals(tmp_path)[0][0] == "row 2"
    assert done.refused == 1
    with pytest.raises(UserError, match=r"--map x=qestion: no such field"):
        import_set(tmp_path / "validation-0.parquet", tmp_path / "no", columns={"x": "qestion"})
    done = import_set(tmp_path / "validation-0.parquet", tmp_path / "no")
    assert done.samples == 0
    assert "name its columns" in next(iter(done.left_out))


def test_our_own_folder_is_read_with_its_images(taken: Callable[..., list[Sample]], tmp_path: Path) -> None:
    found = taken([says("<image>", "x", image="a.png"), says("<image>", "y", image="b.png")])
    gone = ImageStore(tmp_path / "in" / "image-store").path(found[1].images[0])
    gone.unlink()
    done = import_set(tmp_path / "in", tmp_path / "copy")
    assert (done.format, done.samples, done.refused) == ("parquet", 1, 1)
    assert read_samples(tmp_path / "copy" / "samples.parquet") == found[:1]


def test_the_format_is_guessed_from_names_and_first_rows(taken: Callable[..., list[Sample]], tmp_path: Path) -> None:
    taken([says("x", "y", image="")])
    for format, written in (
        ("parquet", "parquet"), ("messages", "messages"), ("llava", "llava"), ("sharegpt", "llava"),
        ("webdataset", "webdataset"), ("vlmevalkit", "vlmevalkit"),
    ):  # fmt: skip
        export_set(tmp_path / "in", tmp_path / format, format)
        assert import_set(tmp_path / format, tmp_path / f"{format}-in").format == written
    (tmp_path / "odd.bin").write_bytes(b"x")
    (tmp_path / "odd.json").write_text('[{"x": 1}]')
    with pytest.raises(UserError, match="name it with --format"):
        import_set(tmp_path / "odd.bin", tmp_path / "no")
    with pytest.raises(UserError, match="neither `messages` nor `conversations`"):
        import_set(tmp_path / "odd.json", tmp_path / "no")
    with pytest.raises(UserError, match=r"--format lava: no such format; did you mean 'llava'"):
        import_set(tmp_path / "odd.json", tmp_path / "no", "lava")


def test_equal_rows_stay_as_many_as_they_are(taken: Callable[..., list[Sample]]) -> None:
    found = taken([says("x", "y", id="same")] * 3)
    assert len({sample.id for sample in found}) == 3


def test_an_import_goes_to_a_place_of_its_own(taken: Callable[..., list[Sample]], tmp_path: Path) -> None:
    taken([says("x", "y")])
    with pytest.raises(UserError, match="holds an import already"):
        taken([says("x", "y")])
    (tmp_path / "in" / "import.json").unlink()
    assert len(taken([says("x", "y"), says("z", "y")])) == 2, "an unfinished one is done again"
    with pytest.raises(UserError, match="holds other things"):
        import_set(tmp_path / "rows.jsonl", tmp_path)
    with pytest.raises(UserError, match="is there already"):
        export_set(tmp_path / "in", tmp_path / "in", "llava")
    assert not list(tmp_path.rglob(".part-*"))


def test_the_same_source_gives_the_same_bytes(taken: Callable[..., list[Sample]], tmp_path: Path) -> None:
    taken([says("<image>\nx", "y", image="a.png"), says("z", "y")])
    import_set(tmp_path / "rows.jsonl", tmp_path / "two")
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "in", tmp_path / "two")
    )
    assert first == second
    for format in ("parquet", "webdataset", "llava"):
        outs = [tmp_path / f"{format}{n}" for n in range(2)]
        for out in outs:
            export_set(tmp_path / "in", out, format)
        a, b = ({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} for out in outs)
        assert a == b


def test_names_that_came_before_are_known_beyond_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open4ov.store._RECENT", 8)
    seen = Seen()
    assert all(seen.add(str(n)) for n in range(100))
    assert not any(seen.add(str(n)) for n in range(100))


def most_blocks(root: Path, rows: int, format: str) -> int:
    """Objects alive at most, seen ten times a pass, while so many rows go in, out and in again.

    What only waits for the collector is not alive: how much of it waits depends on how large the process already is.
    """
    root.mkdir()
    (root / "a.png").write_bytes(png())
    with (root / "rows.jsonl").open("w") as file:
        for n in range(rows):
            file.write(json.dumps(says(f"<image>\nquestion {n}", "answer", image="a.png", n=n)) + "\n")
    gc.collect()
    gc.freeze()  # what other tests have left need not be looked through each time
    most, seen, before = 0, 0, sys.getallocatedblocks()

    def look(_: int) -> None:
        nonlocal most, seen
        seen += 1
        if seen % (rows // 10) == 0:
            gc.collect()
            most = max(most, sys.getallocatedblocks() - before)

    try:
        import_set(root / "rows.jsonl", root / "in", "llava", progress=look)
        export_set(root / "in", root / "out", format, progress=look)
        import_set(root / "out", root / "back", format, progress=look)
    finally:
        gc.unfreeze()
    return most


@pytest.mark.slow
@pytest.mark.parametrize("format", ["messages", "parquet", "webdataset"])
def test_memory_does_not_grow_with_the_set(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 32, so that a small set has many: five times the rows, the same objects alive."""
    monkeypatch.setattr("open4ov.store._ROWS", 32)
    monkeypatch.setattr("open4ov.store._BATCH", 32)
    monkeypatch.setattr("open4ov.formats.parquet._GROUP_ROWS", 32)
    most_blocks(tmp_path / "first", 40, format)  # what is loaded once
    small, large = (most_blocks(tmp_path / str(rows), rows, format) for rows in (50, 250))
    assert large < small * 1.3 + 2000


@pytest.mark.slow
@pytest.mark.parametrize("format", ["messages", "llava", "parquet", "webdataset", "vlmevalkit"])
def test_memory_is_flat_from_two_to_twenty_thousand(tmp_path: Path, format: str) -> None:
    small, large = (most_blocks(tmp_path / str(rows), rows, format) for rows in (2_500, 20_000))
    assert large < small * 1.3 + 2000


def test_datasets_reads_the_parquet_export_as_images(taken: Callable[..., list[Sample]], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    samples = taken([says("<image>\n<image>\nx", "y", images=["a.png", "b.png"]), says("z", "y")])
    export_set(tmp_path / "in", tmp_path / "out", "parquet")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert [len(row["images"]) for row in loaded] == [2, 0]
    image = loaded[0]["images"][1]
    assert isinstance(image, Image.Image)
    assert image.getpixel((0, 0)) == (99, 0, 0)
    assert loaded[0]["messages"][0]["content"][2]["text"] == "x"
    assert [row["id"] for row in loaded] == [sample.id for sample in samples]


def test_the_card_says_what_is_in_it(taken: Callable[..., list[Sample]], tmp_path: Path) -> None:
    rows = [says("x", "y", license="MIT"), says("什么？", "是", license="MIT"), {"conversations": 1}]
    taken(rows, "rows.jsonl", format="llava")
    export_set(tmp_path / "in", tmp_path / "out", "sharegpt", name="open set")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    front = re.match(r"---\n(.*?)---\n", text, re.DOTALL)
    assert front is not None
    assert "language:\n- en\n- zh" in front.group(1)
    assert "license: mit" in front.group(1)
    assert "path: train.json" in front.group(1)
    for part in ("# open set", "| MIT | 2 |", "| import | llava |  | 2 |", "not voted on by judges", "no list"):
        assert part in text
