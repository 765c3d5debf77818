"""Preference pairs as the field writes them: read, written, and the same after both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open4ov.errors import UserError
from open4ov.formats import registry
from open4ov.formats.convert import export_set, import_set
from open4ov.sample import Message, Part, Sample, assistant, user
from open4ov.store import ImageStore, read_samples, write_samples

FORMS = ("trl", "openrlhf", "llamafactory", "swift")
Q, GOOD, BAD = "What is this?", "A stop sign.", "A dog, I am quite sure."


def turn(role: str, text: Any) -> dict[str, Any]:
    return {"role": role, "content": text}


def said(sender: str, text: str) -> dict[str, str]:
    return {"from": sender, "value": text}


SHOWN = [{"type": "image"}, {"type": "text", "text": Q}]
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "trl explicit": (
        "trl",
        {"prompt": [turn("user", Q)], "chosen": [turn("assistant", GOOD)], "rejected": [turn("assistant", BAD)]},
    ),
    "trl explicit, texts": ("trl", {"prompt": Q, "chosen": GOOD, "rejected": BAD}),
    "trl implicit": (
        "openrlhf",
        {"chosen": [turn("user", Q), turn("assistant", GOOD)], "rejected": [turn("user", Q), turn("assistant", BAD)]},
    ),
    "trl, image first": (
        "trl",
        {
            "prompt": [turn("user", Q)],
            "chosen": [turn("assistant", GOOD)],
            "rejected": [turn("assistant", BAD)],
            "images": ["a.png"],
        },
    ),
    "trl, image as a part": (
        "trl",
        {
            "prompt": [turn("user", SHOWN)],
            "chosen": [turn("assistant", [{"type": "text", "text": GOOD}])],
            "rejected": [turn("assistant", [{"type": "text", "text": BAD}])],
            "images": ["a.png"],
        },
    ),
    "llamafactory": (
        "llamafactory",
        {
            "conversations": [said("human", f"<image>{Q}")],
            "chosen": said("gpt", GOOD),
            "rejected": said("gpt", BAD),
            "images": ["a.png"],
        },
    ),
    "llamafactory, system": (
        "llamafactory",
        {
            "conversations": [said("human", Q)],
            "chosen": said("gpt", GOOD),
            "rejected": said("gpt", BAD),
            "system": "Be kind.",
        },
    ),
    "llamafactory, alpaca": ("trl", {"instruction": "What is", "input": "this?", "chosen": GOOD, "rejected": BAD}),
    "swift": (
        "swift",
        {
            "messages": [turn("user", f"<image>{Q}"), turn("assistant", GOOD)],
            "rejected_response": BAD,
            "images": ["a.png"],
        },
    ),
    "swift, messages": (
        "swift",
        {
            "messages": [turn("user", Q), turn("assistant", GOOD)],
            "rejected_messages": [turn("user", Q), turn("assistant", BAD)],
        },
    ),
    "hh": (
        "openrlhf",
        {
            "chosen": f"\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: {Q}\n\nAssistant: {GOOD}",
            "rejected": f"\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: {Q}\n\nAssistant: {BAD}",
        },
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (8, 6), (99 * number, 1, 2)).save(tmp_path / name)
    return tmp_path


def taken(folder: Path, rows: list[dict[str, Any]], format: str = "auto", **options: Any) -> list[Sample]:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    import_set(folder / "rows.jsonl", folder / "in", format, **options)
    return read_samples(folder / "in" / "samples.parquet")


@pytest.mark.parametrize("name", ROWS)
def test_what_the_field_writes_is_read(folder: Path, name: str) -> None:
    form, row = ROWS[name]
    (found,) = taken(folder, [row])
    assert registry.guess(folder / "rows.jsonl")[0] == form
    assert found.messages[-1] == assistant(GOOD)
    assert found.rejected == [assistant(BAD)]
    assert found.messages[-2].text.replace("\n", " ") == Q
    assert [part.index for part in found.messages[-2].content if part.type == "image"] == list(range(len(found.images)))
    assert len(found.images) == len(row.get("images", ()))
    assert found.extra["pair"] == "human"
    assert found.task == "preference"
    assert len(found.messages) == (4 if name == "hh" else 3 if "system" in name else 2)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "llamafactory, alpaca"])
def test_a_row_comes_out_as_it_came_in(folder: Path, name: str) -> None:
    form, row = ROWS[name]
    if form == "trl":
        pytest.skip("TRL's is written as Parquet: see the test of that")
    taken(folder, [row], form)
    export_set(folder / "in", folder / "out", form)
    file = next((folder / "out").glob("train.json*"))
    text = file.read_text()
    (again,) = json.loads(text) if form == "llamafactory" else map(json.loads, text.splitlines())
    if "images" in row:
        assert (folder / "out" / again["images"][0]).exists()
    assert {key: value for key, value in again.items() if key in row and key != "images"} == {
        key: value for key, value in row.items() if key != "images"
    }


def pairs(store: ImageStore) -> list[Sample]:
    red, blue = (store.put(Image.new("RGB", (9, 5), colour)) for colour in ((200, 0, 0), (0, 0, 200)))
    common: dict[str, Any] = {"source": "测试", "task": "colour"}
    told = {"politeness": "chosen", "length": {"chosen": 1.0, "rejected": 0.25}}
    both = [
        Part(type="text", text="From "),
        Part(type="image", index=1),
        Part(type="text", text=" to "),
        Part(type="image", index=0),
    ]
    return [
        Sample(
            id="a",
            images=[red],
            messages=[user(Q, images=1), assistant(GOOD)],
            rejected=[assistant(BAD)],
            extra={"pair": "human", "attributes": told},
            **common,
        ),
        Sample(
            id="b",
            images=[red, blue],
            messages=[Message(role="user", content=both), assistant("x")],
            rejected=[assistant("y")],
            **common,
        ),
        Sample(
            id="c",
            messages=[
                Message(role="system", content=[Part(type="text", text="Be brief.")]),
                user("嗨"),
                assistant("你好"),
                user("?"),
                assistant("!"),
            ],
            rejected=[assistant("<image>")],
            language="zh",
            answer="!",
            extra={"pair": "corrective", "fields": {"mark": [1, None]}},
            **common,
        ),
        Sample(
            id="d",
            split="val",
            images=[blue],
            messages=[user("no picture shown"), assistant("<image> typed")],
            rejected=[
                Message(role="assistant", content=[Part(type="text", text="two "), Part(type="text", text="parts")])
            ],
            **common,
        ),
    ]


@pytest.mark.parametrize("form", [*FORMS, "parquet", "messages"])
def test_pairs_come_back_from_every_form(tmp_path: Path, form: str) -> None:
    made = pairs(ImageStore(tmp_path / "set" / "image-store"))
    write_samples(tmp_path / "set" / "samples.parquet", made)
    done = export_set(tmp_path / "set", tmp_path / "out", form)
    assert done.refused == 0
    import_set(tmp_path / "out", tmp_path / "back", form, strict=True)
    found = sorted(read_samples(tmp_path / "back" / "samples.parquet"), key=lambda sample: sample.id)
    assert found == made


@pytest.mark.parametrize("form", ["openrlhf", "llamafactory", "swift"])
def test_an_edited_row_is_taken_as_edited(tmp_path: Path, form: str) -> None:
    made = pairs(ImageStore(tmp_path / "set" / "image-store"))[:1]
    write_samples(tmp_path / "set" / "samples.parquet", made)
    export_set(tmp_path / "set", tmp_path / "out", form)
    file = next((tmp_path / "out").glob("train.json*"))
    file.write_text(file.read_text().replace(BAD, "Something worse."))
    import_set(tmp_path / "out", tmp_path / "back", form)
    (found,) = read_samples(tmp_path / "back" / "samples.parquet")
    assert found.rejected == [assistant("Something worse.")]
    assert found.extra["attributes"] == made[0].extra["attributes"]


def test_a_table_is_what_datasets_and_trl_load(tmp_path: Path) -> None:
    made = pairs(ImageStore(tmp_path / "set" / "image-store"))
    write_samples(tmp_path / "set" / "samples.parquet", made)
    export_set(tmp_path / "set", tmp_path / "out", "trl")
    table = pq.read_table(tmp_path / "out" / "data" / "train-00000.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["images"] == {"feature": {"_type": "Image"}, "_type": "List"}
    row = table.to_pylist()[0]
    assert row["prompt"] == [turn("user", [{"type": "image", "text": None}, {"type": "text", "text": Q}])]
    assert row["chosen"] == [turn("assistant", [{"type": "text", "text": GOOD}])]
    assert row["images"][0]["bytes"].startswith(b"\x89PNG")
    assert (tmp_path / "out" / "data" / "validation-00000.parquet").exists()


def test_a_table_of_other_makers_is_read(folder: Path) -> None:
    picture = {"bytes": (folder / "b.png").read_bytes(), "path": None}
    rows = [
        {
            "prompt": [turn("user", Q)],
            "chosen": [turn("assistant", GOOD)],
            "rejected": [turn("assistant", BAD)],
            "images": [picture],
            "score_chosen": 4.5,
            "score_rejected": 2.0,
        },
        {
            "prompt": [turn("user", Q)],
            "chosen": [turn("assistant", GOOD)],
            "rejected": [turn("assistant", BAD)],
            "images": None,
            "score_chosen": 3.0,
            "score_rejected": 3.0,
        },
    ]
    (folder / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "set" / "train.parquet")
    import_set(folder / "set", folder / "in")
    shown, bare = read_samples(folder / "in" / "samples.parquet")
    assert len(shown.images) == 1
    assert shown.extra["attributes"] == {"score": {"chosen": 4.5, "rejected": 2.0}}
    assert bare.images == []
    assert bare.rejected == [assistant(BAD)]


def test_scored_lists_and_corrections_become_pairs(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "prompt": Q,
            "responses": ["bad", "good", "so so"],
            "scores": [1, 5, 3],
            "attributes": {"politeness": [3, 2, 1]},
        },
        {
            "instruction": Q,
            "completions": [{"response": "bad", "overall_score": 2}, {"response": "good", "overall_score": 8}],
        },
        {
            "prompt": Q,
            "original": "Yeah its a sign.",
            "corrected": "It is a sign.",
            "attributes": {"fluency": "chosen", "length": -1},
        },
        {"prompt": Q, "responses": ["a", "b"], "scores": [2, 2]},
        {"prompt": Q, "responses": ["a", "b"], "scores": [2]},
    ]
    scored, ultra, edited = taken(folder, rows)
    assert (scored.messages[-1].text, (scored.rejected or [])[0].text) == ("good", "bad")
    assert scored.extra["attributes"] == {
        "score": {"chosen": 5.0, "rejected": 1.0},
        "politeness": {"chosen": 2.0, "rejected": 3.0},
    }
    assert (ultra.messages[-1].text, ultra.extra["pair"]) == ("good", "scored")
    assert edited.extra["pair"] == "corrective"
    assert edited.extra["attributes"] == {"fluency": "chosen", "length": "rejected"}
    assert (edited.rejected or [])[0].text == "Yeah its a sign."
    reasons = [json.loads(line)["reason"] for line in (folder / "in" / "skipped.jsonl").read_text().splitlines()]
    assert len(reasons) == 2
    assert "none is better" in reasons[0]
    assert "needs a number" in reasons[1]


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"prompt": Q, "chosen": GOOD}, "no preference pair"),
    (
        {
            "chosen": [turn("user", "a"), turn("assistant", "x")],
            "rejected": [turn("user", "b"), turn("assistant", "y")],
        },
        "differ before the last",
    ),
    ({"prompt": Q, "chosen": [turn("user", GOOD)], "rejected": BAD}, "does not end with the assistant's"),
    ({"prompt": Q, "chosen": GOOD, "rejected": BAD, "attributes": {"length": "shorter"}}, "attributes.length"),
    ({"prompt": Q, "chosen": GOOD, "rejected": BAD, "attributes": ["length"]}, "no object of attribute"),
    ({"chosen": "abc", "rejected": "xyz"}, "it has no prompt"),
    (
        {
            "messages": [turn("user", Q), turn("assistant", GOOD)],
            "rejected_response": BAD,
            "rejected_images": ["b.png"],
        },
        "images of its own",
    ),
    ({"prompt": Q, "chosen": GOOD, "rejected": BAD, "images": ["nowhere.png"]}, "nowhere.png"),
    (
        {"prompt": Q, "chosen": GOOD, "rejected": [turn("assistant", [{"type": "image"}])]},
        "holds something that is no text",
    ),
]


@pytest.mark.parametrize(("row", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_what_is_no_pair_is_refused_with_the_reason(folder: Path, row: dict[str, Any], reason: str) -> None:
    assert taken(folder, [row], "trl") == []
    assert reason in (folder / "in" / "skipped.jsonl").read_text()
    with pytest.raises(UserError, match=r"rows.jsonl, line 1: "):
        import_set(folder / "rows.jsonl", folder / "in2", "trl", strict=True)


def test_samples_that_are_no_pairs_are_left_out_of_an_export(tmp_path: Path) -> None:
    plain = Sample(id="a", source="s", task="t", messages=[user("?"), assistant("!")])
    made = [plain, plain.model_copy(update={"id": "b", "rejected": [assistant("no")]})]
    write_samples(tmp_path / "set" / "samples.parquet", made)
    done = export_set(tmp_path / "set", tmp_path / "out", "swift")
    assert (done.samples, done.left_out) == (1, {"no preference pair: it has no rejected response": 1})
