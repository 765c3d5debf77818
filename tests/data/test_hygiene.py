"""Hygiene inside data construction: what falls out, why, and what the report says of it."""

from __future__ import annotations

import base64
import io
import re
from itertools import islice
from pathlib import Path

import pytest
from data.made_up import MadeUp, asker
from PIL import Image

from open4ov.corpora import in_car
from open4ov.data.construct import Result, make
from open4ov.data.images import folder
from open4ov.errors import UserError
from open4ov.recipe import DataSection, load
from open4ov.recipe_hygiene import HygieneSection
from open4ov.sample import Sample
from open4ov.store import ImageStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def images(store: ImageStore) -> list[Sample]:
    return [item.store(store) for item in islice(in_car.pictures("train", 1), 24)]


def build(images: list[Sample], store: ImageStore, **options: object) -> Result:
    return make(images, DataSection(hygiene=HygieneSection.model_validate(options)), store)


def reader(image: Image.Image) -> list[tuple[tuple[float, float, float, float], str]]:
    return [((0, 0, 20, 10), "call 13812345678")] if image.width % 2 else []


def test_off_by_default_and_then_the_report_has_no_such_part(images: list[Sample], store: ImageStore) -> None:
    result = make(images, DataSection(), store)
    assert "hygiene" not in result.report
    assert "hygiene_rejected" not in result.report["counts"]
    assert {sample.split for sample in result.samples} == {"train"}


def test_planted_duplicates_and_evaluation_pictures_fall_out_with_their_evidence(
    tmp_path: Path, images: list[Sample], store: ImageStore
) -> None:
    picture = store.get(images[0].images[0])
    smaller = images[0].model_copy(
        update={
            "id": "smaller",
            "images": [store.put(picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)))],
        }
    )
    store.get(images[5].images[0]).save(buffer := io.BytesIO(), "JPEG", quality=60)
    tsv = tmp_path / "exam.tsv"
    tsv.write_text(f"index\timage\tquestion\tanswer\n7\t{base64.b64encode(buffer.getvalue()).decode()}\tWhat?\tx\n")
    result = build([*images, smaller], store, near_duplicates=3, decontaminate=[str(tsv)])
    why = {entry["image"]: entry for entry in result.report["skipped"]}
    assert why["smaller"]["step"] == "near-duplicates"
    assert images[0].id in why["smaller"]["reason"]
    assert "exam.tsv, index 7 (copy" in why[images[5].id]["reason"]
    gone = {sample.images[0] for sample in (*result.samples, *result.rejected)} & {*smaller.images, *images[5].images}
    assert not gone
    part = result.report["hygiene"]
    assert part["near_duplicates"]["images_dropped"] >= 1
    assert part["decontamination"]["pictures"] == 1
    evidence = {entry["image"]: entry["evidence"] for entry in part["decontamination"]["images"]}
    assert evidence[images[5].id][0]["file"] == "exam.tsv"
    assert result.report["counts"]["images"] == len(images) + 1


def test_questions_of_an_evaluation_set_are_rejected(tmp_path: Path, images: list[Sample], store: ImageStore) -> None:
    plain = make(images, DataSection(), store)
    target = plain.samples[3]
    tsv = tmp_path / "text.tsv"
    tsv.write_text(f"index\tquestion\tanswer\n9\t{target.messages[0].text}\t{target.answer}\n", "utf-8")
    result = build(images, store, decontaminate=[str(tsv)])
    rejected = {s.id: s for s in result.rejected if s.extra.get("rejected_by") == "decontamination"}
    assert target.id in rejected
    assert "text.tsv, index 9" in rejected[target.id].extra["reason"]
    assert result.report["hygiene"]["samples_rejected"] == {"decontamination": len(rejected)}
    assert result.report["counts"]["hygiene_rejected"] == len(rejected)
    assert {s.id for s in plain.samples} == {s.id for s in result.samples} | (
        set(rejected) & {s.id for s in plain.samples}
    )


def test_licences_outside_the_list_fall_out_and_the_others_travel(images: list[Sample], store: ImageStore) -> None:
    stated = ["CC BY 4.0", "proprietary", None]
    marked = [
        image.model_copy(update={"extra": {"licence": stated[n % 3], "from": "here"} if stated[n % 3] else {}})
        for n, image in enumerate(images)
    ]
    result = build(marked, store, licences=["cc-by-4.0"])
    assert result.samples
    assert {(s.extra["licence"], s.extra["from"]) for s in result.samples} == {("CC BY 4.0", "here")}
    assert result.report["hygiene"]["licences"] == {
        "found": {"CC BY 4.0": 8, "proprietary": 8, "unknown": 8}, "dropped": 16,
    }  # fmt: skip
    assert build(marked, store, licences=["unknown"]).report["hygiene"]["licences"]["dropped"] == 16


def test_personal_data_is_masked_or_dropped_in_annotations_and_pixels(images: list[Sample], store: ImageStore) -> None:
    odd = store.put(Image.effect_noise((51, 40), 90).convert("RGB"))
    marked = [
        images[0].model_copy(update={"scene": {**(images[0].scene or {}), "PatientName": "Li", "note": "a@b.org"}}),
        images[1].model_copy(update={"scene": {**(images[1].scene or {}), "note": "6222 0000 0000 0000 4111 1111"}}),
        images[2].model_copy(update={"scene": {**(images[2].scene or {}), "note": "4111 1111 1111 1111"}}),
        images[3].model_copy(update={"images": [odd]}),
    ]
    rules = {"email": "mask", "identity_tags": "mask", "card": "drop", "phone": "mask"}
    result = build(marked, store, personal_data=rules, burned_in=f"{__name__}:reader")
    scene = next(s.scene for s in result.samples if s.images == images[0].images)
    assert scene is not None
    assert (scene["PatientName"], scene["note"]) == ("[identity_tags]", "[email]")
    assert {entry["image"]: entry["reason"] for entry in result.report["skipped"]}[images[2].id].endswith("holds card")
    part = result.report["hygiene"]
    assert part["personal_data"]["in_annotations"] == {"card": 1, "email": 1, "identity_tags": 1}
    assert part["burned_in"]["images_painted"] >= 1
    assert part["burned_in"]["found"]["phone"] >= 1
    assert not any(odd in s.images for s in (*result.samples, *result.rejected))


def test_metadata_of_files_is_counted(tmp_path: Path, store: ImageStore) -> None:
    exif = Image.Exif()
    exif[0x013B] = "Wang Li"
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.jpg", exif=exif)
    (sample,) = folder(tmp_path, 10_000, store, [])
    assert sample.extra == {"file": "a.jpg", "metadata_removed": ["name"]}
    assert b"Wang" not in store.path(sample.images[0]).read_bytes()


def test_splits_keep_groups_and_likenesses_together(images: list[Sample], store: ImageStore) -> None:
    grouped = [
        image.model_copy(update={"scene": {**(image.scene or {}), "vehicle": n // 3}}) for n, image in enumerate(images)
    ]
    result = build(grouped, store, groups=["vehicle"], val=0.3, test=0.3)
    where: dict[int, set[str]] = {}
    for sample in result.samples:
        where.setdefault((sample.scene or {})["vehicle"], set()).add(sample.split)
    assert all(len(sides) == 1 for sides in where.values())
    assert len({next(iter(sides)) for sides in where.values()}) > 1
    figures = result.report["hygiene"]["splits"]
    assert sum(figures["samples"].values()) == len(result.samples)
    assert set(figures["deviation"]) == {"train", "val", "test"}


def test_a_key_to_group_by_that_no_image_has_is_an_error_that_names_those_there_are(
    images: list[Sample], store: ImageStore
) -> None:
    imported = [
        image.model_copy(update={"extra": {**image.extra, "fields": {"patient": f"p{n % 3}", "note": ["x"]}}})
        if n < 9
        else image
        for n, image in enumerate(images[:12])
    ]
    provider = MadeUp()
    section = DataSection(hygiene=HygieneSection(groups=["patient", "pateint"], val=0.3))
    with pytest.raises(UserError, match=r"none of the 12 .*'pateint'; did you mean 'patient'\?.*patient \(9\)") as told:
        make(imported, section, store, asker=asker(section, provider))
    assert "note" not in str(told.value)  # a list names no group
    assert provider.asked == []
    result = build(imported, store, groups=["patient"], val=0.3, test=0.3)
    assert result.report["hygiene"]["group_keys"] == {"patient": {"images": 9, "without": 3}}


def test_nearly_equal_questions_about_an_image_are_asked_once(images: list[Sample], store: ImageStore) -> None:
    result = build(images, store, near_questions=0.3)
    gone = [s for s in result.rejected if s.extra.get("rejected_by") == "near_duplicate"]
    assert len(gone) == result.report["hygiene"]["near_questions"]["samples_dropped"] > 0
    assert all(re.search(r"asks nearly the same as \w+ \(Jaccard", s.extra["reason"]) for s in gone)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{val: 0.6, test: 0.5}", "leave none to train on"),
        ("{groups: [patient]}", "has no effect"),
        ("{question_embedder: 'a:b'}", "data.hygiene.decontaminate names no evaluation set"),
        ("{decontaminate: [a.tsv], question_cosine: 0.8}", "data.hygiene.question_embedder is empty"),
        ("{burned_in: 'a:b'}", "needs data.hygiene.personal_data"),
        ("{near_duplicate: 3}", "did you mean 'near_duplicates'"),
        ("{personal_data: {mail: mask}}", "personal_data"),
        ("{near_duplicates: 30}", "near_duplicates"),
    ],
)
def test_recipes_that_cannot_hold_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: x\ndata:\n  hygiene: {text}\n")
    with pytest.raises(UserError, match=message):
        load(path)
