"""The general set goes through hygiene too: what is replayed holds no benchmark, no copy, nobody's data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up import MadeUp, asker
from PIL import Image
from test_decontaminate import drawing, encoded, write_tsv

from open4ov.corpora import clipart
from open4ov.data import construct
from open4ov.data.hygiene import Hygiene
from open4ov.errors import UserError
from open4ov.recipe import DataSection, ImagesSection, Recipe
from open4ov.recipe_hygiene import HygieneSection
from open4ov.sample import Message, Sample, assistant, user
from open4ov.store import ImageStore, read_samples, write_samples


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


def said(id: str, messages: list[Message], images: list[str] | None = None, **more: Any) -> Sample:
    answer = messages[-1].text if messages and messages[-1].role == "assistant" else None
    given = {"answer": answer, "source": "open", "task": "imported", **more}
    return Sample(id=id, images=images or [], messages=messages, **given)


def one(id: str, question: str, answer: str, images: list[str] | None = None, **more: Any) -> Sample:
    return said(id, [user(question, images=len(images or ())), assistant(answer)], images, **more)


def cleaned(
    samples: list[Sample], store: ImageStore, *, drawn: bool = False, **options: Any
) -> tuple[list[str], dict[str, str], dict[str, Any], list[Sample]]:
    """(ids that stay, id → why it goes, the report, the samples that stay)"""
    clean = Hygiene(HygieneSection.model_validate(options), store, 0, lambda _: None)
    kept, gone = clean.general(samples, drawn=drawn)
    assert len(kept) + len(gone) == len(samples)
    why = {sample.id: f"{sample.extra['rejected_by']}: {sample.extra['reason']}" for sample in gone}
    return [sample.id for sample in kept], why, clean.report, kept


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    rows = [
        {"index": 1, "image": encoded(drawing(clipart.names()[0])), "question": "What is this?", "answer": "x"},
        {"index": 2, "image": "", "question": "Which English author wrote the novel Pride and Prejudice?",
         "answer": "Austen"},
    ]  # fmt: skip
    return write_tsv(tmp_path / "exam.tsv", rows)


def test_pictures_and_questions_of_benchmarks_are_not_replayed(store: ImageStore, tsv: Path) -> None:
    first, *others = (drawing(name) for name in clipart.names()[:4])
    copy = store.put(first.resize((300, 300)))
    free = [store.put(picture) for picture in others]
    asks = "The novel Pride and Prejudice was written by which English author?"
    samples = [
        one("copy", "How many colours?", "3", [copy]),
        one("second of two", "Which is larger?", "the first", [free[0], copy]),
        one("text", asks, "Jane Austen wrote Pride and Prejudice, which came out in the year 1813."),
        said("later turn", [user("Hello."), assistant("Hello!"), user(asks), assistant("Austen")]),
        one("two free", "Which is larger?", "the second", free[:2]),
        one("other text", "Which English author wrote the novel Wuthering Heights?", "Bronte"),
        said("free turns", [user("Hello.", images=1), assistant("Hello!"), user("And?"), assistant("No.")], free[2:]),
    ]
    ids, why, report, _ = cleaned(samples, store, decontaminate=[str(tsv)])
    assert ids == ["two free", "other text", "free turns"]
    assert "exam.tsv, index 1" in why["copy"]
    assert "exam.tsv, index 1" in why["second of two"]
    assert why["text"].startswith("decontamination: its question is in exam.tsv, index 2")
    assert "index 2" in why["later turn"]
    part = report["general"]
    assert (part["samples"], part["kept"], part["drawn"]) == (7, 3, False)
    assert [entry["sample"] for entry in part["decontamination"]["images"]] == ["copy", "second of two"]
    assert [entry["sample"] for entry in part["decontamination"]["questions"]] == ["text", "later turn"]
    assert report["decontamination"]["images"] == [], "the vertical's own"


def test_what_our_corpus_draws_is_decontaminated_and_nothing_else(store: ImageStore, tsv: Path) -> None:
    plain = store.put(Image.new("RGB", (40, 40), (200, 0, 0)))
    alike = store.put(Image.new("RGB", (41, 40), (200, 0, 0)))
    samples = [
        one("a", "What colour is it?", "red", [plain]),
        one("b", "What colour is it?", "red", [alike]),
        one("c", "The picture shows mail a@b.org. Whose?", "b", [plain]),
        one("benchmark", "Which English author wrote the novel Pride and Prejudice?", "Austen"),
        one("pattern", "Which colour has the larger of both circles in the upper row?", "red", [alike]),
    ]
    pattern = {"image": encoded(drawing(clipart.names()[1])), "question": samples[-1].messages[0].text, "answer": "red"}
    second = write_tsv(tsv.with_name("second.tsv"), [{"index": 1, **pattern}])
    options: dict[str, Any] = {
        "licences": ["cc0"], "personal_data": {"email": "drop"}, "near_duplicates": 6, "near_questions": 0.5,
        "val": 0.4, "test": 0.4, "decontaminate": [str(tsv), str(second)],
    }  # fmt: skip
    ids, why, report, kept = cleaned(samples, store, drawn=True, **options)
    assert ids == ["a", "b", "c", "pattern"]
    assert list(why) == ["benchmark"]
    assert set(report["general"]) == {"samples", "kept", "drawn", "decontamination"}
    assert {sample.split for sample in kept} == {"train"}


def test_copies_licences_and_personal_data_of_open_data(store: ImageStore) -> None:
    picture = drawing(clipart.names()[0])
    large, small = store.put(picture), store.put(picture.resize((150, 150)))
    other = store.put(drawing(clipart.names()[1]))
    free: dict[str, Any] = {"extra": {"fields": {"license": "CC0"}}}
    samples = [
        one("small", "What is it?", "x", [small], **free),
        one("large", "What is it?", "x", [large], **free),
        one("both", "Which is smaller?", "the second", [other, small], **free),
        one("again", "What is it??", "y", [large], **free),
        one("mail", "Write to a@b.org?", "No.", extra={"licence": "CC0"}),
        one("card", "Is 4111 1111 1111 1111 a card?", "Yes.", **free),
        one("unlicensed", "What is it?", "z", [other]),
        one("3 + 4", "What is the sum of 3 and 4 in base ten?", "7", **free),
        one("3 + 5", "What is the sum of 3 and 5 in base ten?", "8", **free),
        one("3 + 4 again", "What is the sum of 3 and 4 in base 10?", "7", **free),
    ]
    ids, why, report, kept = cleaned(
        samples, store, licences=["cc0"], personal_data={"email": "mask", "card": "drop"},
        near_duplicates=6, near_questions=0.7,
    )  # fmt: skip
    assert ids == ["large", "both", "mail", "3 + 4", "3 + 5"]
    assert why["small"].startswith("near_duplicates: shows nearly the same as large (")
    assert why["again"].startswith("near_duplicate: asks nearly the same as large")
    assert why["3 + 4 again"].startswith("near_duplicate: asks nearly the same as 3 + 4 ")
    assert why["card"] == "personal_data: its text held card"
    assert why["unlicensed"].startswith("licences: its licence (unknown)")
    assert kept[2].messages[0].text == "Write to [email]?"
    part = report["general"]
    assert part["licences"] == {"found": {"CC0": 9, "unknown": 1}, "dropped": 1}
    assert part["near_duplicates"] == {"pairs": 1, "samples_dropped": 1, "radius": 6}
    assert part["personal_data"]["in_texts"] == {"card": 1, "email": 1}


def test_a_patient_of_both_sets_lies_on_one_side(store: ImageStore) -> None:
    pictures = [store.put(Image.effect_noise((40, 40), 90).convert("RGB")) for _ in range(40)]
    general = [one(f"g{n}", "?", "x", [pictures[n]], extra={"fields": {"patient": f"p{n % 10}"}}) for n in range(20)]
    vertical = [one(f"v{n}", "?", "x", [pictures[20 + n]], scene={"patient": f"p{n % 10}"}) for n in range(20)]
    clean = Hygiene(HygieneSection(groups=["patient"], val=0.3, test=0.3), store, 0, lambda _: None)
    kept, _ = clean.general(general, drawn=False)
    clean.images(vertical, [])
    clean.split(vertical, kept)
    for n in range(10):
        assert len({s.split for s in (*kept[n::10], *vertical[n::10])}) == 1
    assert len({sample.split for sample in kept}) > 1
    parts = [part["splits"]["samples"] for part in (clean.report, clean.report["general"])]
    assert [sum(part.values()) for part in parts] == [20, 20]
    assert parts[0] == parts[1]


Stage = Callable[..., tuple[Path, list[str], MadeUp]]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: ImageStore) -> Stage:
    """The stage `data` after a stage `images` that left one picture and the general set given."""

    def run(general: list[Sample], **options: Any) -> tuple[Path, list[str], MadeUp]:
        provider, notes = MadeUp(), list[str]()
        monkeypatch.setattr(construct, "Asker", lambda section, place: asker(section, provider))
        before, out = tmp_path / "images", tmp_path / "data"
        before.mkdir(exist_ok=True)
        out.mkdir(exist_ok=True)
        scene = {"qa": [{"question": "What is it?", "answer": "a box"}]}
        sha = store.put(Image.effect_noise((50, 40), 90).convert("RGB"))
        write_samples(before / "samples.parquet", [Sample(id="v", source="f", task="image", images=[sha], scene=scene)])
        write_samples(before / "general.parquet", general)
        section = DataSection(hygiene=HygieneSection.model_validate(options), topics_per_pair=1)
        recipe = Recipe(name="t", data=section, images=ImagesSection(general=str(tmp_path)))
        ran = SimpleNamespace(
            recipe=recipe, inputs={"images": before}, out=out, images=store,
            scratch=tmp_path / "scratch", progress=lambda *_: None, note=notes.append,
        )  # fmt: skip
        construct.construct(ran)  # type: ignore[arg-type]
        return out, notes, provider

    return run


def test_without_hygiene_the_stage_hands_the_general_set_on_as_it_is(stage: Stage, tmp_path: Path) -> None:
    out, notes, _ = stage([one("a", "Mail a@b.org?", "No.")])
    assert (out / "general.parquet").read_bytes() == (tmp_path / "images" / "general.parquet").read_bytes()
    assert not (out / "general_rejected.parquet").exists()
    assert notes == []


def test_the_stage_keeps_what_falls_out_and_tells_what_could_not_be_compared(stage: Stage, tmp_path: Path) -> None:
    tsv = write_tsv(
        tmp_path / "exam.tsv",
        [{"index": 7, "image_path": "gone.png", "question": "Who wrote the novel Emma?", "answer": "Austen"}],
    )
    samples = [one("a", "Who wrote the novel Emma?", "Austen"), one("b", "Who painted Guernica?", "Picasso")]
    out, notes, _ = stage(samples, decontaminate=[str(tsv)])
    assert [sample.id for sample in read_samples(out / "general.parquet")] == ["b"]
    (gone,) = read_samples(out / "general_rejected.parquet")
    assert (gone.id, gone.extra["rejected_by"]) == ("a", "decontamination")
    report = json.loads((out / "report.json").read_text())
    assert report["hygiene"]["general"]["decontamination"]["questions"][0]["sample"] == "a"
    (note,) = notes
    assert "exam.tsv, index 7: gone.png: no such file" in note
    with pytest.raises(UserError, match=r"all 1 samples of the general set fall out"):
        stage(samples[:1], decontaminate=[str(tsv)])
