"""What goes out comes back: samples through every format, and rows of every format through samples."""

from __future__ import annotations

import base64
import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from open4ov.formats.convert import export_set, import_set
from open4ov.sample import Label, Message, Part, Sample, Step, Vote, assistant, user, video
from open4ov.store import ImageStore, read_samples, write_samples

FORMATS = ("parquet", "messages", "llava", "sharegpt", "webdataset", "vlmevalkit")
pieces = st.sampled_from(
    ["<image>", "< image >", "\n", "这是什么？", "a", " ", "\t", '"', "\r\n", "[", "]", "\\", "😀", ""]
)
texts = st.lists(pieces, max_size=6).map("".join) | st.text(max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
_WORDS = "id index foo A B hint question answer messages conversations image images txt open4ov split system 标签"
names = st.sampled_from(_WORDS.split()) | st.text(min_size=1, max_size=6)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp("pool")
    store = ImageStore(root / "image-store")
    return root, [store.put(Image.new("RGB", (6 + i, 5), (i * 60, 9, 9))) for i in range(4)]


@st.composite
def parts(draw: st.DrawFn, images: int) -> Part:
    kind = draw(st.sampled_from(["text", "text", "image", "video"] if images else ["text"]))
    if kind == "text":
        return Part(type="text", text=draw(texts))
    index = draw(st.integers(0, images - 1))
    if kind == "image":
        return Part(type="image", index=index)
    return Part(type="video", index=index, times=[0.5 * t for t in range(draw(st.integers(1, images - index)))])


@st.composite
def samples(draw: st.DrawFn, shas: list[str], number: int) -> Sample:
    shown = draw(st.lists(st.sampled_from(shas), max_size=3))
    conversation: list[Message] = []
    if draw(st.booleans()):  # what most data sets hold: one question about all images, in their order
        conversation = [user(draw(texts), images=len(shown)), assistant(draw(texts))]
    else:
        for _ in range(draw(st.integers(0, 4))):
            role = draw(st.sampled_from(["system", "user", "assistant"]))
            content = [draw(parts(len(shown))) for _ in range(draw(st.integers(0, 3)))]
            conversation.append(Message(role=role, content=content))
    return Sample(
        id=f"s{number}",
        source="测试",
        split=draw(st.sampled_from(["train", "val", "test"])),
        task="reading",
        language=draw(st.sampled_from(["en", "zh"])),
        images=shown,
        messages=conversation,
        answer=draw(st.none() | texts),
        aliases=draw(st.lists(texts, max_size=2)),
        labels=draw(st.lists(st.just(Label(axis="domain", l1="vehicle", score=0.25)), max_size=1)),
        votes=draw(st.lists(st.just(Vote(judge="rules", score=None, reason="<image>")), max_size=1)),
        density=draw(st.just({"ids": 1 / 3})),
        scene=draw(st.none() | st.dictionaries(texts, json_values, max_size=2)),
        steps=draw(st.lists(st.just(Step(stage="judge", prompt="judge@3", cost=0.1)), max_size=1)),
        extra=draw(
            st.just({})
            | st.dictionaries(names, json_values, min_size=1, max_size=3).map(lambda fields: {"fields": fields})
        ),
    )


def there_and_back(root: Path, format: str, made: list[Sample]) -> tuple[list[Sample], int]:
    """The samples after an export and an import, in the order of their ids, and how many the format could not hold."""
    write_samples(root / "samples.parquet", made)
    with tempfile.TemporaryDirectory() as folder:
        left = export_set(root, Path(folder) / "out", format)
        done = import_set(Path(folder) / "out", Path(folder) / "back", format, strict=True)
        assert done.refused == 0
        found = read_samples(Path(folder) / "back" / "samples.parquet")
        store = ImageStore(Path(folder) / "back" / "image-store")
        for sample in found:
            for sha in sample.images:
                assert store.path(sha).read_bytes() == (root / "image-store" / sha[:2] / f"{sha}.png").read_bytes()
        return sorted(found, key=lambda sample: sample.id), left.refused


@pytest.mark.parametrize("format", FORMATS)
@given(data=st.data())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_samples_come_back_from_every_format(pool: tuple[Path, list[str]], format: str, data: st.DataObject) -> None:
    root, shas = pool
    made = [data.draw(samples(shas, number)) for number in range(data.draw(st.integers(1, 4)))]
    made.append(Sample(id="t", source="x", task="t", messages=[user("fits all"), assistant("y")]))
    found, left_out = there_and_back(root, format, made)
    kept = {sample.id for sample in found}
    assert found == [sample for sample in made if sample.id in kept]
    assert len(made) == len(found) + left_out
    if format != "vlmevalkit":
        assert left_out == 0


def test_a_tsv_holds_every_single_question(pool: tuple[Path, list[str]]) -> None:
    root, shas = pool
    made = [
        Sample(
            id="a", source="x", task="t", images=shas[:2], messages=[user("什么？", 2), assistant("long")], answer="b"
        ),
        Sample(id="b", source="x", task="t", messages=[user("no image")], extra={"fields": {"index": "7", "A": "x"}}),
        Sample(id="c", source="x", task="t", images=shas[:1], messages=[user("<image>?", 1), assistant("")]),
    ]
    found, left_out = there_and_back(root, "vlmevalkit", made)
    assert (found, left_out) == (made, 0)


def test_a_video_and_what_nobody_shows_come_back(pool: tuple[Path, list[str]]) -> None:
    root, shas = pool
    made = [
        Sample(id="a", source="x", task="t", images=shas[:3], messages=[video("?", [0.0, 1.5, 2.0]), assistant("y")]),
        Sample(id="b", source="x", task="image", images=shas, scene={"caption": "四张", "n": 1}),
    ]
    for format in ("parquet", "messages", "llava", "sharegpt", "webdataset"):
        assert there_and_back(root, format, made) == (made, 0)


def test_a_row_that_was_edited_is_taken_as_edited(pool: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, shas = pool
    made = Sample(id="a", source="x", task="t", images=shas[:1], messages=[user("a <image> b", 1), assistant("y")])
    write_samples(root / "samples.parquet", [made])
    export_set(root, tmp_path / "out", "llava")
    rows = json.loads((tmp_path / "out" / "train.json").read_text())
    rows[0]["conversations"][1]["value"] = "z"
    (tmp_path / "out" / "train.json").write_text(json.dumps(rows))
    import_set(tmp_path / "out", tmp_path / "back")
    (found,) = read_samples(tmp_path / "back" / "samples.parquet")
    assert [message.text for message in found.messages] == ["a < image > b", "z"]
    assert (found.id, found.images) == ("a", made.images)


# ---------------------------------------------------------------------------------------------- rows


def jpeg(colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(buffer, "JPEG", comment=b"kept", quality=60)
    return buffer.getvalue()


def through(source: Path, expected: str, tmp_path: Path, **options: Any) -> Path:
    """A source imported, and exported in the same format."""
    done = import_set(source, tmp_path / "in", **options)
    assert done.format == expected
    assert done.refused == 0
    export_set(tmp_path / "in", tmp_path / "again", expected, name="again")
    return tmp_path / "again"


def without_record(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "open4ov"} for row in rows]


conversation_texts = st.lists(texts.map(lambda text: text.replace("<image>", "")), min_size=2, max_size=5)


@pytest.mark.parametrize("format", ["llava", "sharegpt"])
@given(said=conversation_texts, inline=st.booleans(), fields=st.dictionaries(names, json_values, max_size=2))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_conversations_are_written_back_as_they_were(
    format: str, said: list[str], inline: bool, fields: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "src").mkdir()
        (root / "src" / "a.jpg").write_bytes(jpeg())
        speakers = ("human", "gpt") if inline else ("user", "assistant")
        turns = [{"from": speakers[place % 2], "value": text} for place, text in enumerate(said)]
        turns[0]["value"] += "see <image> there" if inline else "\n<image>\n"
        key = "image" if format == "llava" else "images"
        taken = {"image", "images", "conversations", "open4ov", "system"}
        row = {
            **{name: value for name, value in fields.items() if name not in taken},
            key: "a.jpg" if format == "llava" else ["a.jpg"],
            "conversations": turns,
        }
        row.setdefault("id", 17)
        (root / "src" / "rows.json").write_text(json.dumps([row]), "utf-8")
        again = through(root / "src" / "rows.json", format, root, format=format, keep_files=True)
        split = next(path for path in again.glob("*.json"))
        (back,) = without_record(json.loads(split.read_text("utf-8")))
        named = back[key] if format == "llava" else back[key][0]
        assert (again / named).read_bytes() == jpeg(), "the very bytes, where the files were kept"
        assert {**back, key: row[key]} == row


def test_messages_are_written_back_with_what_is_beside_them(tmp_path: Path) -> None:
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg()).decode()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "b.png").write_bytes(jpeg())
    rows = [
        {
            "messages": [
                {"role": "system", "content": "你是助手"},
                {"role": "user", "name": "li", "content": [
                    {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
                    {"type": "text", "text": "What says <image>?"},
                    {"type": "image_url", "image_url": {"url": "pictures/b.png"}},
                ]},
                {"role": "assistant", "content": ""},
                {"role": "user", "content": "Sure?"},
                {"role": "assistant", "content": "Yes."},
            ],
            "licence": "CC-BY-4.0",
            "nested": {"a": [1, None, 2.5]},
        }
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    again = through(tmp_path / "rows.jsonl", "messages", tmp_path)
    (back,) = without_record([json.loads(line) for line in (again / "train.jsonl").read_text("utf-8").splitlines()])
    first, _, second = back["messages"][1]["content"]
    assert first.pop("image_url")["url"] == second.pop("image_url")["url"], "equal pixels are one image"
    assert first == {"type": "image_url", "detail": "low"}
    rows[0]["messages"][1]["content"] = [first, rows[0]["messages"][1]["content"][1], second]
    assert back.pop("id")
    assert back == rows[0]
    (sample,) = read_samples(tmp_path / "in" / "samples.parquet")
    assert sample.extra["fields"] == {"licence": "CC-BY-4.0", "nested": {"a": [1, None, 2.5]}}
    assert sample.language == "en"
    assert sample.extra["image_files"] == [None, "pictures/b.png"]


def test_a_tsv_is_written_back_with_its_columns(tmp_path: Path) -> None:
    image, other = (base64.b64encode(jpeg(colour)).decode() for colour in ((1, 2, 3), (200, 100, 0)))
    head = ["index", "image", "question", "hint", "A", "B", "answer", "category", "l2-category"]
    rows = [
        ["0", image, "Which?\nLook.", "left", "cat", 'a "dog"', "A", "animals", "x"],
        ["10", "0", "And now?", "", "one", "two", "B", "", ""],
        ["11", json.dumps([image, other]), "同一个？", "", "", "", "是", "", ""],
        ["12", str([other, image]), "No answer?", "", "", "", "", "", ""],
        ["13", "", "Without an image", "", "1", "2", "A", "text", ""],
        ["14", "15", "Of the next", "", "", "", "x", "", ""],
        ["15", other, "The next", "", "", "", "x", "", ""],
    ]
    with (tmp_path / "bench.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([head, *rows])
    again = through(tmp_path / "bench.tsv", "vlmevalkit", tmp_path, keep_files=True)
    found = read_samples(tmp_path / "in" / "samples.parquet")
    assert [len(sample.images) for sample in found] == [1, 1, 2, 2, 0, 1, 1]
    assert found[0].messages[0].text == 'Hint: left\nWhich?\nLook.\nA. cat\nB. a "dog"'
    assert (found[0].answer, found[0].task, found[2].task, found[2].language) == (
        "A", "multiple_choice", "question", "zh",
    )  # fmt: skip
    with (again / "again.tsv").open(encoding="utf-8", newline="") as file:
        back = [{k: v for k, v in row.items() if k != "open4ov"} for row in csv.DictReader(file, delimiter="\t")]
    resolved = {"0": image, "15": other, str([other, image]): json.dumps([other, image])}
    expected = [dict(zip(head, [row[0], resolved.get(row[1], row[1]), *row[2:]], strict=True)) for row in rows]
    for found_row, row in zip(back, expected, strict=True):
        assert {k: v[:99] for k, v in found_row.items()} == {k: v[:99] for k, v in row.items()}
    assert back == expected
