"""Every kind of bad input, through the command line: exit code 2 and one clear message, never a traceback.

The command runs in this process (`inside`), which has everything loaded; in one of its own where the process matters.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import SMALL, Inside, inside, open4ov
from test_store import png, refused

__all__ = ["inside"]  # the fixture

Fails = Callable[..., str]


def refusal(done: subprocess.CompletedProcess[str], message: str) -> str:
    """What a refused command said, which begins with `message`."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(f"open4ov: {message}"), done.stderr
    return done.stderr


@pytest.fixture
def fails(inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Runs the command in `tmp_path` and gives its message."""
    monkeypatch.chdir(tmp_path)
    return lambda message, *arguments: refusal(inside(*arguments), message)


@pytest.mark.slow
def test_a_process_of_its_own_ends_likewise(tmp_path: Path) -> None:
    recipe(tmp_path, SMALL + "sfft: {}\n")
    told = refusal(open4ov("run", "r.yaml", "--out", "out", cwd=tmp_path), "r.yaml, line 4: sfft: unknown key 'sfft'")
    assert told.count("\n") == 1
    photo(tmp_path, "x.png", b"")
    refusal(open4ov("ask", "nano", "--image", "x.png", "What?", cwd=tmp_path), "x.png: ")


def recipe(folder: Path, text: str = SMALL) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL + "sfft: {}\n", "r.yaml, line 4: sfft: unknown key 'sfft'; did you mean 'sft'?"),
        (SMALL + "rl: {steps: many}\n", 'r.yaml, line 4: rl.steps: expected integer, got "many" (text)'),
        (
            SMALL + "rl: {length_weight: 0, length_max: 20}\n",
            "r.yaml, line 4: rl.length_max: has no effect: rl.length_weight is 0",
        ),
        ("", "r.yaml: the file is empty"),
        ("name: [", "r.yaml, line 1, column 8: not valid YAML"),
    ],
)
def test_recipes(tmp_path: Path, text: str, message: str, fails: Fails) -> None:
    recipe(tmp_path, text)
    told = fails(message, "run", "r.yaml", "--out", "out")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_arguments_of_run(tmp_path: Path, fails: Fails) -> None:
    recipe(tmp_path)
    run = ("run", "r.yaml", "--out", "out")
    fails("none.yaml: no such file", "run", "none.yaml", "--out", "out")
    fails("--set rl.stepz: unknown key 'stepz'; did you mean 'steps'?", *run, "--set", "rl.stepz=3")
    fails("--until dta: there is no such stage; did you mean 'data'?", *run, "--until", "dta")
    fails("--json and --quiet contradict each other", *run, "--json", "--quiet")
    fails("model: no shipped base model and no folder is called 'nanoo'", *run, "--set", "model=nanoo")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------- run directories


def test_run_directories(tmp_path: Path, fails: Fails) -> None:
    recipe(tmp_path)
    until = ("--until", "images", "--quiet")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text(json.dumps({"recipe": {"name": "elsewhere"}}))
    fails("other: holds a run of the recipe 'elsewhere', and this recipe is 'small'", "run", "r.yaml", "--out", "other",
          *until)  # fmt: skip
    for damaged in (b"{", b"[]", b'{"recipe": []}', b"\xff\xfe"):
        (tmp_path / "other" / "run.json").write_bytes(damaged)
        fails("other/run.json: damaged", "run", "r.yaml", "--out", "other", *until)
    name = "x" * 300
    fails(f"{name}: cannot be written: File name too long", "run", "r.yaml", "--out", name, *until)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("x")
    fails("home: no run directory, yet not empty (holds letter.txt)", "run", "r.yaml", "--out", "home", *until)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]
    fails("r.yaml: cannot be written", "run", "r.yaml", "--out", "r.yaml", *until)


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    """No file may grow beyond 16 KiB, which fails real writes as a full disk does (that finished stages stay: see
    test_pipeline.py)."""
    recipe(tmp_path)
    code = (
        "import resource, sys; from open4ov.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); sys.argv = ['open4ov', *sys.argv[1:]]; main()"
    )
    command = [sys.executable, "-c", code, "run", "r.yaml", "--out", "out", "--until", "images", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("open4ov: out: the disk is full (in stage images); finished stages are kept. Free")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "images").exists()
    assert open4ov("run", "r.yaml", "--out", "out", "--until", "images", "--quiet", cwd=tmp_path).returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path, fails: Fails) -> None:
    recipe(tmp_path)
    (tmp_path / "locked").mkdir(mode=0o500)
    fails("locked/out: cannot be written", "run", "r.yaml", "--out", "locked/out", "--quiet")


# ---------------------------------------------------------------------------------------------- images


PHOTOS = """
name: photos
images: {vertical: photos, general_count: 0}
"""


def photo(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)


def test_missing_and_empty_image_folders(tmp_path: Path, fails: Fails) -> None:
    recipe(tmp_path, PHOTOS)
    run = ("run", "r.yaml", "--out", "out", "--until", "images", "--quiet")
    fails("images.vertical: photos is not a folder", *run)
    (tmp_path / "photos").mkdir()
    fails("images: no usable image in photos: it is empty", *run)
    photo(tmp_path / "photos", "notes.txt", b"no image")
    fails("images: no usable image in photos (notes.txt: ", *run)
    assert not (tmp_path / "out" / "images").exists()


def test_images_that_cannot_be_used_are_counted_and_listed_with_the_reason(
    tmp_path: Path, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe(tmp_path, PHOTOS)
    bad = refused()
    for kind, (data, _) in bad.items():
        photo(tmp_path / "photos", f"{kind.replace(' ', '-')}.png", data)
    photo(tmp_path / "photos", "good.png", png(32, 32, 16, 0, (b"\x00" + b"\x80\x00" * 32) * 32))
    done = inside("run", "r.yaml", "--out", "out", "--until", "images", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    skipped = json.loads((tmp_path / "out" / "images" / "skipped.json").read_text())
    assert len(skipped) == len(bad)
    for kind, (_, reason) in bad.items():
        (entry,) = [entry for entry in skipped if f"{kind.replace(' ', '-')}.png" in json.dumps(entry)]
        assert reason in json.dumps(entry), kind
    assert json.loads((tmp_path / "out" / "images" / "summary.json").read_text())["skipped"] == len(bad)


def test_the_pixel_limit_is_the_recipes(tmp_path: Path, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe(tmp_path, PHOTOS.replace("general_count: 0", "general_count: 0, max_pixels: 1000"))
    photo(tmp_path / "photos", "small.png", png(31, 32, 8, 0, (b"\x00" + b"\x80" * 31) * 32))
    photo(tmp_path / "photos", "large.png", png(32, 32, 8, 0, (b"\x00" + b"\x80" * 32) * 32))
    assert inside("run", "r.yaml", "--out", "out", "--until", "images", "--quiet").returncode == 0
    (entry,) = json.loads((tmp_path / "out" / "images" / "skipped.json").read_text())
    assert "large.png" in json.dumps(entry)
    assert "over-large: 32 x 32 pixels; the limit is 1000 pixels in all (images.max_pixels)" in json.dumps(entry)


def test_images_without_annotations_under_catalog(tmp_path: Path, fails: Fails) -> None:
    recipe(tmp_path, PHOTOS)
    photo(tmp_path / "photos", "one.png", png(32, 32, 8, 0, (b"\x00" + b"\x80" * 32) * 32))
    told = fails("", "run", "r.yaml", "--out", "out", "--until", "data", "--quiet")
    assert "annotation" in told
    assert "catalog" in told
    assert (tmp_path / "out" / "images" / "stage.json").exists()
    assert not (tmp_path / "out" / "data").exists()


# ---------------------------------------------------------------------------------------------- ask, table


def test_ask(tmp_path: Path, tiny_dir: Path, fails: Fails) -> None:
    for kind in ("empty", "text", "truncated PNG", "animated GIF", "bomb"):
        data, reason = refused()[kind]
        photo(tmp_path, "x.png", data)
        assert reason in fails("x.png: ", "ask", tiny_dir, "--image", "x.png", "What?")
    fails("none.png: no such file", "ask", tiny_dir, "--image", "none.png", "What?")
    fails("the question is empty", "ask", tiny_dir, " ")
    fails("the question is not UTF-8 text", "ask", tiny_dir, "\udcff")
    os.mkfifo(tmp_path / "pipe.png")
    fails("pipe.png: is no regular file", "ask", tiny_dir, "--image", "pipe.png", "What?")
    fails("model: no shipped base model and no folder is called 'nowhere'", "ask", "nowhere", "What?")
    (tmp_path / "bare").mkdir()
    fails("model: bare has no config.json", "ask", "bare", "What?")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    fails("run: this run has no finished model yet", "ask", "run", "What?")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("{}"),
        lambda folder: (folder / "tokenizer.json").write_text("[]"),
        lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"short"),
    ],
    ids=["config is no JSON", "config is empty", "tokenizer is none", "weights cut short"],
)
def test_damaged_models(tmp_path: Path, tiny_dir: Path, damage: Callable[[Path], object], fails: Fails) -> None:
    shutil.copytree(tiny_dir, tmp_path / "model")
    damage(tmp_path / "model")
    assert "model" in fails("", "ask", "model", "What?")


def test_table(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "run").mkdir()
    fails("run: has no report yet", "table", "run")
    (tmp_path / "run" / "report").mkdir()
    for damaged in ("{", "[]", "{}"):
        (tmp_path / "run" / "report" / "table.json").write_text(damaged)
        fails("run/report/table.json: damaged", "table", "run")


def test_compare(tmp_path: Path, fails: Fails) -> None:
    fails("--model dpp: there is no such model; did you mean 'dpo'?", "compare", "a", "--against", "b", "--model",
          "dpp")  # fmt: skip
    folder = tmp_path / "run" / "evaluate_base"
    folder.mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    (folder / "results.json").write_text('{"seed": 0, "items": 1, "samples": 1, "confidence": 0.95}')
    (folder / "answers.parquet").write_bytes(b"short")
    fails("run/evaluate_base/answers.parquet: is no whole Parquet file; delete", "compare", "run")


@pytest.mark.slow
def test_a_lost_or_changed_image_is_made_anew_as_the_message_says(tmp_path: Path) -> None:
    recipe(tmp_path)
    run = ("run", "r.yaml", "--out", "out", "--quiet", "--set", "images.per_symbol=1", "--until")
    assert open4ov(*run, "images", cwd=tmp_path).returncode == 0
    one = min((tmp_path / "out" / "image-store").rglob("*.png"))
    whole = one.read_bytes()
    one.unlink()
    told = refusal(open4ov(*run, "data", cwd=tmp_path), "out/image-store/")
    assert "is missing; delete out/images too" in told
    shutil.rmtree(tmp_path / "out" / "images")
    assert open4ov(*run, "data", cwd=tmp_path).returncode == 0
    assert one.read_bytes() == whole


def test_what_is_converted_is_not_refused(tmp_path: Path, tiny_dir: Path, inside: Inside) -> None:
    """CMYK, 16 bits, palette, transparency and EXIF rotation go all the way to an answer."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    made: list[bytes] = [png(32, 32, 16, 0, (b"\x00" + b"\x80\x00" * 32) * 32)]
    for image, kind in ((noise.convert("CMYK"), "JPEG"), (noise.convert("P"), "PNG"), (noise.convert("LA"), "PNG")):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        made.append(buffer.getvalue())
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG", exif=exif)
    arguments: list[str | Path] = []
    for index, data in enumerate([*made, buffer.getvalue()]):
        photo(tmp_path, f"{index}.img", data)
        arguments += ["--image", tmp_path / f"{index}.img"]
    done = inside("ask", tiny_dir, *arguments, "What?", "--max-tokens", "2")
    assert (done.returncode, done.stderr) == (0, "")
