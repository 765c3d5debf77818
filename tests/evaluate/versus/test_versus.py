"""Blind comparisons: sides, verdicts that last, figures by enumeration, a model as the judge, and the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from browser import CHROMIUM, Browser, browser
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from open4ov import cli_versus, page_fonts
from open4ov.cli import app
from open4ov.errors import UserError
from open4ov.evaluate.versus import judge as judging
from open4ov.evaluate.versus import pairs as comparison
from open4ov.evaluate.versus.pairs import Asked, Pair, build, swapped
from open4ov.evaluate.versus.questions import built_in, held_out_of, of_set
from open4ov.evaluate.versus.result import result, text
from open4ov.evaluate.versus.server import create_app
from open4ov.evaluate.versus.verdicts import Judge, Verdict, read
from open4ov.formats.convert import located
from open4ov.mllm import Asker
from open4ov.mllm.ask import AnswerError, Request
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import DataSection, ProviderSection
from open4ov.sample import Sample, assistant, user
from open4ov.store import ImageStore, write_samples

sys.path.insert(0, str(Path(__file__).parents[2] / "mllm"))
from endpoint import endpoint

__all__ = ["browser"]


def pair(number: int, a: str = "from a", b: str = "from b", swap: bool = False, pictures: Sequence[str] = ()) -> Pair:
    return Pair(f"q{number}", "naming", "en", "", f"What is <b>{number}</b>?", list(pictures), a, b, swap)


def verdicts(**choices: str) -> dict[str, Verdict]:
    return {name: Verdict(pair=name, choice=choice) for name, choice in choices.items()}  # pyright: ignore


@pytest.fixture(scope="module")
def models(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    other = tmp_path_factory.mktemp("b") / "stage" / "model"
    Qwen3VL(Qwen3VL.from_pretrained(tiny_dir).config, seed=9).save_pretrained(other)
    Processor.from_pretrained(tiny_dir).save_pretrained(other)
    return {"a": tiny_dir, "b": other}


def asked(count: int) -> list[Asked]:
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    return [Asked(f"q{n}", "made", "en", [user(f"What colour {n}?", 1)], [picture]) for n in range(count)]


def go(models: dict[Any, Path], out: Path, questions: list[Asked], **more: Any) -> list[Pair]:
    out.mkdir(exist_ok=True)
    return build(models, questions, out, **{"seed": 0, "max_tokens": 4, "tell": lambda text: None, **more})


def test_both_are_asked_once_and_sides_are_drawn(models: dict[Any, Path], tmp_path: Path) -> None:
    told: list[str] = []
    made = go(models, tmp_path / "out", asked(40), tell=told.append)
    assert [one.id for one in made] == [f"q{n}" for n in range(40)]
    assert sum(one.swapped for one in made) not in (0, 40)
    assert any(one.a != one.b for one in made)
    assert all((one.left, one.right) == ((one.b, one.a) if one.swapped else (one.a, one.b)) for one in made)
    assert len(told) == 4  # two chunks of two models
    assert ImageStore(tmp_path / "out" / "image-store").get(made[0].pictures[0]).size == (32, 32)
    assert go(models, tmp_path / "out", asked(40), tell=told.append) == made
    assert len(told) == 4


def test_a_stopped_comparison_goes_on_where_it_was(
    models: dict[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(models, tmp_path / "whole", asked(40))
    real, calls = comparison.write_json, []

    def stops(path: Path, value: object) -> None:
        calls.append(path.name)
        if path.name == "b-000000.json":
            raise KeyboardInterrupt
        real(path, value)

    with monkeypatch.context() as patched:
        patched.setattr(comparison, "write_json", stops)
        with pytest.raises(KeyboardInterrupt):
            go(models, tmp_path / "out", asked(40))
    told: list[str] = []
    assert go(models, tmp_path / "out", asked(40), tell=told.append) == whole
    assert [line[:7] for line in told] == ["model B", "model B"]  # nothing of A is asked again


def test_another_comparison_is_refused(models: dict[Any, Path], tmp_path: Path) -> None:
    go(models, tmp_path / "out", asked(2))
    for more in ({"seed": 1}, {"max_tokens": 5}):
        with pytest.raises(UserError, match="holds another comparison"):
            go(models, tmp_path / "out", asked(2), **more)
    with pytest.raises(UserError, match="holds another comparison"):
        go({**models, "b": models["a"]}, tmp_path / "out", asked(2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    with pytest.raises(UserError, match=r"holds other things \(letter\)"):
        go(models, tmp_path / "mine", asked(2))


@given(st.integers(0, 50))
def test_sides_are_fair(seed: int) -> None:
    assert 60 < sum(swapped(seed, f"q{n}") for n in range(200)) < 140


CHOICES = st.sampled_from(["left", "right", "tie", None])


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.lists(CHOICES, min_size=2, max_size=2)), min_size=1))
def test_figures_by_enumeration(rows: list[tuple[bool, bool, list[str | None]]]) -> None:
    pairs = [pair(n, "x" if same else "a", "X." if same else "b", swap) for n, (swap, same, _) in enumerate(rows)]
    judges = {
        name: verdicts(**{f"q{n}": said[place] for n, (_, same, said) in enumerate(rows) if said[place] and not same})
        for place, name in enumerate(("one", "two"))
    }
    won = {("left", False): 1.0, ("right", True): 1.0, ("right", False): 0.0, ("left", True): 0.0}
    scores, counted = [], []
    for swap, same, said in rows:
        given_points = [won.get((one, swap), 0.5) for one in said if one]
        counted += [] if same else given_points
        if same:
            scores.append(0.5)
        elif given_points:
            scores.append(sum(given_points) / len(given_points))
    found = result(pairs, judges)
    assert (found["wins"], found["ties"], found["losses"]) == tuple(counted.count(x) for x in (1.0, 0.5, 0.0))
    assert found["questions"] + found["open"] == len(rows)
    assert found["identical"] == sum(same for _, same, _ in rows)
    if found["win_rate"] is not None:
        assert found["win_rate"]["score"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)
        assert found["win_rate"]["low"] <= found["win_rate"]["score"] <= found["win_rate"]["high"]
    assert text(found)


def test_a_clear_winner_and_a_side_that_is_preferred() -> None:
    pairs = [pair(n, swap=bool(n % 2)) for n in range(20)]
    better = {"me": verdicts(**{one.id: "right" if one.swapped else "left" for one in pairs})}
    assert result(pairs, better)["win_rate"] == {"score": 1.0, "low": 1.0, "high": 1.0}
    assert "A is better" in text(result(pairs, better))
    biased = {"me": verdicts(**{one.id: "left" for one in pairs})}
    assert result(pairs, biased)["left"] == 1.0
    assert "not clear" in text(result(pairs, biased))
    assert result(pairs, {})["win_rate"] is None
    assert "no verdict yet" in text(result(pairs, {}))
    assert result(pairs, {"a": better["me"], "b": biased["me"]})["agreement"][0]["equal"] == 0.5


def test_verdicts_last_and_a_cut_line_is_dropped(tmp_path: Path) -> None:
    said = Judge(tmp_path, "me")
    said.decide(Verdict(pair="q1", choice="left"))
    said.decide(Verdict(pair="q1", choice="tie", reason="on second thought"))
    with said.path.open("ab") as file:
        file.write(b'{"pair": "q2", "cho')
    assert Judge(tmp_path, "me").verdicts == {"q1": Verdict(pair="q1", choice="tie", reason="on second thought")}
    assert read(tmp_path)["me"]["q1"].choice == "tie"
    said.path.write_text('{"pair": "q1", "choice": "best"}\n')
    with pytest.raises(UserError, match=r"me\.jsonl:1: not a verdict"):
        Judge(tmp_path, "me")
    for name in ("../me", "", ".me"):
        with pytest.raises(UserError, match="give a name"):
            Judge(tmp_path, name)


class Scripted:
    """A provider that says what a test wants, and notes what it was asked."""

    concurrency = 1

    def __init__(self, answer: Any) -> None:
        self.asked: list[str] = []
        self._answer = answer

    def identity(self, role: str) -> str:
        return "scripted"

    def answer(self, request: Request) -> dict[str, Any]:
        text = request.prompt.text
        self.asked.append(text)
        return self._answer(text)


def judged(monkeypatch: pytest.MonkeyPatch, provider: Scripted, pairs: list[Pair], out: Path, **more: Any) -> list[str]:
    monkeypatch.setattr(judging, "Asker", lambda section, place: Asker(section, {"default": provider}))
    options = {"both_orders": False, "tell": lambda text: None, **more}
    return judging.judge(pairs, out, Judge(out / "verdicts", "model"), DataSection(), **options)


def test_a_model_judges_what_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [pair(0), pair(1, swap=True), pair(2, "same", "Same!"), pair(3)]
    Judge(tmp_path / "verdicts", "model").decide(Verdict(pair="q3", choice="tie"))
    longer = Scripted(lambda text: {"choice": "first" if "First answer:\nfrom a" in text else "second", "reason": "a"})
    assert judged(monkeypatch, longer, pairs, tmp_path) == []
    assert len(longer.asked) == 2  # neither the identical pair nor the decided one
    found = result(pairs, read(tmp_path / "verdicts"))
    assert (found["wins"], found["ties"], found["losses"], found["identical"]) == (2, 1, 0, 1)
    assert not any("swapped" in text or "q0" in text for text in longer.asked)


def test_a_model_that_only_looks_at_the_place_gives_ties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [pair(n, swap=bool(n % 2)) for n in range(4)]
    first = Scripted(lambda text: {"choice": "first", "reason": ""})
    judged(monkeypatch, first, pairs, tmp_path / "one")
    assert result(pairs, read(tmp_path / "one" / "verdicts"))["left"] == 1.0
    judged(monkeypatch, first, pairs, tmp_path / "two", both_orders=True)
    assert result(pairs, read(tmp_path / "two" / "verdicts"))["ties"] == 4


def test_what_got_no_verdict_is_told_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: str) -> dict[str, Any]:
        if "<b>1</b>" in text:
            raise AnswerError("nothing came", "timeout")
        return {"choice": "tie", "reason": ""}

    pairs = [pair(n) for n in range(3)]
    faults = judged(monkeypatch, Scripted(fails), pairs, tmp_path)
    assert len(faults) == 1
    assert "q1: nothing came" in faults[0]
    again = Scripted(lambda text: {"choice": "tie", "reason": ""})
    assert judged(monkeypatch, again, pairs, tmp_path) == []
    assert len(again.asked) == 1


def test_the_catalog_cannot_judge(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.roles\.versus: provider 'default' is the catalog"):
        judging.judge([pair(0)], tmp_path, Judge(tmp_path, "m"), DataSection(), both_orders=False, tell=print)


def test_questions_of_the_house_and_of_a_set(tmp_path: Path) -> None:
    own = built_in(30, 0)
    assert len(own) == 30
    assert len({one.suite for one in own}) == 12
    assert [one.id for one in built_in(30, 0)] == [one.id for one in own]
    sha = ImageStore(tmp_path / "image-store").put(Image.new("RGB", (20, 20)))
    turns = [user("first?", 1), assistant("yes"), user("and then?"), assistant("no")]
    samples = [Sample(id=f"s{n}", source="x", task="t", images=[sha], messages=turns) for n in range(5)]
    write_samples(tmp_path / "samples.parquet", samples)
    found = of_set(tmp_path, 3, 0)
    assert len(found) == 3
    assert [message.text for message in found[0].messages] == ["first?", "yes", "and then?"]
    assert found[0].images[0].size == (20, 20)
    write_samples(tmp_path / "samples.parquet", [Sample(id="s", source="x", task="t", messages=[assistant("hm")])])
    with pytest.raises(UserError, match="no sample in it asks anything"):
        of_set(tmp_path, 3, 0)


def own_run(folder: Path, model: Path, colours: Sequence[int], vertical: str = "my/pictures") -> Path:
    """A run with a vertical of its own that holds out a picture of each colour; gives its model's folder."""
    store, samples = ImageStore(folder / "image-store"), list[Sample]()
    for colour in colours:
        sha = store.put(Image.new("RGB", (20, 20), (colour, 0, 0)))
        said = f"red {colour}"
        samples.append(
            Sample(
                id=f"{folder.name}{colour}",
                source="x",
                task="naming",
                split="test",
                images=[sha],
                answer=said,
                messages=[user("what is it?", 1), assistant(said)],
                extra={"asked": {"rule": "exact", "others": []}},
            )
        )
    (folder / "held_out").mkdir(parents=True)
    write_samples(folder / "held_out" / "samples.parquet", samples)
    (folder / "run.json").write_text(json.dumps({"recipe": {"images": {"vertical": vertical}}}))
    shutil.copytree(model, folder / "dpo" / "model")
    return folder / "dpo" / "model"


def test_a_vertical_of_ones_own_is_asked_in_place_of_the_in_car_corpus(models: dict[Any, Path], tmp_path: Path) -> None:
    """Only pictures that both hold out; a model that lies in no run is asked the other one's."""
    one = own_run(tmp_path / "one", models["a"], range(0, 200, 20))
    two = own_run(tmp_path / "two", models["b"], range(100, 300, 20))
    held = held_out_of({"one": one, "two": two})
    assert held is not None
    assert [sample.answer for sample in held.samples] == [f"red {colour}" for colour in range(100, 200, 20)]
    asked = built_in(44, 0, held)
    assert len(asked) == 44
    own = [question for question in asked if question.suite == "vertical_en"]
    assert {question.images[0].getpixel((0, 0))[0] for question in own} <= set(range(100, 200, 20))
    assert len(own) == 4, "the vertical is one of eleven suites"
    assert not any(question.suite.startswith("in_car") for question in asked)
    assert len(built_in(200, 0, held)) == 200, "where few are held out, more of the others are asked"
    base = held_out_of({"nano": models["a"], "two": two})
    assert base is not None
    assert len(base.samples) == 10
    assert held_out_of({"nano": models["a"], "b": models["b"]}) is None
    assert held_out_of({"c": own_run(tmp_path / "corpus", models["a"], [], "corpus:in_car")}) is None


def test_what_two_verticals_could_both_be_asked_is_for_the_user_to_say(models: dict[Any, Path], tmp_path: Path) -> None:
    one = own_run(tmp_path / "one", models["a"], [0, 20])
    two = own_run(tmp_path / "two", models["b"], [40, 60])
    corpus = own_run(tmp_path / "corpus", models["b"], [], "corpus:in_car")
    none = own_run(tmp_path / "none", models["b"], [])
    (tmp_path / "none" / "held_out" / "samples.parquet").unlink()
    for other, told in (
        (two, r"hold out no picture in common"),
        (corpus, r"different verticals: \S*one has pictures of its own \(images.vertical: my/pictures\)"),
        (none, r"holds none of them out \(data.hygiene.test\)"),
    ):
        with pytest.raises(UserError, match=rf"(?s){told}.*--questions DIR"):
            held_out_of({"a": one, "b": other})
    out = tmp_path / "out"
    judge = ("--judge-url", "http://127.0.0.1:1/v1", "--judge-model", "m")
    refused = CliRunner().invoke(app, ["versus", str(one), str(two), "--out", str(out), *judge])
    assert isinstance(refused.exception, UserError)
    assert not out.exists()
    samples, store = located(tmp_path / "one" / "held_out")
    assert len(of_set(tmp_path / "one" / "held_out", 2, 0)) == 2, "what one of them holds out can be given"
    assert (samples.parent.name, store.root) == ("held_out", tmp_path / "one" / "image-store")


@contextmanager
def served(pairs: list[Pair], folder: Path) -> Iterator[str]:
    app = create_app(pairs, Judge(folder / "verdicts", "me"), ImageStore(folder / "image-store"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not (server.started and server.servers):
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def call(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, list[Pair]]:
    sha = ImageStore(tmp_path / "image-store").put(Image.new("RGB", (40, 30), (200, 30, 30)))
    return tmp_path, [pair(0, pictures=[sha]), pair(1, swap=True), pair(2, "same", "same")]


def test_the_page_gets_sides_and_no_models(folder: tuple[Path, list[Pair]]) -> None:
    place, pairs = folder
    with served(pairs, place) as url:
        told = json.loads(call(f"{url}/api/pairs")[1])
        assert [one["id"] for one in told["pairs"]] == ["q0", "q1"]  # not the identical one
        assert set(told["pairs"][0]) == {"id", "earlier", "question", "pictures", "left", "right", "choice"}
        assert [(one["left"], one["right"]) for one in told["pairs"]] == [("from a", "from b"), ("from b", "from a")]
        assert call(f"{url}/images/{pairs[0].pictures[0]}")[0] == 200
        assert call(f"{url}/images/..%2f..%2fetc%2fpasswd")[0] == 404


def test_other_pages_and_other_hosts_are_turned_away(folder: tuple[Path, list[Pair]]) -> None:
    place, pairs = folder
    good = {"pair": "q0", "choice": "left"}
    with served(pairs, place) as url:
        assert call(f"{url}/api/verdicts", good)[0] == 403
        assert call(f"{url}/api/verdicts", good, **{"X-Open4ov": "review"})[0] == 403
        assert call(f"{url}/api/pairs", Host="evil.example")[0] == 403
        mine = {"X-Open4ov": "versus"}
        assert call(f"{url}/api/verdicts", {"pair": "q9", "choice": "left"}, **mine)[0] == 404
        assert call(f"{url}/api/verdicts", {"pair": "q2", "choice": "left"}, **mine)[0] == 404
        assert call(f"{url}/api/verdicts", {"pair": "q0", "choice": "A"}, **mine)[0] == 422
        assert read(place / "verdicts") == {}
        assert json.loads(call(f"{url}/api/verdicts", good, **mine)[1]) == {"decided": 1, "of": 2}
        with urllib.request.urlopen(url, timeout=20) as page:
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert read(place / "verdicts")["me"]["q0"].choice == "left"


def test_the_page_brings_the_fonts_that_it_names(folder: tuple[Path, list[Pair]]) -> None:
    place, pairs = folder
    with served(pairs, place) as url:
        linked = re.findall(r'src: url\("(fonts/[^"]+)"\)', call(f"{url}/")[1].decode())
        files = [path.read_bytes() for path in page_fonts.SHIPPED.values()]
        assert [call(f"{url}/{one}") for one in linked] == [(200, file) for file in files]
        assert call(f"{url}/{linked[0]}", Host="evil.example")[0] == 403
        assert call(f"{url}/fonts/OFL.txt")[0] == 404


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_chinese_is_drawn_by_fonts_of_the_page(folder: tuple[Path, list[Pair]], browser: Browser) -> None:
    """On a machine whose own fonts may have none; the first character of the left answer is in the second font only."""
    place, _ = folder
    with served([pair(0, "驾驶", "from b")], place) as url:
        browser.call("Page.navigate", url=f"{url}/")
        browser.shows("document.getElementById('left').textContent === '驾驶'")
        drawn = browser.fonts("#left")
        assert {name for name, own in drawn.items() if own} == {*page_fonts.SHIPPED}, drawn
        assert not any(browser.fonts("#right").values()), "what everyone has is left to the reader's own fonts"
        assert browser.complaints == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_judging_by_keyboard(folder: tuple[Path, list[Pair]], browser: Browser) -> None:
    place, pairs = folder
    with served(pairs, place) as url:
        browser.call("Page.navigate", url=f"{url}/")
        browser.shows("document.getElementById('question').textContent === 'What is <b>0</b>?'")
        browser.shows("document.querySelector('#pictures img').naturalWidth === 40")
        assert browser.run("document.querySelectorAll('#pair b').length") == 0  # an answer's text is text
        browser.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))")
        browser.shows("document.getElementById('left').textContent === 'from b'")
        browser.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 't'}))")
        browser.shows("!document.getElementById('done').hidden")
    found = read(place / "verdicts")["me"]
    assert {name: one.choice for name, one in found.items()} == {"q0": "left", "q1": "tie"}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_buttons_stay_where_they_are_and_a_lost_picture_is_told(
    folder: tuple[Path, list[Pair]], browser: Browser
) -> None:
    """A picture that comes late must not move a button under a hand."""
    place, pairs = folder
    pairs = [*pairs, pair(3, pictures=["0" * 64])]
    here = "JSON.stringify(document.getElementById('choose-left').getBoundingClientRect())"
    with served(pairs, place) as url:
        browser.call("Page.navigate", url=f"{url}/")
        browser.shows("document.querySelector('#pictures img')?.naturalWidth === 40")
        first = browser.run(here)
        browser.press("j")
        browser.shows("document.getElementById('left').textContent === 'from b'")
        assert browser.run(here) == first
        browser.press("j")
        browser.shows("document.getElementById('fault').textContent === '1 of 1 pictures cannot be shown'")
        assert browser.run("document.getElementById('question').textContent") == "What is <b>3</b>?"
    browser.press("t")
    browser.shows("document.getElementById('fault').textContent.startsWith('The command has ended')")
    assert read(place / "verdicts") == {}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_people_judge_by_the_command_and_end_it(models: dict[Any, Path], tmp_path: Path, browser: Browser) -> None:
    """The whole way: answers, the page, clicks, Ctrl-C, the result; and on from there as another person."""
    colours = [ImageStore(tmp_path / "image-store").put(Image.new("RGB", (32, 32), (n, 90, 20))) for n in range(8)]
    write_samples(
        tmp_path / "samples.parquet",
        [Sample(id=f"s{n}", source="x", task="t", images=[sha], messages=[user(f"What is {n}?", 1), assistant("a")])
         for n, sha in enumerate(colours)],
    )  # fmt: skip
    words = ["versus", models["a"], models["b"], "--questions", tmp_path, "--out", tmp_path / "out", "--max-tokens", 4]

    def judged(who: str, button: str) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "open4ov.cli", *map(str, words), "--port", "0", "--reviewer", who],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert process.stderr is not None
        found = next(match for line in process.stderr if (match := re.search(r"(\d+) pairs? to judge at (\S+/)", line)))
        browser.call("Page.navigate", url=found[2])
        for number in range(int(found[1])):
            told = f"{who}: {number} of {found[1]} decided"
            browser.shows(f"document.getElementById('progress').textContent === '{told}'")
            browser.run(f"document.getElementById('{button}').click()")
        browser.shows("!document.getElementById('done').hidden")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "0 open" in said
        return said

    assert "the left side won 100.0 % of decisive verdicts" in judged("ann", "choose-left")
    both = judged("bob", "choose-tie")
    assert "ann and bob agree on 0 % of" in both
    assert {
        name: {one.choice for one in found.values()} for name, found in read(tmp_path / "out" / "verdicts").items()
    } == {
        "ann": {"left"},
        "bob": {"tie"},
    }


def test_options_of_the_command() -> None:
    assert cli_versus._judge(None, None, None, "KEY", None) is None
    section = cli_versus._judge(None, "http://127.0.0.1:1/v1", "org/name", "KEY", 500)
    assert section is not None
    assert (section.roles, section.budget.tokens) == ({"versus": "judge"}, 500)
    assert section.providers["judge"] == ProviderSection(
        kind="openai", base_url="http://127.0.0.1:1/v1", model="org/name", api_key_env="KEY"
    )
    assert cli_versus._named(section) == "org_name"
    for given_options, said in (
        ((None, None, "m", "K", None), "no effect without --judge-url"),
        ((None, "http://127.0.0.1:1/v1", None, "K", None), "needs --judge-model"),
        ((Path("r.yaml"), "http://127.0.0.1:1/v1", None, "K", None), "contradict"),
        ((None, "ftp://x", "m", "K", None), "--judge-url: "),
    ):
        with pytest.raises(UserError, match=said):
            cli_versus._judge(*given_options)


def test_a_stage_names_its_model(models: dict[Any, Path]) -> None:
    assert cli_versus._model(models["b"].parent) == models["b"]
    assert cli_versus._model(models["a"]) == models["a"]


def test_an_endpoint_judges_with_pictures_and_without_names(
    folder: tuple[Path, list[Pair]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, pairs = folder
    monkeypatch.setenv("JUDGE_KEY", "k")
    said = json.dumps({"choice": "second", "reason": "it is right"})
    with endpoint(lambda body, number: said) as server:
        section = cli_versus._judge(None, server.url, "m", "JUDGE_KEY", None)
        assert section is not None
        options: dict[str, Any] = {"both_orders": False, "tell": lambda text: None}
        assert judging.judge(pairs, place, Judge(place / "verdicts", "m"), section, **options) == []
        sent = [json.dumps(body) for body in server.bodies]
    assert len(sent) == 2
    assert sum("image_url" in body for body in sent) == 1
    assert not any(word in body for body in sent for word in ("swapped", "q0", "naming"))
    found = read(place / "verdicts")["m"]
    assert {name: (one.choice, one.reason) for name, one in found.items()} == dict.fromkeys(
        ("q0", "q1"), ("right", "it is right")
    )
    with endpoint(lambda body, number: 500) as down:  # nothing is left to ask
        assert judging.judge(pairs, place, Judge(place / "verdicts", "m"), section, **options) == []
        assert not down.bodies
