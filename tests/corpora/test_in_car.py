"""The in-car knowledge: complete, consistent, and refused with the entry's name when it is not."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from fontTools.ttLib import TTFont

from open4ov.corpora.in_car import KnowledgeError, excluded, fragments, load, symbol
from open4ov.corpora.in_car.knowledge import BY_COLOUR, KNOWLEDGE, SEVERITIES, parse
from open4ov.corpora.in_car.render import ASSETS, FONT, SIGNS

SYMBOLS = load()
HAN = re.compile(r"[\u4e00-\u9fff，。；、]+")


def entry(**changes: object) -> dict[str, object]:
    good = yaml.safe_load(KNOWLEDGE.read_text(encoding="utf-8"))[0]
    return {**good, **changes}


def test_there_are_enough_symbols() -> None:
    kinds = Counter(each.kind for each in SYMBOLS)
    assert kinds["tell_tale"] >= 60
    assert kinds["road_sign"] >= 40


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_two_symbols_share_a_name_or_fact(language: str) -> None:
    terms = Counter(
        term.casefold() for each in SYMBOLS for term in (getattr(each, language).name, *getattr(each, language).aliases)
    )
    assert [term for term, count in terms.items() if count > 1] == []
    meanings = Counter(getattr(each, language).meaning for each in SYMBOLS)
    assert [text for text, count in meanings.items() if count > 1] == []


@pytest.mark.parametrize("each", SYMBOLS, ids=lambda each: each.id)
def test_english_is_short_sentences(each) -> None:
    for text in (each.en.meaning, each.en.action):
        assert len(text.split()) <= 10
        assert re.fullmatch(r"[A-Z][A-Za-z0-9 ,;.'-]*\.", text), text
    assert each.en.name.isascii()
    assert each.en.name[-1] != "."


@pytest.mark.parametrize("each", SYMBOLS, ids=lambda each: each.id)
def test_chinese_is_chinese(each) -> None:
    for text in (each.zh.name, *each.zh.aliases):
        assert re.fullmatch(r"[\u4e00-\u9fff]+", text), text
    for text in (each.zh.meaning, each.zh.action):
        assert HAN.fullmatch(text), text
        assert text.endswith("。")
        assert len(text) <= 20


@pytest.mark.parametrize("each", SYMBOLS, ids=lambda each: each.id)
def test_colour_matches_severity_or_a_note_says_why(each) -> None:
    usual = each.severity in BY_COLOUR[each.kind][each.colour]
    assert usual != bool(each.note)
    assert each.severity_in("zh") == SEVERITIES[each.kind][each.severity]


def test_icons_are_the_fonts_glyphs_and_distinct() -> None:
    tell_tales = [each for each in SYMBOLS if each.kind == "tell_tale"]
    assert len({each.codepoint for each in tell_tales}) == len({each.icon for each in tell_tales}) == len(tell_tales)
    named = TTFont(FONT).getBestCmap()
    assert {each.icon: named[int(each.codepoint or "0", 16)] for each in tell_tales} == {
        each.icon: each.icon for each in tell_tales
    }


def test_every_sign_has_its_drawing_and_its_licence() -> None:
    index = {each["id"]: each for each in json.loads((ASSETS / "index.json").read_text(encoding="utf-8"))}
    signs = {each.id: each for each in SYMBOLS if each.kind == "road_sign"}
    assert index.keys() == signs.keys() == {path.stem for path in SIGNS.glob("*.png")}
    for name, record in index.items():
        assert record["licence"] == "public domain"
        assert record["author"]
        assert record["source"] == signs[name].file
    assert FONT.is_file()
    assert "Apache" in (ASSETS / "LICENCES.md").read_text(encoding="utf-8")


def test_every_icon_is_kept_out_of_pretraining() -> None:
    lists = excluded()
    names = set(lists["automotive"]) | set(lists["medical"])
    assert {each.icon for each in SYMBOLS if each.icon} <= names
    assert {"stethoscope", "pill", "hospital-box", "ambulance", "needle"} <= set(lists["medical"]) | names
    prefixes = tuple(lists["openclipart_prefixes"])
    assert all(each.file.startswith(prefixes) for each in SYMBOLS if each.file)


def test_fragments_hold_every_name_and_fact() -> None:
    english, chinese = set(fragments("en")), set(fragments("zh"))
    for each in SYMBOLS:
        assert {each.en.name, each.en.meaning, each.en.action} <= english
        assert {each.zh.name, each.zh.meaning, each.zh.action} <= chinese
    assert "ABS" not in english


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"colour": "purple"}, "abs.*colour"),
        ({"colour": "red"}, "abs.*check soon.*needs a note"),
        ({"note": "because"}, "abs.*needs no note"),
        ({"severity": "warning"}, "abs.*severity 'warning' is not one of stop now"),
        ({"codepoint": None}, "abs.*needs icon and codepoint"),
        ({"codepoint": "xyz"}, "abs.*codepoint"),
        ({"zh": {"name": "某", "aliases": [], "meaning": "某。", "action": " "}}, r"abs.*zh\.action"),
        ({"shape": "round"}, "abs.*shape"),
    ],
)
def test_a_bad_entry_is_refused_by_name(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(KnowledgeError, match=complaint):
        parse(yaml.safe_dump([entry(**changes)], allow_unicode=True), "mine.yaml")


def test_clashes_and_malformed_files_are_refused() -> None:
    twice = yaml.safe_dump([entry(), entry()], allow_unicode=True)
    with pytest.raises(KnowledgeError, match="abs: the id is used twice"):
        parse(twice, "mine.yaml")
    clash = yaml.safe_dump([entry(), entry(id="other")], allow_unicode=True)
    with pytest.raises(KnowledgeError, match="other: 'anti-lock brakes' is also a name of entry abs"):
        parse(clash, "mine.yaml")
    with pytest.raises(KnowledgeError, match=r"mine\.yaml is not YAML"):
        parse("- {", "mine.yaml")
    with pytest.raises(KnowledgeError, match="must be a list"):
        parse("id: abs", "mine.yaml")
    with pytest.raises(KnowledgeError, match="entry number 1"):
        parse("- abs", "mine.yaml")
    with pytest.raises(KnowledgeError, match="'nosuch'"):
        symbol("nosuch")


def test_the_page_says_how_many() -> None:
    page = Path(__file__).parents[2] / "docs" / "in-car.md"
    kinds = Counter(each.kind for each in SYMBOLS)
    text = page.read_text(encoding="utf-8")
    assert f"| {kinds['tell_tale']} | Material" in text
    assert f"| {kinds['road_sign']} | Open Clip Art" in text
