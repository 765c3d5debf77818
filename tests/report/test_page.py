"""The page: self-contained, escaped, the same twice; what it writes beside it; and how a browser takes it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from finished_runs import QUESTIONS, SUITES, copied
from PIL import Image

from open4ov.report import page
from open4ov.report.content import TRAININGS
from open4ov.report.page import minutes


def embedded(html: str) -> dict[str, Any]:
    """The gallery's data in a page."""
    found = re.search(r'<script type="application/json" id="cases-data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


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
    assert not {"iframe", "object", "embed", "form"} & set(links.tags)
    assert "@import" not in html
    assert not re.search(r"url\((?!['\"]?(#|data:))", html)


def test_names_that_the_page_gives_of_the_code_are_there(reported: Path) -> None:
    named = re.findall(r"<code>(open4ov\.[\w.]+)</code>", (reported / "report.html").read_text())
    assert named
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name


def test_the_page_tells_how_responses_differ(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    for column in ("distinct, count", "utility, percent", "entropy of answers, bits", "self-similarity, cosine"):
        assert f"<th>{column}</th>" in html


def test_words_of_answers_are_escaped(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    assert re.search(r"what is &lt;b&gt;\w+&lt;/b&gt;\?", html)
    assert not re.search(r"<b>\w+</b>\?", html)
    assert "a &lt;test&gt; run" in html


def test_the_judges_skill_is_shown_with_its_interval(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    assert "<th>judge_1:&lt;rules&gt;</th><td>70.0 %<small>39.7 to 89.2 %, 7 of 10</small></td><td></td>" in html
    assert "5.0 % of the samples judged are defective" in html


def test_cases_are_told_of_in_both_directions(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    part = html[html.index('<h2 id="cases">') : html.index('<h2 id="pictures">')]
    told = re.findall(r"Of (\d+) questions <span class=\"up\">(\d+) for the better</span>", part)
    vertical = [case["answers"] for case in embedded(html)["cases"] if case["suite"].startswith("in_car")]
    better = sum(case[-1][0][1] > case[0][0][1] for case in vertical)
    assert (str(len(vertical)), str(better)) == told[0]
    assert "A picture that is not there" in part
    assert 'class="answer right"' in part
    assert 'class="answer wrong"' in part
    assert "no picture was given" in part


def test_the_gallery_has_every_question_and_answer(reported: Path) -> None:
    data = embedded((reported / "report.html").read_text())
    assert [model["title"] for model in data["models"]][-2:] == ["RL", "DPO"]
    assert len(data["cases"]) == QUESTIONS
    assert data["left_out"] == 0
    case = next(case for case in data["cases"] if case["suite"] == "naming")
    assert data["texts"][case["question"]] == "Question 0: what is <b>naming</b>?"
    assert len(case["answers"]) == 6
    assert data["pictures"][case["pictures"][0]].startswith("data:image/png;base64,")
    assert sum(case["kept"] for case in data["cases"]) == (len(SUITES) - 3) * 8 + 3 * 12  # three have no pictures


def test_coverage_costs_and_fates_are_told(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    assert "Domains: 1 of 3 second-level labels have samples" in html
    assert "What &lt;it&gt; means: 12 samples, 2 topics" in html
    assert html.index("<li>Another: 9</li>") < html.index("<li>A topic: 7</li>")
    assert "9,000 read, 500 written" in html
    assert '<tr class="group"><th>together</th><td>30</td><td>9,000</td><td>500</td><td>0.25</td></tr>' in html
    assert "<small>84 questions</small>" in html  # the seven suites of general ability


def test_the_page_is_in_one_piece_and_says_nothing_of_being_partial(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    assert "partial" not in html.split("<body>")[1].split("<script")[0]
    for name in ("radar", "trajectory", "abilities", "changes", "lengths", "diversity", "curve-rl", "labels-domain"):
        assert f'<figure id="figure-{name}">' in html
    ids = re.findall(r' id="([^"]+)"', re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL))
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]+)"', html)
    assert set(links) <= set(ids)


def test_examples_can_be_asked(reported: Path) -> None:
    examples = json.loads((reported / "examples" / "examples.json").read_text())
    assert len(examples) == 3
    for example in examples:
        assert set(example) == {"image", "question", "answer"}
        assert Image.open(reported / "examples" / example["image"]).size == (96, 96)


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(original: Any, tmp_path: Path) -> None:
    finished = copied(original, tmp_path)
    page.run(finished)
    first = {path.name: path.read_bytes() for path in finished.out.rglob("*") if path.is_file()}
    shutil.rmtree(finished.out)
    finished.out.mkdir()
    page.run(finished)
    assert first == {path.name: path.read_bytes() for path in finished.out.rglob("*") if path.is_file()}


def test_a_run_without_data_report_or_known_curves_still_has_a_page(finished: Any) -> None:
    del finished.inputs["data"]
    for name in TRAININGS:
        (finished.inputs[name] / "curve.json").write_text(json.dumps([{"step": 1, "colour": 3}]))
    page.run(finished)
    html = (finished.out / "report.html").read_text()
    assert ">Training</h2>" not in html
    assert "Data construction</h3>" not in html
    assert "Label coverage" not in html


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
