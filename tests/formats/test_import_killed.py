"""`kill -9` during import, export and documents: nothing half made is taken for whole, and the same command goes on.

A driver process forks a child for each place where a file comes into being; the child is killed there by SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov.data import imported
from open4ov.documents.build import build
from open4ov.documents.extract import Settings
from open4ov.errors import UserError
from open4ov.formats.convert import export_set, import_set, located
from open4ov.progress import Quiet
from open4ov.review.collection import Collection
from open4ov.store import UNFINISHED, ImageStore

DRIVER = """
import os, shutil, signal, sys
from pathlib import Path
from open4ov.documents.build import build
from open4ov.documents.extract import Settings
from open4ov.formats.convert import export_set, import_set
from open4ov.progress import Quiet

what, source, root = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])

def work(out):
    if what == "import":
        import_set(source, out)
    elif what == "export":
        export_set(source, out, "llava")
    else:
        build([source], out, Settings(), None, 3, Quiet())

def killed_at(last):
    count = 0
    def counting(original):
        def call(*given, **named):
            nonlocal count
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*given, **named)
        return call
    os.replace, os.unlink, shutil.copyfile = map(counting, (os.replace, os.unlink, shutil.copyfile))

number = 0
while True:
    number += 1
    child = os.fork()
    if not child:
        killed_at(number)
        work(root / str(number))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(number, os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status), flush=True)
    if not os.WIFSIGNALED(status):
        break
"""


def kill(what: str, source: Path, root: Path) -> list[Path]:
    """The output folders of runs killed at each place in turn."""
    root.mkdir()
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER, what, str(source), str(root)],
        capture_output=True, text=True, env={**os.environ, **paths}, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ends = [tuple(map(int, line.split())) for line in ran.stdout.splitlines()]
    assert [end for _, end in ends] == [int(signal.SIGKILL)] * (len(ends) - 1) + [0], ran.stderr
    return [root / str(number) for number, end in ends if end]


def files(folder: Path, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {name: path.read_bytes() for path in found if (name := path.relative_to(folder).as_posix()) not in but}


def refused(folder: Path) -> bool:
    """Whether everyone who would read the set says that it is not finished."""
    readers = (located, imported.is_set, Collection)
    said: list[bool] = []
    for read in readers:
        try:
            read(folder)
            said.append(False)
        except UserError as error:
            said.append("is not finished; give the command that makes it again" in str(error))
    assert len(set(said)) == 1
    return said[0]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for name in ("a", "b", "c"):
        Image.new("RGB", (20, 10), (ord(name), 0, 0)).save(folder / f"{name}.png")
        said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": name}]
        rows.append({"image": f"{name}.png", "conversations": said})
    rows.append({"image": "gone.png", "conversations": []})
    (folder / "train.json").write_text(json.dumps(rows))
    return folder


def test_a_killed_import_is_no_set_and_goes_on(source: Path, tmp_path: Path) -> None:
    import_set(source, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    outs = kill("import", source, tmp_path / "killed")
    assert len(outs) >= 10
    for out in outs:
        told = {name: data for name, data in files(out).items() if Path(name).name == name and name in whole}
        assert all(data == whole[name] for name, data in told.items()), "what has its name is whole"
        if (out / UNFINISHED).exists():
            assert refused(out)
        else:
            assert {"samples.parquet", "skipped.jsonl"} <= set(told), "only import.json may be missing"
        if (out / "import.json").exists():
            continue
        import_set(source, out)
        assert files(out) == whole


def test_a_killed_export_leaves_nothing_in_its_place(source: Path, tmp_path: Path) -> None:
    import_set(source, tmp_path / "set")
    export_set(tmp_path / "set", tmp_path / "whole", "llava", name="n")
    outs = kill("export", tmp_path / "set", tmp_path / "killed")
    assert len(outs) >= 4
    for out in outs:
        if out.exists():  # killed after the last rename
            assert files(out, ("README.md",)) == files(tmp_path / "whole", ("README.md",))
            continue
        export_set(tmp_path / "set", out, "llava", name="n")
        assert files(out) == files(tmp_path / "whole")
    left = [path.name for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]
    assert all(name.endswith(".lock") for name in left), "what was left is gone"


@pytest.mark.slow
def test_killed_documents_are_no_set_and_go_on(tmp_path: Path) -> None:
    book = tmp_path / "book"
    (book / "images").mkdir(parents=True)
    for seed, name in enumerate("ab"):
        Image.effect_noise((200, 150), 40 + 60 * seed).convert("RGB").save(book / "images" / f"{name}.png")
    entries: list[dict[str, Any]] = [
        {"type": "image", "img_path": "images/a.png", "image_caption": ["Figure 1. The tank"], "page_idx": 0},
        {"type": "text", "text": "1. What is the colour of the circle shown in the picture?", "page_idx": 1},
        {"type": "image", "img_path": "images/b.png", "image_caption": ["Figure 2. The circle"], "page_idx": 1},
        {"type": "list", "sub_type": "text", "list_items": ["A. red", "B. pink"], "page_idx": 1},
        {"type": "text", "text": "Answer: B", "page_idx": 1},
        {"type": "image", "img_path": "images/none.png", "page_idx": 2},
    ]
    listed = book / "x_content_list.json"
    listed.write_text(json.dumps(entries))
    build([listed], tmp_path / "whole", Settings(), None, 3, Quiet())
    whole = files(tmp_path / "whole")
    assert json.loads(whole["report.json"])["documents"][0]["faults"], "one picture is not there"
    outs = kill("documents", listed, tmp_path / "killed")
    assert len(outs) >= 10
    for out in outs:
        assert refused(out)
        build([listed], out, Settings(), None, 3, Quiet())
        assert not refused(out)
        assert files(out) == whole
        assert all(ImageStore(out / "image-store").get(Path(name).stem) for name in whole if name.endswith(".png"))
