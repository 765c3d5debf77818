"""From documents to judged samples, with a real endpoint and without one; MinerU's lists; the command; going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("pypdfium2", reason="needs the extra: pip install 'open4ov[documents]'")

from documents.compose import Sheet, photo, save
from documents.pages_known import article, paper
from mllm.endpoint import Raw, completion, endpoint

from open4ov.cli_documents import app
from open4ov.documents.build import build
from open4ov.documents.extract import Settings
from open4ov.errors import UserError
from open4ov.formats.convert import export_set
from open4ov.mllm.ask import Asker, Prompt, ProviderError
from open4ov.progress import Quiet
from open4ov.recipe import DataSection
from open4ov.sample import Sample
from open4ov.store import ImageStore, read_samples
from open4ov.trace import trace


def asker(url: str, place: Path) -> Asker:
    """As the command makes it: what was asked is kept in `place`."""
    provider = {"kind": "openai", "base_url": url, "model": "m", "api_key_env": "DOCUMENTS_KEY"}
    provider |= {"price": {"input": 2.0, "output": 10.0}, "cache_as": "m"}
    return Asker(DataSection.model_validate({"providers": {"default": provider}}), place=place)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCUMENTS_KEY", "k")


def kept(out: Path) -> list[Sample]:
    return read_samples(out / "samples.parquet")


def rejected(out: Path) -> dict[str, str]:
    return {sample.messages[0].text: sample.extra["reasons"][0] for sample in read_samples(out / "rejected.parquet")}


def test_printed_questions_without_a_model(tmp_path: Path) -> None:
    known = paper(tmp_path / "p.pdf")
    report = build([tmp_path / "p.pdf"], tmp_path / "out", Settings(), None, 3, Quiet())
    samples = {(sample.language, sample.extra["number"]): sample for sample in kept(tmp_path / "out")}
    assert samples.keys() == known.keys()
    for at, wanted in known.items():
        assert samples[at].answer == wanted["answer"]
        assert samples[at].extra.get("letter") == wanted["letter"]
    opened, lettered = samples["en", 1], samples["en", 4]
    assert opened.messages[0].text == "What is the reading of the ammeter shown in the diagram?"
    assert opened.messages[1].text == "\\boxed{2.5 A}"
    assert "\nB. It makes" in lettered.messages[0].text
    assert lettered.aliases == ["It makes the picture larger and turns it around."]
    assert [part.type for part in opened.messages[0].content] == ["image", "text"]
    store = ImageStore(tmp_path / "out" / "image-store")
    assert store.get(opened.images[0]).size[0] > 300
    figures = {figure.id: figure for figure in read_samples(tmp_path / "out" / "figures.parquet")}
    assert [figures[parent].images for parent in opened.lineage] == [opened.images]
    (step,) = opened.steps
    assert (step.stage, step.by, step.file, step.place) == ("document", "pdf", str(tmp_path / "p.pdf"), "page 1")
    assert {box["kind"] for box in opened.extra["boxes"]} == {"text", "figure"}
    assert report["documents"][0]["questions_without_picture"] == 1
    assert report["asked"].startswith("nobody")


def reply(body: dict[str, Any], number: int) -> str:
    """A model that asks four questions about each figure, and knows one of them without looking."""
    content = body["messages"][0]["content"]
    text = content[-1]["text"]
    pictures = sum(part["type"] == "image_url" for part in content)
    if text.startswith("Write questions"):
        asked = [
            ("What colour are the circles in the picture?", "pink"),
            ("How many circles are drawn in the picture?", "four"),
            ("What does the abbreviation LED stand for here?", "light-emitting diode"),
            ("According to the caption, what is shown here?", "the station"),
        ]
        questions = [
            {"task": "reading", "question": q, "answer": a, "aliases": [], "response": f"It is {a}."} for q, a in asked
        ]
        return json.dumps({"questions": questions})
    if text.startswith("A question and its answer"):
        bad = "lens" in text
        return json.dumps({"ocr": bad, "order": False, "self_talk": False, "mismatch": False, "reason": "lens" * bad})
    answers = {"colour": ("pink", None), "circles": ("5", None), "LED": ("light-emitting diode",) * 2}
    answers |= {"ammeter": ("3.5 A", "1.5 A"), "graph": ("12 s", None), "拉力": ("6 N", "6 N")}
    seen, blind = next(value for word, value in answers.items() if word in text)
    return json.dumps({"answer": seen if pictures else blind, "reason": "so"})


def test_only_questions_that_need_their_picture_stay(tmp_path: Path) -> None:
    article(tmp_path / "a.pdf")
    paper(tmp_path / "p.pdf")
    with endpoint(reply) as server:
        report = build([tmp_path], tmp_path / "out", Settings(), asker(server.url, tmp_path / "out"), 4, Quiet())
        asked = len(server.bodies)
        again = build([tmp_path], tmp_path / "out", Settings(), asker(server.url, tmp_path / "out"), 4, Quiet())
        assert len(server.bodies) == asked  # finished documents are not asked about again
    assert again == report
    samples = kept(tmp_path / "out")
    about_figures = [sample for sample in samples if sample.extra["origin"] == "asked"]
    assert {sample.messages[0].text for sample in about_figures} == {"What colour are the circles in the picture?"}
    assert len(about_figures) == 7
    assert about_figures[0].messages[1].text == "It is pink. \\boxed{pink}"
    assert about_figures[0].extra["ablation"] == {"with_picture": "pink", "without_picture": None}
    assert [(step.stage, step.prompt, step.place) for step in about_figures[0].steps] == [
        ("document", None, "page 1"), ("documents", "documents@1", None),
        ("documents_screen", "documents_screen@1", None),
        ("documents_read", "documents_read@1", "with the picture"),
        ("documents_read", "documents_read@1", "without the picture"),
    ]  # fmt: skip
    printed = {sample.extra["number"]: sample for sample in samples if sample.extra["origin"] == "printed"}
    assert printed.keys() == {1, 3}
    assert printed[1].extra["flags"] == ["unconfirmed: the model answers otherwise"]
    why = rejected(tmp_path / "out")
    assert why["What does the abbreviation LED stand for here?"] == "text only: answered without the picture"
    assert why["如图所示，物体受到的拉力是多少？"] == "text only: answered without the picture"
    counted = why["How many circles are drawn in the picture?"]
    assert counted == "the picture does not give the answer when asked again"
    assert why["According to the caption, what is shown here?"] == "text only: asks about the text, not the picture"
    assert next(reason for text, reason in why.items() if "lens" in text) == "ocr: lens"
    assert report["counts"]["kept"] == len(samples) == 9


@pytest.mark.slow
def test_a_command_taken_up_again_keeps_what_was_asked_and_spent(tmp_path: Path) -> None:
    """The endpoint ends in the middle of the second document; the first is finished and not asked about again."""
    folder = tmp_path / "in"
    folder.mkdir()
    article(folder / "a.pdf")
    paper(folder / "p.pdf")

    def counted(body: dict[str, Any], number: int) -> Raw:
        return Raw(completion(reply(body, number), (900 + len(str(body["messages"])) % 7, 40)))

    out = tmp_path / "whole"
    with endpoint(counted) as server:
        whole = build([folder], out, Settings(), asker(server.url, out), 4, Quiet())
        sent = len(server.bodies)
    costs = whole["costs"]
    assert (costs["total"]["answers"], costs["total"]["output"]) == (sent, 40 * sent)
    assert set(costs["steps"]) == {"documents", "documents_screen", "documents_read"}
    again = [step for sample in read_samples(out / "rejected.parquet") for step in sample.steps if step.output == 0]
    assert {step.place for step in again} == {"without the picture"}  # asked of several figures in the same words
    for name in ("input", "output", "money"):
        parts = [costs[group][name] for group in ("kept", "rejected", "no_sample")]
        assert sum(parts) == pytest.approx(costs["total"][name])
        assert sum(entry["costs"]["total"][name] for entry in whole["documents"]) == pytest.approx(costs["total"][name])
    assert whole["cost_per_kept"]["money"] * whole["counts"]["kept"] == pytest.approx(costs["total"]["money"])
    assert whole["spent"]["total"]["requests"] == sent

    out = tmp_path / "cut"
    with endpoint(lambda body, number: 401 if number >= sent - 4 else counted(body, number)) as server:
        with pytest.raises(ProviderError, match="401"):
            build([folder], out, Settings(), asker(server.url, out), 4, Quiet())
        before = len(server.bodies)
    assert len(list(out.rglob("done.json"))) == 1
    with endpoint(counted) as server:
        cut = build([folder], out, Settings(), asker(server.url, out), 4, Quiet())
        assert len(server.bodies) == 4
    assert cut["costs"] == whole["costs"]
    assert cut["documents"] == whole["documents"]
    assert cut["spent"]["total"]["requests"] == before + 4
    assert cut["spent"]["total"]["output"] == whole["spent"]["total"]["output"]
    for name in ("samples.parquet", "rejected.parquet", "figures.parquet"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    sample = next(one for one in kept(out) if one.extra["origin"] == "printed")
    told = [event for event in trace(out, sample.id) if event["sample"] == sample.id]
    assert {event["answer"] for event in told if "prompt" in event} <= {"fresh", "kept from before"}
    assert next(event for event in told if event["stage"] == "cost")["tokens"] > 2700
    assert trace(out, sample.id)[0]["sample"] == sample.lineage[0]  # the figure comes first
    assert not [event for event in trace(out, sample.id) if event["stage"] == "unknown"]
    export_set(out, tmp_path / "set", "messages", name="set")
    card = (tmp_path / "set" / "README.md").read_text()
    assert "Construction (from documents" in card
    assert "| documents_read |" in card
    assert f"and {costs['total']['money']:.6g}, those for rejected" in card


def test_the_catalog_cannot_ask_about_documents(tmp_path: Path) -> None:
    paper(tmp_path / "p.pdf")
    (tmp_path / "r.yaml").write_text("name: t\n")
    given = [str(tmp_path / "p.pdf"), "--out", str(tmp_path / "out"), "--quiet", "--recipe", str(tmp_path / "r.yaml")]
    error = CliRunner().invoke(app, given).exception
    assert isinstance(error, UserError)
    assert str(error).startswith("data.roles.documents: provider 'default' is the catalog")
    assert "kind openai" in str(error)
    assert "leave out --recipe" in str(error)
    assert not (tmp_path / "out" / "report.json").exists()


def test_the_question_without_its_picture_travels_without_it(tmp_path: Path) -> None:
    paper(tmp_path / "p.pdf")
    with endpoint(reply) as server:
        build([tmp_path / "p.pdf"], tmp_path / "out", Settings(), asker(server.url, tmp_path / "out"), 4, Quiet())
        reads = [body["messages"][0]["content"] for body in server.bodies]
    blind = [content for content in reads if "Its picture is not given" in content[-1]["text"]]
    seeing = [content for content in reads if "by looking at the picture" in content[-1]["text"]]
    assert len(blind) == len(seeing) == 3
    assert all(len(content) == 1 for content in blind)
    assert all(content[0]["type"] == "image_url" for content in seeing)


def test_answers_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    article(tmp_path / "a.pdf")
    with endpoint(lambda body, number: "no JSON") as server:
        report = build(
            [tmp_path / "a.pdf"], tmp_path / "out", Settings(), asker(server.url, tmp_path / "out"), 2, Quiet()
        )
    (entry,) = report["documents"]
    assert sum(entry["figures_not_asked_about"].values()) == 7
    assert kept(tmp_path / "out") == []


@pytest.mark.parametrize("template", ["documents", "documents_read", "documents_screen"])
def test_prompts_take_braces_and_chinese(template: str) -> None:
    values = {"caption": "{{ 7*7 }} 图 {a}", "text": ["{% if %}"], "budget": 2, "language": "zh", "question": "{x}"}
    values |= {"answer": "\\boxed{1}", "with_picture": True}
    text = Prompt(template, values).text
    assert "49" not in text
    assert "version" not in text.splitlines()[0]


def content_list(folder: Path, entries: list[Any]) -> Path:
    (folder / "images").mkdir(parents=True)
    photo(1, (200, 150)).save(folder / "images" / "a.jpg")
    photo(2, (200, 150)).save(folder / "images" / "b.jpg")
    path = folder / "x_content_list.json"
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return path


def test_a_list_of_mineru_in_its_old_and_its_new_words(tmp_path: Path) -> None:
    entries: list[Any] = [
        {"type": "text", "text": "The river", "text_level": 1, "page_idx": 0},
        {"type": "text", "text": "Figure 1 shows the tank.", "page_idx": 0, "bbox": [10, 10, 900, 40]},
        {"type": "image", "img_path": "images/a.jpg", "img_caption": ["Figure 1. The tank"], "page_idx": 0},
        {"type": "text", "text": "1. What is the colour of the circle shown in the picture?", "page_idx": 1},
        {"type": "image", "img_path": "images/b.jpg", "image_caption": ["图 2 水位"], "page_idx": 1},
        {"type": "list", "sub_type": "text", "list_items": ["A. red", "B. pink"], "page_idx": 1},
        {"type": "text", "text": "Answer: B", "page_idx": 1},
        {"type": "page_number", "text": "2", "page_idx": 1},
        {"type": "image", "img_path": "../../etc/passwd", "image_caption": [], "page_idx": 2},
        {"type": "image", "img_path": "images/none.jpg", "page_idx": 2},
        {"type": "image", "img_path": "", "page_idx": 2},
        {"type": "hologram", "page_idx": 2},
        {"type": "text", "text": "x", "page_idx": -1},
        "nothing",
    ]  # fmt: skip
    path = content_list(tmp_path / "m", entries)
    report = build([path], tmp_path / "out", Settings(), None, 3, Quiet())
    (entry,) = report["documents"]
    assert (entry["pages"], entry["figures"], entry["figures_with_caption"]) == (3, 2, 2)
    assert [fault["where"] for fault in entry["faults"]] == [f"entry {at}" for at in (8, 9, 10, 11, 12, 13)]
    assert "leaves the folder" in entry["faults"][0]["reason"]
    (tmp_path / "out").joinpath("documents").glob("*/done.json").__next__().unlink()  # killed before it was finished
    assert build([tmp_path], tmp_path / "out", Settings(), None, 3, Quiet()) == report
    (sample,) = kept(tmp_path / "out")
    assert (sample.answer, sample.extra["letter"], sample.extra["caption"]) == ("pink", "B", "图 2 水位")
    figures = read_samples(tmp_path / "out" / "figures.parquet")
    assert figures[0].scene == {
        "caption": "Figure 1. The tank",
        "label": "figure 1",
        "text": ["Figure 1 shows the tank."],
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no JSON that can be read"),
        ("{}", "is no content list"),
        ("[]", "is empty"),
        ("[[{}]]", "content_list_v2"),
        ("[" * 100_000, "is no JSON that can be read"),
    ],
)
def test_what_is_no_list_of_mineru(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "content_list.json").write_text(text)
    report = build([tmp_path / "content_list.json"], tmp_path / "out", Settings(), None, 3, Quiet())
    assert reason in report["documents"][0]["reason"]


def test_the_command(tmp_path: Path) -> None:
    paper(tmp_path / "p.pdf")
    result = CliRunner().invoke(app, [str(tmp_path / "p.pdf"), "--out", str(tmp_path / "out"), "--quiet"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["kept"] == 4


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    article(folder / "a.pdf")
    paper(folder / "p.pdf")
    build([folder], tmp_path / "whole", Settings(), None, 3, Quiet())
    program = "from open4ov.cli_documents import app; app()"
    command = [sys.executable, "-c", program, str(folder), "--out", str(tmp_path / "cut"), "--quiet"]
    running = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "cut").rglob("done.json")) and running.poll() is None:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    build([folder], tmp_path / "cut", Settings(), None, 3, Quiet())
    for name in ("samples.parquet", "rejected.parquet", "figures.parquet", "report.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "cut").rglob(".part-*"))


@pytest.mark.slow
def test_a_scan_is_read_by_ocr(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr", reason="needs the extra: pip install 'open4ov[documents]'")
    import pypdfium2

    from open4ov.documents.extract import extract, pages

    sheet = Sheet()
    sheet.text(72, 60, "The river in spring", 20, bold=True)
    words = [
        "The station stands on poles by the river and it",
        "measures the level of the water every hour of",
        "the day and sends its readings to the valley.",
    ]
    sheet.paragraph(72, 110, words, 14)
    sheet.image((150, 250, 400, 430), photo(1, (250, 180)))
    sheet.text(150, 440, "Figure 1. The station in spring", 14)
    save(tmp_path / "text.pdf", [sheet])
    with pypdfium2.PdfDocument(tmp_path / "text.pdf") as document:
        picture = document[0].render(scale=2).to_pil().convert("RGB")
    scan = Sheet()
    scan.image((0, 0, 612, 792), picture)
    save(tmp_path / "scan.pdf", [scan])
    extract(tmp_path / "scan.pdf", tmp_path / "r", ImageStore(tmp_path / "i"), Settings(), lambda a, b: None)
    (page,) = pages(tmp_path / "r")
    assert page.scanned
    text = " ".join(block.text for block in page.blocks if block.kind in ("heading", "text"))
    assert "station stands on poles by the river" in text
    (figure,) = [block for block in page.blocks if block.kind == "figure"]
    assert figure.caption.replace(" ", "") == "Figure1.Thestationinspring"
    place = figure.place
    assert max(abs(a - b) for a, b in zip(place, (150, 250, 400, 430), strict=True)) < 12
