"""Personal data: what the rules find and leave alone, in texts, tags, file metadata and pixels."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from open4ov.data import burned_in, metadata, personal
from open4ov.errors import UserError

ALL: dict[personal.Kind, personal.Action] = dict.fromkeys(personal.KINDS, "mask")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to li.wei+x@mail.example.org, please", "write to [email], please"),
        ("请发到li.wei@example.cn谢谢", "请发到[email]谢谢"),
        ("电话13812345678。", "电话[phone]。"),
        ("call +86 138-1234-5678 now", "call [phone] now"),
        ("call +44 20 7946 0958 or (212) 555-0147", "call [phone] or [phone]"),
        ("座机 010-62345678", "座机 [phone]"),
        ("身份证11010519491231002X有效", "身份证[id_number]有效"),  # the worked example of GB 11643-1999
        ("110105194912310021 has the wrong check digit", "110105194912310021 has the wrong check digit"),
        ("card 4111 1111 1111 1111 expires", "card [card] expires"),
        ("order 4111 1111 1111 1112", "order 4111 1111 1111 1112"),
        ("host 192.168.10.254 and 2001:db8::8a2e:370:7334", "host [ip_address] and [ip_address]"),
        ("version 1.2.3.400 at 12:30:45", "version 1.2.3.400 at 12:30:45"),
        ("车牌京A12345，新能源粤B D12345", "车牌[licence_plate]，新能源[licence_plate]"),
        ("车牌沪AD12345和粤B·12F45", "车牌[licence_plate]和[licence_plate]"),
        ("The speed limit is 120 km/h on route 66 since 2015-03-07.", None),
        ("3.14159265358979 and 1234567 pieces for 12,000 yuan", None),
        ("北京A座12层，京东的订单", None),
    ],
)
def test_texts(text: str, expected: str | None) -> None:
    assert personal.mask(text, ALL)[0] == (text if expected is None else expected)


def test_only_the_kinds_of_the_rule_are_masked_and_all_are_counted() -> None:
    text = "a@b.org, c@d.org, 13812345678"
    assert personal.mask(text, {"email": "mask"}) == ("[email], [email], 13812345678", Counter(email=2))
    value = {
        "n": 3,
        "list": [text, None],
        "PatientName": "Wang^Li",
        "patient_id": "",
        "n2": {"StudyDate": "20200101"},
    }
    cleaned, counts = personal.clean(value, ALL)
    assert cleaned == {
        "n": 3,
        "list": ["[email], [email], [phone]", None],
        "PatientName": "[identity_tags]",
        "patient_id": "",
        "n2": {"StudyDate": "[identity_tags]"},
    }
    assert counts == Counter(email=2, phone=1, identity_tags=2)


@pytest.mark.parametrize("name", ["PatientName", "patient_birth_date", "Referring Physician's Name", "GPSLatitude",
                                  "InstitutionName", "AccessionNumber", "StudyInstanceUID"])  # fmt: skip
def test_identity_tags(name: str) -> None:
    assert personal.identity_tag(name)


@pytest.mark.parametrize("name", ["symbol", "patients", "Modality", "BodyPartExamined", "name", "date", "WindowWidth"])
def test_other_tags(name: str) -> None:
    assert not personal.identity_tag(name)


@given(st.text(alphabet="0123456789", min_size=1, max_size=18))
def test_luhn_finds_every_single_wrong_digit(digits: str) -> None:
    (last,) = [d for d in "0123456789" if personal.luhn(digits + d)]
    right = digits + last
    for at in range(len(right)):
        wrong = right[:at] + str((int(right[at]) + 1) % 10) + right[at + 1 :]
        assert not personal.luhn(wrong)


def test_file_metadata_is_named_and_does_not_enter(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x013B], exif[0x0132], exif[0xA431] = "Wang Li", "2020:01:01 10:00:00", "SN-77"  # artist, date, body serial
    exif.get_ifd(0x8825)[1] = "N"
    photo = Image.new("RGB", (40, 30), "green")
    photo.save(tmp_path / "a.jpg", exif=exif, comment=b"taken by Wang")
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "Wang Li")
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    photo.save(tmp_path / "b.png", pnginfo=text)
    photo.save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"no picture")
    assert metadata.kinds(tmp_path / "a.jpg") == ["date", "gps", "name", "serial_number", "text"]
    assert metadata.kinds(tmp_path / "b.png") == ["text", "xmp"]
    assert metadata.kinds(tmp_path / "c.png") == metadata.kinds(tmp_path / "d.png") == []


def page(*lines: str) -> Image.Image:
    image = Image.new("RGB", (640, 60 * len(lines) + 20), "white")
    font = ImageFont.load_default(28)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((20, 60 * number + 20), line, font=font, fill="black")
    return image


def test_personal_boxes_are_painted_over_and_no_others() -> None:
    image = page("tel 13812345678", "contrast 40 ml")
    boxes = [((15.0, 15.0, 400.0, 60.0), "tel 13812345678"), ((15.0, 75.0, 400.0, 118.0), "contrast 40 ml")]
    painted, counts = burned_in.masked(image, lambda _: boxes, {"phone": "mask"})
    assert counts == Counter(phone=1)
    assert len(set(painted.crop((15, 15, 400, 60)).get_flattened_data())) == 1
    assert painted.crop((0, 70, 640, 140)).tobytes() == image.crop((0, 70, 640, 140)).tobytes()
    same, none = burned_in.masked(image, lambda _: boxes, {"email": "mask"})
    assert same is image
    assert not none
    outside, _ = burned_in.masked(image, lambda _: [((-50.0, -9.0, 9e3, 9e3), "a@b.org")], ALL)
    assert outside.size == image.size
    for bad in (7, [1], [((1, 2), "x")], [((1, 2, 3, 4), None)]):
        with pytest.raises(UserError, match="gave no list"):
            burned_in.masked(image, lambda _, bad=bad: bad, ALL)  # type: ignore[arg-type,misc]


@pytest.mark.skipif(find_spec("rapidocr") is None, reason="needs the extra `ocr` (rapidocr, onnxruntime)")
def test_the_shipped_reader_finds_and_hides() -> None:
    image = page("Patient tel. 13812345678", "Contrast 40 ml", "mail li.wei@example.org")
    painted, counts = burned_in.masked(image, burned_in.rapid, ALL)
    assert counts == Counter(phone=1, email=1)
    (left,) = burned_in.rapid(painted)
    assert left[1].replace(" ", "") == "Contrast40ml"


@pytest.mark.skipif(find_spec("rapidocr") is not None, reason="the extra `ocr` is installed")
def test_without_the_extra_the_reader_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"open4ov\[ocr\]"):
        burned_in.rapid(page("x"))
