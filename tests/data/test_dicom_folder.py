"""DICOM files straight from the folder that `images.vertical` names, under the same rules as an import of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_collect_images import collect

from open4ov.data.hygiene import Hygiene
from open4ov.errors import UserError
from open4ov.formats.convert import import_set
from open4ov.recipe_hygiene import HygieneSection
from open4ov.store import ImageStore, read_samples

sys.path.insert(0, str(Path(__file__).parents[1] / "formats"))
from test_dicom import needs_pydicom, scan  # pyright: ignore[reportMissingImports]

RAMP = np.linspace(0, 4095, 48, dtype=np.uint16).reshape(6, 8)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder as a hospital gives it: names without endings, several frames, a directory file, a picture beside."""
    folder = tmp_path / "scans"
    (folder / "series").mkdir(parents=True)
    window = {"WindowCenter": 2048, "WindowWidth": 1000}
    (folder / "IM0001").write_bytes(scan(RAMP, StudyDate="20250102", InstitutionName="St. Mary", **window))
    (folder / "IM0001.json").write_text('{"finding": "none"}')
    film = np.stack([RAMP, RAMP // 2, RAMP])
    (folder / "series" / "film.dcm").write_bytes(scan(film, BurnedInAnnotation="YES", **window))
    (folder / "cut.dcm").write_bytes(scan(RAMP)[:-50])
    (folder / "bare.dcm").write_bytes(bytes(128) + b"DICM" + bytes(4))
    Image.new("RGB", (20, 10), "blue").save(folder / "photo.png")
    return folder


@needs_pydicom
def test_every_frame_is_an_image_with_what_the_header_may_say(scans: Path, tmp_path: Path) -> None:
    vertical, _, skipped, run = collect(tmp_path, vertical=str(scans), general_count=0)
    found = {(s.extra["file"], s.extra.get("fields", {}).get("frame")): s for s in vertical}
    assert set(found) == {("IM0001", None), ("photo.png", None), ("series/film.dcm", 1)}
    one = found["IM0001", None]
    assert one.scene == {"finding": "none"}
    assert one.extra["fields"]["window"] == {"centre": 2048.0, "width": 1000.0, "function": "LINEAR"}
    assert one.extra["metadata_removed"] == ["date", "identifier", "name", "place"]
    assert "Doe" not in one.model_dump_json()
    assert "MRN-77" not in one.model_dump_json()
    pixels = np.asarray(run.images.get(one.images[0]))[..., 0]
    assert (pixels[RAMP <= 1548] == 0).all()
    assert (pixels[RAMP >= 2547] == 255).all()
    reasons = {entry["file"]: entry["reason"] for entry in skipped}
    assert set(reasons) == {"series/film.dcm, frame 0", "series/film.dcm, frame 2", "cut.dcm", "bare.dcm"}
    assert reasons["series/film.dcm, frame 0"] == "shows the same as IM0001"
    assert "cannot be shown" in reasons["cut.dcm"]
    assert "DICOM" in reasons["bare.dcm"]
    assert "1 DICOM files have several frames, an image each: series/film.dcm (3)" in run.notes


@needs_pydicom
def test_an_import_of_the_same_folder_has_the_same_pixels_and_fields(scans: Path, tmp_path: Path) -> None:
    import_set(scans, tmp_path / "set", "folder")
    imported = {s.images[0]: s for s in reversed(read_samples(tmp_path / "set" / "samples.parquet"))}
    vertical, _, _, _ = collect(tmp_path, vertical=str(scans), general_count=0)
    assert {s.images[0] for s in vertical} == set(imported)
    single = next(s for s in vertical if s.extra["file"] == "IM0001")
    assert single.extra["fields"] == imported[single.images[0]].extra["fields"]


@needs_pydicom
def test_hygiene_reads_the_header_too(scans: Path, tmp_path: Path) -> None:
    vertical, _, _, run = collect(tmp_path, vertical=str(scans), general_count=0)
    rules = HygieneSection(personal_data={"email": "mask"}, groups=["patient"], val=0.3, test=0.3)
    clean = Hygiene(rules, run.images, 0, lambda _: None)
    kept = clean.images(vertical, [])
    clean.split(kept)
    assert clean.report["personal_data"]["file_metadata_removed"]["name"] == 2
    assert clean.report["personal_data"]["said_to_be_burned_in"] == 1
    assert len({s.split for s in kept if s.extra["file"] != "photo.png"}) == 1
    read = HygieneSection(personal_data={"email": "mask"}, burned_in=f"{__name__}:reader")
    clean = Hygiene(read, run.images, 0, lambda _: None)
    assert len(clean.images(vertical, [])) == 3
    assert clean.report["burned_in"]["images_painted"] == 2
    assert "said_to_be_burned_in" not in clean.report["personal_data"]


def reader(image: Image.Image) -> list[tuple[tuple[float, float, float, float], str]]:
    return [((0, 0, 4, 3), "a@b.org")] if image.width == 8 else []


def test_without_its_reader_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    (folder / "b.dcm").write_bytes(bytes(128) + b"DICM" + bytes(40))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"b\.dcm: DICOM is read through pydicom.*pip install 'open4ov\[dicom\]'"):
        collect(tmp_path, vertical=str(folder), general_count=0)


def test_what_lies_in_hidden_folders_is_no_image(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / ".part-set" / "images").mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    Image.new("RGB", (20, 11)).save(folder / ".part-set" / "images" / "b.png")
    vertical, _, skipped, run = collect(tmp_path, vertical=str(folder), general_count=0)
    assert ([s.extra["file"] for s in vertical], skipped) == (["a.png"], [])
    assert json.loads((run.out / "summary.json").read_text())["vertical"] == 1
    assert isinstance(run.images, ImageStore)
