"""Reviews: what is decided lasts, who agrees with whom, what becomes of a set, and the page in Chromium."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from browser import CHROMIUM, Browser, browser
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from open4ov import page_fonts
from open4ov.errors import UserError
from open4ov.formats.convert import export_set
from open4ov.review.apply import apply
from open4ov.review.collection import Collection
from open4ov.review.decisions import Decision, Others, Reviewer, agreement, kappa, read
from open4ov.review.server import create_app
from open4ov.sample import Label, Sample, Vote, assistant, user
from open4ov.store import ImageStore, read_samples, write_samples

__all__ = ["browser"]

VERDICTS = ("accept", "fix", "reject")


def sample(number: int, sha: str, **more: Any) -> Sample:
    texts = {"messages": [user(f"question <b>{number}</b>?", images=1), assistant(f"answer {number}")]}
    labels = [Label(axis="domain", l1="automotive", l2=f"automotive.{number % 2}", score=0.5)]
    votes = [
        Vote(judge="judge_1", score=1, reason=f"seen {number}"),
        Vote(judge="judge_2", score=None, reason="cut off"),
    ]
    return Sample(id=f"s{number}", source="made", task="qa", images=[sha], answer=f"answer {number}", aliases=["other"],
                  labels=labels, votes=votes, topics=["tell-tales"], **{**texts, **more})  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run directory whose stage `data` kept four samples and rejected two, one of them a known defect."""
    sha = ImageStore(tmp_path / "image-store").put(Image.new("RGB", (40, 30), (200, 30, 30)))
    write_samples(tmp_path / "data" / "samples.parquet", [sample(n, sha) for n in range(4)])
    rejected = [sample(4, sha, extra={"rejected_by": "judges"}), sample(5, sha, extra={"defect": "wrong answer"})]
    write_samples(tmp_path / "data" / "rejected.parquet", rejected)
    return tmp_path


def decide(folder: Path, name: str, **verdicts: str) -> Reviewer:
    reviewer = Reviewer(folder / "reviews", name)
    for number, verdict in verdicts.items():
        fix = {"answer": f"{name} says"} if verdict == "fix" else {}
        reviewer.decide(Decision.model_validate({"sample": number, "verdict": verdict, **fix}))
    return reviewer


def test_decisions_last_and_a_torn_line_is_dropped(folder: Path) -> None:
    reviewer = decide(folder, "ann", s0="accept", s1="reject")
    reviewer.decide(Decision(sample="s1", verdict="accept", comment="第二眼\nnext line"))
    with reviewer.path.open("ab") as file:
        file.write(b'{"sample": "s2", "verd')  # killed while it was written
    again = Reviewer(folder / "reviews", "ann")
    assert {name: one.verdict for name, one in again.decisions.items()} == {"s0": "accept", "s1": "accept"}
    assert again.decisions["s1"].comment == "第二眼\nnext line"
    decide(folder, "ann", s2="reject")
    assert set(Reviewer(folder / "reviews", "ann").decisions) == {"s0", "s1", "s2"}


@pytest.mark.parametrize(
    ("line", "words"),
    [("{}", "ann.jsonl:2"), ("no json", "ann.jsonl:2"), ('{"sample": "s", "verdict": "maybe"}', "ann.jsonl:2")],
)
def test_a_line_that_is_no_decision_is_named(folder: Path, line: str, words: str) -> None:
    path = decide(folder, "ann", s0="accept").path
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=words):
        Reviewer(folder / "reviews", "ann")


@pytest.mark.parametrize("name", ["", "../ann", "a/b", ".hidden", "a" * 65, "a b"])
def test_a_reviewers_name_is_a_files(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="give a name"):
        Reviewer(folder / "reviews", name)


@pytest.mark.parametrize(
    "decision",
    [{"verdict": "fix"}, {"verdict": "accept", "answer": "x"}, {"verdict": "fix", "answer": "  "}, {"verdict": "no"}],
)
def test_decisions_that_say_nothing_are_refused(decision: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"verdict|fix|empty"):
        Decision.model_validate({"sample": "s0", **decision})


def test_kappa_of_a_worked_example() -> None:
    """50 grant proposals, read by two: both yes 20, yes and no 5, no and yes 10, both no 15. 0.7 agree, chance 0.5."""
    pairs = [("accept", "accept")] * 20 + [("accept", "reject")] * 5
    pairs += [("reject", "accept")] * 10 + [("reject", "reject")] * 15
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([("accept", "accept")] * 3) is None


@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), min_size=1))
def test_kappa_has_its_bounds(pairs: list[tuple[str, str]]) -> None:
    found, other = kappa(pairs), kappa([(y, x) for x, y in pairs])
    assert found == other or found == pytest.approx(other)
    if found is not None:
        assert -1 <= found <= 1
        assert (found == pytest.approx(1)) == all(x == y for x, y in pairs)


def test_agreement_counts_what_both_have_seen(folder: Path) -> None:
    decide(folder, "ann", s0="accept", s1="reject", s2="fix")
    decide(folder, "bob", s1="reject", s2="accept", s3="accept")
    (found,) = agreement(read(folder / "reviews"))
    assert found["reviewers"] == ["ann", "bob"]
    assert (found["samples"], found["equal"]) == (2, 0.5)


def test_a_reviewed_set_leaves_out_rejected_and_holds_fixes(folder: Path, tmp_path: Path) -> None:
    decide(folder, "ann", s0="accept", s1="fix", s2="fix", s4="accept", s5="accept")
    decide(folder, "bob", s0="reject", s2="fix")
    out = tmp_path / "out"
    figures = apply(folder, out)
    kept = {one.id: one for one in read_samples(out / "samples.parquet")}
    dropped = {one.id: one for one in read_samples(out / "rejected.parquet")}
    assert set(kept) == {"s1", "s3", "s4"}  # s4 comes back, s2's fixes contradict, s5 is a known defect
    assert set(dropped) == {"s0", "s2", "s5"}
    assert figures["conflicts"] == [{"sample": "s2", "reviewers": ["ann", "bob"]}]
    assert kept["s1"].messages[-1].text == "ann says"
    assert (kept["s1"].answer, kept["s1"].aliases) == ("answer 1", ["other"])  # the reference is another field
    assert kept["s1"].images == kept["s3"].images
    assert kept["s3"].extra == {}
    assert kept["s1"].extra["reviews"]["ann"]["verdict"] == "fix"
    assert [(step.stage, step.by, step.note) for step in kept["s1"].steps] == [("review", "ann", "fix")]
    assert dropped["s0"].extra["rejected_by"] == "review"
    assert "rejected_by" not in kept["s4"].extra
    with pytest.raises(UserError, match="is there already"):
        apply(folder, out)
    with pytest.raises(UserError, match="cyd has decided nothing"):
        apply(folder, tmp_path / "other", ["cyd"])
    assert apply(folder, tmp_path / "bobs", ["bob"])["kept"] == 3  # s1, s2 (one fix only), s3


def test_a_fix_of_each_text_leaves_the_others_and_marks_what_was_said_of_the_old_ones(folder: Path) -> None:
    samples = read_samples(folder / "data" / "samples.parquet")
    for one in samples:
        one.checks = {"accuracy": True}
    write_samples(folder / "data" / "samples.parquet", samples)
    reviewer = Reviewer(folder / "reviews", "ann")
    for number, fix in enumerate(
        ({"answer": "It is no"}, {"reference": "no"}, {"aliases": ["nope", "none"]}, {"question": "Is it?"})
    ):
        reviewer.decide(Decision.model_validate({"sample": f"s{number}", "verdict": "fix", **fix}))
    apply(folder, folder / "out")
    kept = read_samples(folder / "out" / "samples.parquet")
    texts = [(one.messages[0].text, one.messages[-1].text, one.answer, one.aliases) for one in kept]
    assert texts == [
        ("question <b>0</b>?", "It is no", "answer 0", ["other"]),
        ("question <b>1</b>?", "answer 1", "no", ["other"]),
        ("question <b>2</b>?", "answer 2", "answer 2", ["nope", "none"]),
        ("Is it?", "answer 3", "answer 3", ["other"]),
    ]
    for number, one in enumerate(kept):
        assert one.checks == {}
        assert one.extra["before_fix"] == {
            "question": f"question <b>{number}</b>?",
            "response": f"answer {number}",
            "answer": f"answer {number}",
            "aliases": ["other"],
            "checks": {"accuracy": True},
        }
        assert [vote.model_dump()["before_fix"] for vote in one.votes] == [True, True]


def test_contradicting_references_are_a_conflict(folder: Path) -> None:
    for name, reference in (("ann", "no"), ("bob", "yes")):
        fix = {"sample": "s0", "verdict": "fix", "reference": reference}
        Reviewer(folder / "reviews", name).decide(Decision.model_validate(fix))
    assert apply(folder, folder / "out")["conflicts"] == [{"sample": "s0", "reviewers": ["ann", "bob"]}]


@pytest.mark.parametrize("place", ["inside/out", "../elsewhere/out"])
def test_a_reviewed_set_has_its_pictures(folder: Path, place: str) -> None:
    sha = read_samples(folder / "data" / "samples.parquet")[0].images[0]
    photo = folder / "image-files" / sha[:2] / f"{sha}.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"the file it came in")
    decide(folder, "ann", s0="reject")
    out = (folder / place).resolve()
    apply(folder, out)
    assert {path.name for path in out.iterdir()} == {"samples.parquet", "rejected.parquet", "review.json",
                                                     "image-store", "image-files"}  # fmt: skip
    shutil.rmtree(folder / "image-store")
    collection = Collection(out)
    assert collection.images.get(sha).size == (40, 30)
    assert export_set(out, out.parent / "export", "llava").samples == 4 - 1
    (exported,) = (out.parent / "export").rglob("*.jpg")
    assert exported.read_bytes() == b"the file it came in"
    with served(out, "bob") as url:
        assert ask(f"{url}/images/{sha}")[1][:4] == b"\x89PNG"


def test_a_missing_picture_is_said_and_leaves_nothing(folder: Path) -> None:
    shutil.rmtree(folder / "image-store")
    with pytest.raises(UserError, match="is missing; the set is incomplete"):
        apply(folder, folder / "out")
    assert not [path.name for path in folder.iterdir() if "out" in path.name]


def test_a_line_of_another_that_is_under_way_is_left_to_them(folder: Path) -> None:
    ann, bob = decide(folder, "ann", s0="accept"), decide(folder, "bob", s0="accept")
    others = Others(folder / "reviews", ann)
    with bob.path.open("ab") as file:
        file.write(b'{"sample": "s1", "verd')
    size = bob.path.stat().st_size
    assert {name: set(made) for name, made in others.read().items()} == {"ann": {"s0"}, "bob": {"s0"}}
    assert set(read(folder / "reviews")["bob"]) == {"s0"}
    assert bob.path.stat().st_size == size
    with bob.path.open("ab") as file:
        file.write(b'ict": "reject"}\n')
    ann.decide(Decision(sample="s2", verdict="accept"))
    assert {name: set(made) for name, made in others.read().items()} == {"ann": {"s0", "s2"}, "bob": {"s0", "s1"}}


def test_half_a_character_is_refused(folder: Path) -> None:
    with served(folder, "ann") as url:
        for field, value in (
            ("comment", "\ud800"),
            ("answer", "a\udfff"),
            ("sample", "\ud800"),
            ("aliases", ["\ud800"]),
        ):
            decision = {"sample": "s0", "verdict": "fix", "answer": "x", field: value}
            status, said = ask(f"{url}/api/decisions", decision, x_open4ov="review")
            assert status == 422
            assert json.loads(said)["detail"][0]["loc"][0] == "body"
    assert not (folder / "reviews").exists()


def test_samples_are_found_and_read_across_files_and_row_groups(tmp_path: Path) -> None:
    """5,000 samples in three row groups and 10 in a second file, against the samples themselves."""
    made = [sample(number, "0" * 64, split=("train", "val")[number % 2]) for number in range(5010)]
    for number, one in enumerate(made):
        one.task = f"t{number % 3}"
    write_samples(tmp_path / "samples.parquet", made[:5000])
    write_samples(tmp_path / "rejected.parquet", made[5000:])
    collection = Collection(tmp_path)
    assert len(collection.samples) == 5010
    for place in (0, 2047, 2048, 4999, 5000, 5009, 1, 4096):
        assert collection.samples[place] == made[place]
    assert list(collection.samples) == made
    wanted = {"task": "t1", "split": "val"}
    expected = [n for n, one in enumerate(made) if (one.task, one.split) == ("t1", "val")]
    assert collection.find(wanted, "", {}) == expected
    assert collection.find(wanted, "ANSWER 49", {}) == [n for n in expected if "49" in str(n)]
    assert collection.counts({})["task"] == {"t0": 1670, "t1": 1670, "t2": 1670}
    decisions = {"s3": Decision(sample="s3", verdict="reject"), "gone": Decision(sample="gone", verdict="accept")}
    assert collection.counts(decisions)["review"] == {"open": 5009, "reject": 1}
    assert collection.find({"review": "reject"}, "", decisions) == [3]


def test_what_is_looked_for_is_found(folder: Path) -> None:
    collection = Collection(folder)
    decisions = decide(folder, "ann", s1="reject").decisions

    def found(text: str = "", **wanted: str) -> list[str]:
        return [collection.samples[place].id for place in collection.find(wanted, text, decisions)]

    assert found() == ["s0", "s1", "s2", "s3", "s4", "s5"]
    assert found(stage="kept", domain="automotive.1") == ["s1", "s3"]
    assert found(stage="rejected by judges") == ["s4"]
    assert found(review="reject") == ["s1"]
    assert found(text="SEEN 3") == ["s3"]
    assert found(text="Answer SEEN 3", stage="kept") == ["s3"]
    assert found(text="nowhere") == []
    counts = collection.counts(decisions)
    assert counts["stage"] == {"kept": 4, "rejected by judges": 1, "defect: wrong answer": 1}
    assert counts["review"] == {"open": 5, "reject": 1}


def test_a_folder_without_samples_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no samples\.parquet"):
        Collection(tmp_path)


@contextmanager
def served(folder: Path, name: str) -> Iterator[str]:
    collection = Collection(folder)
    config = uvicorn.Config(create_app(collection, Reviewer(collection.reviews, name)), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def ask(url: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    content = None if body is None else json.dumps(body).encode()
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content, sent), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_other_pages_and_other_names_are_turned_away(folder: Path) -> None:
    decision = {"sample": "s0", "verdict": "accept"}
    with served(folder, "ann") as url:
        assert ask(f"{url}/api/counts", host="evil.example")[0] == 403  # a name that points to this machine
        assert ask(f"{url}/api/decisions", decision)[0] == 403  # as a form of another site would send it
        assert ask(f"{url}/api/decisions", {**decision, "sample": "s9"}, x_open4ov="review")[0] == 404
        assert ask(f"{url}/api/decisions", {**decision, "verdict": "?"}, x_open4ov="review")[0] == 422
        assert not (folder / "reviews").exists()
        assert ask(f"{url}/api/decisions", decision, x_open4ov="review") == (200, b'{"review":{"open":5,"accept":1}}')
        for bad in ("0" * 64, "../stage.json", "%2e%2e%2fx", "A" * 64):
            assert ask(f"{url}/images/{bad}")[0] == 404
        status, png = ask(f"{url}/images/{Collection(folder).samples[0].images[0]}")
        assert (status, png[:4]) == (200, b"\x89PNG")
        assert ask(f"{url}/api/samples?count=100000")[0] == 422


def test_the_page_brings_the_fonts_that_it_names(folder: Path) -> None:
    with served(folder, "ann") as url:
        linked = re.findall(r'src: url\("(fonts/[^"]+)"\)', ask(f"{url}/")[1].decode())
        files = [path.read_bytes() for path in page_fonts.SHIPPED.values()]
        assert [ask(f"{url}/{one}") for one in linked] == [(200, file) for file in files]
        assert ask(f"{url}/{linked[0]}", host="evil.example")[0] == 403
        for other in ("fonts/OFL.txt", "fonts/..%2fmdi", "fonts/"):
            assert ask(f"{url}/{other}")[0] == 404


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_chinese_is_drawn_by_fonts_of_the_page(folder: Path, browser: Browser) -> None:
    """On a machine whose own fonts may have none; the first character is in the second font only."""
    sha = Collection(folder).samples[0].images[0]
    texts = [user("驾驶", images=1), assistant("yes")]
    write_samples(folder / "data" / "samples.parquet", [sample(0, sha, messages=texts)])
    with served(folder, "ann") as url:
        browser.call("Page.navigate", url=f"{url}/")
        browser.shows("document.querySelectorAll('.turn').length === 2")
        for place in (".turn.user", "#rows button"):
            drawn = browser.fonts(place)
            assert {name for name, own in drawn.items() if own} == {*page_fonts.SHIPPED}, (place, drawn)
        assert not any(browser.fonts(".turn.assistant").values()), "what everyone has is left to the reader's own fonts"
        families = "getComputedStyle(document.querySelector('{}')).fontFamily"
        assert browser.run(families.format("#answer")) == browser.run(families.format("body")), "what is written, too"
        assert browser.complaints == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_review_by_keyboard(folder: Path, browser: Browser) -> None:
    decide(folder, "bob", s0="reject")
    with served(folder, "ann") as url:
        browser.call("Page.navigate", url=f"{url}/")
        browser.shows("document.querySelectorAll('#rows li').length === 6")
        browser.shows("document.querySelector('#pictures img').naturalWidth === 40")
        assert browser.run("document.querySelector('.turn.user').textContent") == "userquestion <b>0</b>?"
        assert browser.run("document.querySelectorAll('#detail b').length") == 0  # a sample's text is text
        assert "cut off" in browser.run("document.getElementById('detail').textContent")
        browser.press("a")
        browser.shows("document.getElementById('progress').textContent === 'ann: 1 of 6 decided'")
        browser.shows("document.getElementById('agreement').textContent === 'ann and bob: 0 % equal of 1, kappa 0.00'")
        browser.shows("document.querySelector('#rows [aria-current=true]').textContent.includes('1')")
        browser.type("not quite", "comment")
        browser.press("Escape")
        browser.press("r")
        browser.shows("document.getElementById('progress').textContent === 'ann: 2 of 6 decided'")
        current = "document.querySelector('#rows [aria-current=true]').textContent"
        browser.shows(f"{current}.includes('2')")
        browser.press("j")  # comes after what was decided before is told: typing must wait for it
        browser.shows(f"{current}.includes('3')")
        browser.press("k")
        browser.shows(f"{current}.includes('2')")
        browser.press("f")
        browser.run("document.getElementById('answer').select()")
        browser.type("red", "answer")
        browser.run("document.getElementById('reference').select()")
        browser.type("no", "reference")
        browser.run("document.getElementById('fix').click()")
        browser.shows("document.getElementById('progress').textContent === 'ann: 3 of 6 decided'")
        assert browser.complaints == []
        browser.run("document.getElementById('facet-review').value = 'open'")
        browser.run("document.getElementById('facet-review').dispatchEvent(new Event('change'))")
        browser.shows("document.getElementById('found').textContent === '3 samples'")
        browser.press("/")
        browser.type("answer 4", "text")
        browser.shows("document.getElementById('found').textContent === '1 samples'")
        browser.run("document.getElementById('fix').click()")
        browser.shows("document.getElementById('fault').textContent.startsWith('change the question or the answer')")
    found = Reviewer(folder / "reviews", "ann").decisions
    assert {name: one.verdict for name, one in found.items()} == {"s0": "accept", "s1": "reject", "s2": "fix"}
    assert found["s1"].comment == "not quite"
    assert found["s2"].fix == (None, "red", "no", None)
    with served(folder, "ann") as url:  # goes on where it was
        browser.call("Page.navigate", url=f"{url}/")
        browser.shows("document.getElementById('progress').textContent === 'ann: 3 of 6 decided'")
