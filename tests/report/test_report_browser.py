"""The report and the comparison in Chromium, as a person would use them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser, browser
from test_offline import SUMMARY, pair
from test_page import embedded

from open4ov.report import page as report_page
from open4ov.store import write_samples

__all__ = ["browser"]
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
CARDS = "document.querySelectorAll('#cards > *').length"
COUNT = "document.getElementById('count').textContent"


def opened(browser: Browser, page: Path, width: int = 1200, dark: bool = False) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.call("Emulation.setEmulatedMedia", features=scheme)
    browser.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    browser.call("Page.navigate", url=page.as_uri())
    browser.shows("document.readyState === 'complete' && document.querySelectorAll('#cards > *').length > 0")


def chosen(browser: Browser, **values: str) -> None:
    for name, value in values.items():
        browser.run(
            f"{{ const one = document.getElementById('{name}'); one.value = '{value}'; "
            "one.dispatchEvent(new Event(one.type === 'search' ? 'input' : 'change')); }"
        )


def pressed(browser: Browser, kind: str) -> None:
    browser.run(f"[...document.getElementById('kinds').children].find((one) => one.value === '{kind}').click()")


def wanted(data: dict[str, Any], kind: str, first: int, second: int) -> int:
    """How many questions with kept pictures are of a kind between two models, counted here anew."""
    count = 0
    for case in data["cases"]:
        if not case["kept"]:
            continue
        a, b = ([bool(one[1]) for one in case["answers"][place]] for place in (first, second))
        was, now = sum(a) * 2 >= len(a), sum(b) * 2 >= len(b)
        made_up = any(one[3] == 2 for one in case["answers"][second])
        count += {"fixed": now and not was, "broken": was and not now, "hallucinated": made_up, "all": True}[kind]
    return count


def test_filters_between_any_two_models(reported: Path, browser: Browser) -> None:
    page = reported / "report.html"
    data = embedded(page.read_text())
    opened(browser, page)
    assert browser.run(COUNT) == f"{wanted(data, 'all', 0, 5)} questions"
    assert browser.run(CARDS) == 24
    for first, second in ((0, 5), (1, 3)):
        chosen(browser, **{"from": str(first), "to": str(second)})
        for kind in ("fixed", "broken", "hallucinated"):
            pressed(browser, kind)
            number = wanted(data, kind, first, second)
            assert number > 0
            assert browser.run(COUNT) == ("1 question" if number == 1 else f"{number} questions")
    pressed(browser, "all")
    chosen(browser, suite="in_car_zh")
    assert browser.run(COUNT) == "8 questions"
    browser.run("document.getElementById('unkept').click()")
    assert browser.run(COUNT) == "12 questions"
    chosen(browser, suite="", words="<B>COUNTING")
    assert browser.run(COUNT) == "12 questions"
    assert browser.run("document.querySelectorAll('#cards b').length") == 0, "texts are texts"
    chosen(browser, words="there is no such text")
    assert browser.run(COUNT) == "0 questions"
    assert browser.complaints == []


def test_keys_alone_will_do(reported: Path, browser: Browser) -> None:
    opened(browser, reported / "report.html")
    browser.press("/")
    assert browser.run("document.activeElement.id") == "words"
    browser.run("document.querySelector('#cards > *').focus()")
    browser.press("ArrowRight")
    assert browser.run("[...document.getElementById('cards').children].indexOf(document.activeElement)") == 1
    browser.run("document.activeElement.click()")
    assert browser.run("document.getElementById('view').open") is True
    assert browser.run("document.getElementById('where').textContent").startswith("2 of ")
    assert browser.run("document.querySelectorAll('#large .answer').length") == 6, "every model's answer"
    browser.press("ArrowRight")
    assert browser.run("document.getElementById('where').textContent").startswith("3 of ")
    browser.run("document.getElementById('close').click()")
    browser.shows("!document.getElementById('view').open")
    assert browser.run("[...document.getElementById('cards').children].indexOf(document.activeElement)") == 2
    browser.run("document.getElementById('more').click()")
    assert browser.run(CARDS) == 48
    assert browser.complaints == []


def test_lines_of_the_radar_can_be_shown_and_hidden(reported: Path, browser: Browser) -> None:
    opened(browser, reported / "report.html")
    shown = (
        "[...document.querySelectorAll('#figure-radar [data-model=\"rl\"]')].every((one) => one.style.display === '')"
    )
    assert browser.run(shown) is False
    browser.run("document.querySelector('[data-shows=rl]').click()")
    assert browser.run(shown) is True


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark(reported: Path, browser: Browser, dark: bool) -> None:
    opened(browser, reported / "report.html", dark=dark)
    ground = "getComputedStyle(document.body).backgroundColor"
    colours = {False: "rgb(251, 250, 248)", True: "rgb(20, 22, 26)"}
    assert browser.run(ground) == colours[dark]
    button = "document.getElementById('theme')"
    browser.run(f"{button}.click()")
    assert browser.run(ground) == colours[False]
    browser.run(f"{button}.click()")
    assert browser.run(ground) == colours[True]
    assert browser.run(f"{button}.getAttribute('aria-label')") == "colours: dark"
    ink = "getComputedStyle(document.querySelector('#figure-abilities text')).fill"
    assert browser.run(ink) == browser.run("getComputedStyle(document.body).color"), "figures take the page's ink"
    assert browser.complaints == []


def test_a_phone_scrolls_one_way_only(reported: Path, browser: Browser) -> None:
    opened(browser, reported / "report.html", width=360)
    assert browser.run("document.documentElement.scrollWidth") == 360
    texts = "[...document.querySelectorAll('figure svg text')]"
    small = browser.run(f"Math.min(...{texts}.map((one) => one.getBoundingClientRect().height))")
    assert small >= 6, "pixels of the smallest text of a figure"


def test_frames_that_scroll_take_keys_and_on_a_desktop_the_fates_are_whole(reported: Path, browser: Browser) -> None:
    opened(browser, reported / "report.html", width=1280)
    over = "document.getElementById('fates').parentElement"
    assert browser.run(f"{over}.scrollWidth - {over}.clientWidth") == 0
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=900, deviceScaleFactor=1, mobile=True)
    frames = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth)"
    browser.shows(f"{frames}.length > 0 && {frames}.every((one) => one.tabIndex === 0)")
    assert browser.run(f"{frames}.every((one) => one.getAttribute('aria-label') !== '')") is True
    still = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth <= one.clientWidth)"
    browser.shows(f"{still}.every((one) => !one.hasAttribute('tabindex'))")


def test_every_control_has_a_name_and_every_picture_words(reported: Path, browser: Browser) -> None:
    opened(browser, reported / "report.html")
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "combobox", "checkbox", "searchbox", "link", "image"}
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored") and node.get("role", {}).get("value") in roles
        and not node.get("name", {}).get("value", "").strip()
    ]  # fmt: skip
    assert nameless == []


def test_without_pictures_it_still_works(finished: Any, browser: Browser) -> None:
    from open4ov.report import content, page
    from open4ov.report.found import of_directory

    root = finished.out.parent
    (root / "run.json").write_text("{}")
    shutil.rmtree(root / "image-store")
    found = of_directory(root, ["data"], "1")
    (root / "partial.html").write_text(page.page(found, content.gather(found)))
    browser.call("Page.navigate", url=(root / "partial.html").as_uri())
    browser.shows("document.readyState === 'complete' && document.getElementById('partial') !== null")
    browser.shows("document.getElementById('unkept').checked || document.querySelectorAll('#cards > *').length > 0")
    assert browser.complaints == []


def test_of_a_preference_pair_the_chosen_response_is_above_the_rejected(finished: Any, browser: Browser) -> None:
    write_samples(finished.inputs["dpo"] / "pairs.parquet", [pair(1, "missing_image", None)])
    (finished.inputs["dpo"] / "summary.json").write_text(json.dumps(SUMMARY))
    report_page.run(finished)
    opened(browser, finished.out / "report.html")
    edges = browser.run(
        "[...document.querySelectorAll('.preference :is(.suite, q, .right, .wrong)')]"
        ".map((one) => one.getBoundingClientRect()).flatMap((one) => [one.top, one.bottom])"
        ".map(String).join(' ')"
    )
    places = [float(edge) for edge in edges.split()]
    assert len(places) == 8
    assert places == sorted(places), "kind, question, chosen, rejected, each below the one before"


def test_nothing_is_asked_of_the_network(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|https?://(?!www\.w3\.org)", html)
