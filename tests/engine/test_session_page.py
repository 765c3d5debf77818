"""The page of sessions: closed to the outside, and used as a person would in Chromium."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser, browser
from test_generate import picture
from test_server import KEY, wait
from test_session import Server, one_shot

from open4ov.engine.sessions.page import HEADERS, HTML

__all__ = ["browser"]


class Seen(HTMLParser):
    """What a page loads, and attributes that its policy would not let run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.labels: set[str] = set()
        self.fields: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.names |= set(named)
        if tag == "label":
            self.labels.add(named["for"] or "")
        if tag in ("input", "textarea"):
            self.fields.add(named["id"] or "")


def test_the_page_is_closed_and_labelled() -> None:
    seen = Seen()
    seen.feed(HTML)
    assert not seen.names & {"src", "href", "style"}
    assert not [name for name in seen.names if name.startswith("on")]
    assert seen.fields == seen.labels == {"file", "words"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://|@import", HTML)
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in HEADERS["Content-Security-Policy"]
    assert {"default-src 'none'", "frame-ancestors 'none'", "connect-src 'self'"} <= set(
        HEADERS["Content-Security-Policy"].split("; ")
    )


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_picture_and_typed_words_are_answered_as_one_shot(tiny_dir: Path, browser: Browser, tmp_path: Path) -> None:
    server = Server(tiny_dir)
    try:
        file = tmp_path / "a <b>picture.png"
        picture(1).save(file)
        browser.password = KEY
        browser.call("Fetch.enable", handleAuthRequests=True)
        browser.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        browser.shows("document.readyState === 'complete' && document.title === 'open4ov session'")
        browser.call("Fetch.disable")  # from here on the browser knows the key
        browser.choose(file)
        browser.shows("document.getElementById('state').textContent.startsWith('Computed ahead: ')")
        wait(lambda: server.engine.vision_cache.statistics.misses == 1, 120)  # encoded before a word is typed
        browser.type("What <b>colour</b> is teh")
        wait(lambda: _state(server, browser)["text"] == "What <b>colour</b> is teh", 120)
        browser.run("document.getElementById('words').setSelectionRange(22, 25)")  # teh: heard wrong
        browser.type("the circle?")
        wait(lambda: _state(server, browser)["text"] == "What <b>colour</b> is the circle?", 120)
        browser.shows("/^Computed ahead: [1-9]\\d* of \\d+ tokens$/.test(document.getElementById('state').textContent)")
        browser.run("document.getElementById('send').click()")
        browser.shows("document.querySelectorAll('.answer .note').length === 1")
        shown = browser.run("document.querySelector('.answer').firstChild.data")
        messages: list[Any] = [("user", [1, "What <b>colour</b> is the circle?"])]
        wanted = one_shot(server, *messages, max_tokens=256)["choices"][0]["message"]["content"]
        assert shown == wanted
        assert browser.run("document.querySelector('.question').textContent") == "What <b>colour</b> is the circle?"
        assert browser.run("document.querySelectorAll('.question b, .answer b').length") == 0
        note = browser.run("document.querySelector('.answer .note').textContent")
        found = re.fullmatch(
            r"First token after (\d+) ms; (\d+) of (\d+) tokens of the prompt were there already\.", note
        )
        assert found
        assert 0 < int(found[2]) <= int(found[3])
        assert _state(server, browser)["turn"] == 1
        browser.type("and now?")
        browser.run("document.getElementById('send').click()")
        browser.shows("document.querySelectorAll('.answer .note').length === 2")
        messages += [("assistant", [wanted]), ("user", ["and now?"])]
        second = browser.run("document.querySelectorAll('.answer')[1].firstChild.data")
        assert second == one_shot(server, *messages, max_tokens=256)["choices"][0]["message"]["content"]
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no picture")
        assert browser.complaints == []
        browser.choose(broken)
        browser.shows("document.getElementById('fault').textContent.startsWith('not a readable')")
        assert browser.run("document.querySelectorAll('#pictures img').length") == 0
        browser.run("document.getElementById('fresh').click()")
        wait(lambda: server.service.metrics.sessions_open == 0 and server.free, 60)
        browser.type("one")
        wait(lambda: _state(server, browser)["text"] == "one", 120)
        browser.call("Page.navigate", url="about:blank")
        wait(lambda: server.service.metrics.sessions_open == 0 and server.free, 60)  # leaving closes it
    finally:
        server.close()


def _state(server: Server, browser: Browser) -> dict[str, Any]:
    """The state of the session that the page has open."""
    number = browser.run("session")
    return server.call("GET", f"/{number}")[1] if number else {"text": None}
