"""The page: self-contained, escaped, the same twice; what it writes beside it; and how a browser takes it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov.report import page
from open4ov.report.page import minutes


class Links(HTMLParser):
    """What a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.loaded += [named[key] or "" for key in ("src", "href", "xlink:href") if key in named]


def test_the_page_loads_nothing_from_outside(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    links = Links()
    links.feed(html)
    assert links.loaded
    assert all(link.startswith(("data:", "#")) for link in links.loaded)
    assert "script" not in links.tags
    assert "@import" not in html
    assert not re.search(r"url\((?!['\"]?#)", html)


def test_words_of_answers_are_escaped(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    assert "what is &lt;b&gt;naming&lt;/b&gt;?" in html
    assert "<b>naming</b>" not in html
    assert "a &lt;test&gt; run" in html


def test_the_judges_skill_is_shown_with_its_interval(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    assert "<th>judge_1:&lt;rules&gt;</th><td>70.0 %<small>39.7 to 89.2 %, 7 of 10</small></td><td></td>" in html
    assert "5.0 % of the samples judged are defective" in html


def test_gallery_has_right_and_wrong_answers_and_missing_pictures(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    assert html.count('<div class="card">') == 27
    assert html.count("no picture was given") == 3
    assert 'class="answer right"' in html
    assert 'class="answer wrong"' in html


def test_examples_can_be_asked(reported: Path) -> None:
    examples = json.loads((reported / "examples" / "examples.json").read_text())
    assert len(examples) == 3
    for example in examples:
        assert set(example) == {"image", "question", "answer"}
        assert Image.open(reported / "examples" / example["image"]).size == (96, 96)


def test_the_same_run_gives_the_same_page(finished: Any) -> None:
    page.run(finished)
    first = {path.name: path.read_bytes() for path in finished.out.rglob("*") if path.is_file()}
    shutil.rmtree(finished.out)
    finished.out.mkdir()
    page.run(finished)
    assert first == {path.name: path.read_bytes() for path in finished.out.rglob("*") if path.is_file()}


def test_a_run_without_data_report_or_known_curves_still_has_a_page(finished: Any) -> None:
    del finished.inputs["data"]
    for name in page.TRAININGS:
        (finished.inputs[name] / "curve.json").write_text(json.dumps([{"step": 1, "colour": 3}]))
    page.run(finished)
    html = (finished.out / "report.html").read_text()
    assert "<h2>Training</h2>" not in html
    assert "<h2>Data construction</h2>" not in html


def test_evaluations_of_different_questions_are_refused(finished: Any) -> None:
    path = finished.inputs["evaluate_dpo"] / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 4}))
    with pytest.raises(ValueError, match="dpo used another seed"):
        page.run(finished)


@pytest.mark.parametrize(
    ("seconds", "wanted"), [(5.04, "5.0 s"), (59.96, "1 min 00 s"), (65.2, "1 min 05 s"), (3599.7, "60 min 00 s")]
)
def test_minutes(seconds: float, wanted: str) -> None:
    assert minutes(seconds) == wanted


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_it_without_complaint(reported: Path, tmp_path: Path) -> None:
    assert CHROMIUM
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000", "--dump-dom",
        (reported / "report.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert re.findall(r".*CONSOLE.*", done.stderr) == []
    table = done.stdout[done.stdout.index('<table id="results">') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr") == 1 + 20 + 3
    assert "DPO" in table
    assert done.stdout.count("<svg") == 9
