"""Tar shards from strangers: what leads out, links, devices, bombs and damage are refused, the rest is read."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4ov.errors import UserError
from open4ov.formats import tar
from open4ov.formats.convert import import_set
from open4ov.store import read_samples


def png(colour: int = 7) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


Entry = tuple[tarfile.TarInfo, bytes]


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def archive(path: Path, members: list[Entry], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for info, data in members:
            file.addfile(info, io.BytesIO(data))
    return path


def skipped(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text("utf-8").splitlines()]


def good(key: str, question: str = "Which?", colour: int = 7) -> list[Entry]:
    row = {"question": question, "answer": "一", "source_url": "x"}
    return [member(f"{key}.png", png(colour)), member(f"{key}.json", json.dumps(row).encode())]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_samples_stand_together_by_key(tmp_path: Path, mode: str) -> None:
    members = [
        *good("a/000", "one?"),
        member("a/001.10.png", png(10)),
        member("a/001.2.png", png(2)),
        member("a/001.json", json.dumps({"messages": [{"role": "user", "content": "two"}]}).encode()),
        member("b/002.png", png(3)),
        member("b/002.txt", "一只猫".encode()),
        member("b/002.cls", b"4"),
        member("b/003.json", b'{"question": "no image?", "answer": "x"}'),
    ]
    source = archive(tmp_path / ("s.tar" if mode == "w" else f"s.tar.{mode[2:]}"), members, mode)
    done = import_set(source, tmp_path / "in")
    assert (done.format, done.samples, done.refused) == ("webdataset", 4, 0)
    one, two, three, four = read_samples(tmp_path / "in" / "samples.parquet")
    assert (one.messages[0].text, one.answer, one.extra["fields"]) == ("one?", "一", {"source_url": "x"})
    store = tmp_path / "in" / "image-store"
    first = Image.open(store / two.images[0][:2] / f"{two.images[0]}.png")
    assert first.getpixel((0, 0)) == (2, 0, 0), "2 before 10"
    assert [part.index for part in two.messages[0].content] == [0, 1, None]
    assert (three.scene, three.extra["fields"], three.messages) == ({"caption": "一只猫"}, {"cls": "4"}, [])
    assert four.images == []
    assert one.steps[0].model_dump(exclude_none=True) == {
        "stage": "import", "by": "pairs", "file": source.name, "place": "sample a/000",
    }  # fmt: skip


def test_what_has_no_business_in_a_shard_is_refused_and_the_rest_read(tmp_path: Path) -> None:
    members = [
        *good("000"),
        member("../evil.png", png()),
        member("x/../../evil.png", png()),
        member("/etc/evil.png", png()),
        member("..\\evil.png", png()),
        member("001.png", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member("001.json", kind=tarfile.LNKTYPE, link="000.json"),
        member("pipe.png", kind=tarfile.FIFOTYPE),
        member("null.png", kind=tarfile.CHRTYPE),
        member("dir", kind=tarfile.DIRTYPE),
        member("002.png", b"\x89PNG\r\n\x1a\n broken"),
        member("002.json", b'{"question": "?"}'),
        member("003.json", b"{"),
        member("004.png", png()),
        member("004.npy", b"\x93NUMPY\xff"),
        *good("005"),
    ]
    done = import_set(archive(tmp_path / "s.tar", members), tmp_path / "in")
    assert done.samples == 3
    told = {entry["place"]: entry["reason"] for entry in skipped(tmp_path / "in")}
    assert {place.split(" ", 1)[1] for place in told} == {
        "../evil.png", "x/../../evil.png", "/etc/evil.png", "..\\evil.png", "001.png", "001.json", "pipe.png",
        "null.png", "002", "003", "004",
    }  # fmt: skip
    assert "leads out of the archive" in told["member ../evil.png"]
    assert told["member /etc/evil.png"] == "an absolute name"
    assert told["member 001.png"] == "a link to /etc/passwd; links are not followed"
    assert "device" in told["member null.png"]
    assert "damaged" in told["sample 002"]
    assert "no JSON" in told["sample 003"]
    assert not list(tmp_path.rglob("evil*"))
    with pytest.raises(UserError, match=r"s\.tar, member \.\./evil\.png: a name that leads out"):
        import_set(tmp_path / "s.tar", tmp_path / "strict", strict=True)


def test_a_row_in_a_shard_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "d").mkdir()
    for name in ("../secret.png", str(tmp_path / "secret.png"), f"file://{tmp_path}/secret.png", "http://x/y.png"):
        row = json.dumps({"question": "?", "answer": "!", "image": name}).encode()
        archive(tmp_path / "d" / "s.tar", [member("0.json", row)])
        done = import_set(tmp_path / "d" / "s.tar", tmp_path / f"in{len(name)}")
        assert done.samples == 0
        assert any("outside" in reason or "not fetched" in reason for reason in done.left_out)


def test_bombs_end_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_MEMBER", 2**20)
    monkeypatch.setattr(tar, "MAX_RATIO", 20)
    zeros = member("bomb.bin", bytes(2**25))
    packed = archive(tmp_path / "bomb.tar.gz", [*good("000"), zeros, *good("001")], "w:gz")
    found = list(tar.members(packed))
    assert [entry.name for entry in found if entry.data is not None] == ["000.png", "000.json"]
    assert "33554432 bytes; the limit is 1048576" in found[2].reason
    assert "unpacks to more than 20 times its size" in found[3].reason
    plain = list(tar.members(archive(tmp_path / "large.tar", [zeros, *good("001")])))
    assert [entry.data is not None for entry in plain] == [False, True, True], "passed over, where it costs nothing"


def test_a_header_that_never_ends_ends_the_archive(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x.png")
    info.pax_headers = {"comment": "x" * (3 * 2**20)}
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(info, io.BytesIO())
    (only,) = tar.members(tmp_path / "s.tar")
    assert "headers of more than" in only.reason


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    whole = archive(tmp_path / "s.tar", [*good("000"), *good("001")]).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[:1800])
    assert list(tar.members(cut))[-1].reason.startswith(("the archive ends", "the archive is damaged"))
    header = tmp_path / "header.tar"
    header.write_bytes(whole[:1024] + b"\xff" * 512 + whole[1536:])
    found = list(tar.members(header))
    assert found[0].data is not None
    assert "damaged" in found[-1].reason
    (tmp_path / "no.tar").write_bytes(b"this is no archive" * 100)
    assert "damaged" in next(iter(tar.members(tmp_path / "no.tar"))).reason
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(whole)[:-40])
    assert "damaged" in list(tar.members(tmp_path / "cut.tar.gz"))[-1].reason


@given(at=st.integers(0, 3000), patch=st.binary(min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_no_damage_raises(tmp_path_factory: pytest.TempPathFactory, at: int, patch: bytes) -> None:
    path = tmp_path_factory.mktemp("t") / "s.tar"
    data = archive(path, [*good("000"), *good("001")]).read_bytes()
    path.write_bytes(data[:at] + patch + data[at + len(patch) :])
    for entry in tar.members(path):
        assert entry.data is not None or entry.reason
