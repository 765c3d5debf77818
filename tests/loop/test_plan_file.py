"""plan.json as people edit it: what is refused, with file, line and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from open4ov.errors import UserError
from open4ov.loop import plan as plans
from open4ov.loop.plan import AbilityShare, Plan, Replay, TopicShare, Window

DOMAIN = "Automotive ~ Road signs"


def made() -> Plan:
    topics = [
        TopicShare(domain=DOMAIN, ability="Knowledge", share=0.7, without=0.5, reason="weak"),
        TopicShare(domain=DOMAIN, ability="Recognition", share=0.3, without=0.5),
    ]
    abilities = [AbilityShare(ability="Counting", share=0.6), AbilityShare(ability="Charts", share=0.4)]
    told: dict[str, Any] = {"round": 2, "plan": "adaptive", "start": "base", "pairs": 90, "level": "ability_l1"}
    return Plan(**told, topics=topics, abilities=abilities, replay=Replay(share=0.4, reason="held"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made().write(tmp_path, "origin")
    return tmp_path / "plan.json"


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """What is said of the plan after a change of its JSON; empty when nothing is."""
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told, indent=1))
    try:
        found, lines = plans.read(path)
        plans.check(found, path, lines, made(), {"ration": "admission.ration has no trials"})
    except UserError as error:
        return str(error)
    return ""


def put(told: Any, value: object, *place: str | int) -> None:
    for part in place[:-1]:
        told = told[part]
    told[place[-1]] = value


def test_a_plan_comes_back_as_it_was_written(path: Path) -> None:
    found, lines = plans.read(path)
    assert found.model_copy(update={"made": None}) == made()
    assert not found.edited
    plans.check(found, path, lines, made(), {})
    page = (path.parent / "plan.md").read_text()
    assert "| Automotive ~ Road signs × Knowledge | 50.0% | 70.0% | 63 | weak |" in page
    assert "replay in stage 1: 40.0% of its tokens. held" in page


def test_an_edited_plan_is_known_for_one(path: Path) -> None:
    def swap(told: dict[str, Any]) -> None:
        put(told, 0.5, "topics", 0, "share")
        put(told, 0.5, "topics", 1, "share")

    assert edited(path, swap) == ""
    found, _ = plans.read(path)
    assert found.edited
    assert "edited by hand" in plans.page(found)
    path.write_text(json.dumps(json.loads(path.read_text())))  # another layout is no other plan
    assert plans.read(path)[0].digest == found.digest


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("topics", 0, "share"), 0.8, r"line \d+: topics: the shares sum to 1.1; make them sum to 1"),
        (("topics", 0, "share"), 1.7, r"line \d+: topics.0.share: Input should be less than or equal to 1"),
        (("topics", 0, "share"), "half", r"line \d+: topics.0.share: Input should be a valid number"),
        (("topics", 1, "ability"), "Recogniton", r"line \d+: topics.1: there is no place .*did you mean .*Recognition"),
        (("topics", 1, "ability"), "Knowledge", r"line \d+: topics.1: .*is there twice"),
        (("topics", 1, "without"), 0.4, r"line \d+: topics.1.without: is what falls to the place without a plan, 0.5"),
        (("topics",), [], r"line \d+: topics: .*Knowledge' is missing"),
        (("abilities", 0, "share"), 0.5, r"line \d+: abilities: the shares sum to 0.9"),
        (("abilities", 0, "ability"), "Conting", r"line \d+: abilities.0.ability: no sample .*did you mean 'Counting'"),
        (("replay", "share"), -0.1, r"line \d+: replay.share: .*greater than or equal to 0"),
        (
            ("ration",),
            {"lowest": 0.1, "highest": 0.2},
            r"line \d+: ration: has no effect: admission.ration has no trials",
        ),
        (("round",), 3, r"line \d+: round: is 3, and this is 2"),
        (("start",), "first", r"line \d+: start: Input should be 'base' or 'last'"),
        (("pairs",), 0, r"line \d+: pairs: .*greater than or equal to 1"),
        (("shares",), {}, r"shares: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    path: Path, place: tuple[str | int, ...], value: object, message: str
) -> None:
    said = edited(path, lambda told: put(told, value, *place))
    assert said.startswith(str(path))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(said)


def test_an_empty_window_is_refused(path: Path) -> None:
    found, lines = plans.read(path)
    wrong = found.model_copy(update={"ration": Window(lowest=0.4, highest=0.4)})
    with pytest.raises(UserError, match=r"ration: 0.4 must be below highest = 0.4|ration.lowest"):
        plans.check(wrong, path, lines, made(), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"round": 2,\n "topics": [}', r"plan.json, line 2: not valid JSON"), ("[1]", "a plan is a JSON object")],
)
def test_a_broken_file_is_refused(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        plans.read(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        plans.read(path)
