"""A round's plan: plan.json in its folder, for people to read and edit, written before the round starts.

What it shares out is the same total whatever the shares: `pairs` question-answer pairs among the places of `topics`,
and stage 2's own tokens among `abilities`. `null` leaves to the recipe what it says. `made` tells from which
weaknesses the plan was made, and a digest of it as it was written, so that one edited by hand is known for one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from open4ov import yaml_file
from open4ov.errors import UserError, nearest
from open4ov.feedback import Wish
from open4ov.loop.found import Strict
from open4ov.loop.places import Level, Place
from open4ov.run_dir import hash_json, read_json
from open4ov.store import atomic, write_json
from open4ov.yaml_file import Loc, dotted

FILE, PAGE = "plan.json", "plan.md"
Kind = Literal["adaptive", "fixed"]
Fault = Callable[[Loc, str], UserError]
TOLERANCE = 1e-3
"""By which shares written by hand may miss 1"""


class TopicShare(Strict):
    """`share`: of the round's pairs; `without`: what falls to the place where nothing is planned."""

    domain: str
    ability: str | None = None
    topic: str | None = None
    share: float = Field(ge=0, le=1)
    without: float = Field(ge=0, le=1)
    reason: str = ""

    @property
    def place(self) -> Place:
        return Place(self.domain, self.ability, self.topic)

    @property
    def factor(self) -> float:
        """How many times what would fall to the place."""
        return self.share / self.without if self.without > 0 else 1.0


class AbilityShare(Strict):
    """`share`: of stage 2's own tokens."""

    ability: str
    share: float = Field(ge=0, le=1)
    reason: str = ""


class Replay(Strict):
    """`share`: of stage 1's tokens, from the general set."""

    share: float = Field(ge=0, le=1)
    reason: str = ""


class Window(Strict):
    """Between which ratios rationing searches."""

    lowest: float = Field(ge=0, le=1)
    highest: float = Field(ge=0, le=1)
    reason: str = ""


class Made(Strict):
    origin: str
    digest: str


class Plan(Strict):
    """The contents of plan.json. `start`: what the round is trained from; `hard`: whether stage 3 learns what the RL of
    the round before has failed altogether; `measured`: by which questions, in words."""

    open4ov: Literal["plan-1"] = "plan-1"
    round: int = Field(ge=2)
    plan: Kind
    start: Literal["base", "last"]
    pairs: int = Field(ge=1)
    level: Level
    topics: list[TopicShare]
    abilities: list[AbilityShare] | None = None
    replay: Replay | None = None
    ration: Window | None = None
    hard: bool = False
    better: list[Wish] = Field(default_factory=list[Wish])
    measured: dict[str, str] = Field(default_factory=dict[str, str])
    made: Made | None = None

    @property
    def digest(self) -> str:
        """Of what the plan says."""
        return hash_json(self.model_dump(mode="json", exclude={"made"}))

    @property
    def edited(self) -> bool:
        """Whether it says something else than what was written."""
        return self.made is None or self.made.digest != self.digest

    def write(self, folder: Path, origin: str) -> Plan:
        """Writes plan.json and plan.md as a plan made from `origin`, and gives it."""
        made = self.model_copy(update={"made": Made(origin=origin, digest=self.digest)})
        write_json(folder / FILE, made.model_dump(mode="json"))
        made.write_page(folder)
        return made

    def write_page(self, folder: Path) -> None:
        with atomic(folder / PAGE) as temporary:
            temporary.write_text(page(self), encoding="utf-8")


def read(path: Path) -> tuple[Plan, Mapping[Loc, int]]:
    """The plan in a file, and the line of each of its keys. Raises UserError, with file, line and key, for one that is
    missing or broken."""
    if read_json(path) is None:
        try:
            json.loads(path.read_text(encoding="utf-8"))
            reason, line = "a plan is a JSON object", 1
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except json.JSONDecodeError as error:
            reason, line = error.msg, error.lineno
        except ValueError:
            reason, line = "not UTF-8 text", 1
        raise UserError(f"{path}, line {line}: not valid JSON: {reason}; mend it, or delete it to have it made anew")
    data, lines = yaml_file.read(path)
    try:
        return Plan.model_validate(data), lines
    except ValidationError as error:
        faults = [f"{_where(path, lines, item['loc'])}: {item['msg']}" for item in error.errors()]
        raise UserError("\n".join(faults)) from None


def check(plan: Plan, path: Path, lines: Mapping[Loc, int], expected: Plan, reads: Mapping[str, str]) -> None:
    """Raises UserError for a plan whose shares do not sum to 1, that names topics or abilities which there are not or
    leaves some out, or that sets what nothing reads. `expected`: the plan as it would be made; `reads`: key -> why this
    run reads it not."""

    def fault(loc: Loc, message: str) -> UserError:
        return UserError(f"{_where(path, lines, loc)}: {message}")

    for key in ("round", "plan", "level"):
        if getattr(plan, key) != getattr(expected, key):
            raise fault((key,), f"is {getattr(plan, key)}, and this is {getattr(expected, key)}; put it back")
    for key, why in reads.items():
        if getattr(plan, key) not in (None, False):
            raise fault((key,), f"has no effect: {why}; set it to null")
    known = {topic.place.title: topic for topic in expected.topics}
    for number, topic in enumerate(plan.topics):
        if topic.place.title not in known:
            message = f"there is no place {topic.place.title!r} among the topics of this run"
            raise fault(("topics", number), message + nearest(topic.place.title, known))
        if abs(topic.without - known[topic.place.title].without) > 1e-9:
            was = known[topic.place.title].without
            raise fault(("topics", number, "without"), f"is what falls to the place without a plan, {was}; put it back")
        if plan.plan == "fixed" and topic.share != topic.without:
            raise fault(("topics", number, "share"), f"a fixed plan shares out as without one, {topic.without}")
        if topic.share > 0 and topic.without == 0:
            raise fault(("topics", number, "share"), "no picture has a question there, so that no share can be had")
    _shares(fault, "topics", [(one.place.title, one.share) for one in plan.topics], list(known))
    if plan.abilities is not None:
        assert expected.abilities is not None
        names = [one.ability for one in expected.abilities]
        for number, one in enumerate(plan.abilities):
            if one.ability not in names:
                message = f"no sample of SFT-Ability is of {one.ability!r}{nearest(one.ability, names)}"
                raise fault(("abilities", number, "ability"), message)
        _shares(fault, "abilities", [(one.ability, one.share) for one in plan.abilities], names)
    if plan.ration and plan.ration.lowest >= plan.ration.highest:
        raise fault(("ration", "lowest"), f"{plan.ration.lowest:g} must be below highest = {plan.ration.highest:g}")


def _shares(fault: Fault, key: str, given: Sequence[tuple[str, float]], known: Sequence[str]) -> None:
    seen: set[str] = set()
    for number, (name, _) in enumerate(given):
        if name in seen:
            raise fault((key, number), f"{name!r} is there twice")
        seen.add(name)
    if missing := [name for name in known if name not in seen]:
        raise fault((key,), f"{missing[0]!r} is missing; give it a share, which may be 0")
    total = sum(share for _, share in given)
    if given and abs(total - 1) > TOLERANCE:
        raise fault((key,), f"the shares sum to {total:.6g}; make them sum to 1")


def _where(path: Path, lines: Mapping[Loc, int], loc: Loc) -> str:
    known = next((loc[:depth] for depth in range(len(loc), 0, -1) if loc[:depth] in lines), ())
    line = f", line {lines[known]}" if known else ""
    return f"{path}{line}: {dotted(loc)}" if loc else f"{path}"


def page(plan: Plan) -> str:
    """The plan as Markdown."""
    edited = " It was edited by hand." if plan.made and plan.edited else ""
    lines = [f"# Plan of round {plan.round} ({plan.plan})", ""]
    lines += [f"Edit `{FILE}`, not this page, before the round is run.{edited}", ""]
    lines += [f"Measured on {what}: {told}." for what, told in plan.measured.items()]
    lines += ["", f"Trained from: the {'base' if plan.start == 'base' else 'last model of the round before'}.", ""]
    lines += [f"## {plan.pairs} question-answer pairs", "", "| place | without a plan | share | pairs | why |"]
    lines += ["|---|---|---|---|---|"]
    for one in sorted(plan.topics, key=lambda one: -one.share):
        pairs = round(one.share * plan.pairs)
        lines.append(f"| {one.place.title} | {one.without:.1%} | {one.share:.1%} | {pairs} | {one.reason} |")
    if plan.abilities is not None:
        lines += ["", "## Stage 2's own tokens", "", "| ability | share | why |", "|---|---|---|"]
        rows = sorted(plan.abilities, key=lambda one: -one.share)
        lines += [f"| {one.ability} | {one.share:.1%} | {one.reason} |" for one in rows]
    lines += ["", "## Ratios", ""]
    if plan.replay:
        lines.append(f"- replay in stage 1: {plan.replay.share:.1%} of its tokens. {plan.replay.reason}")
    if plan.ration:
        window = f"{plan.ration.lowest:.1%} to {plan.ration.highest:.1%}"
        lines.append(f"- rationing searches from {window} of new data. {plan.ration.reason}")
    if not plan.replay and not plan.ration:
        lines.append("- as the recipe has them")
    if plan.hard:
        lines.append("- stage 3 learns in advance what the RL of the round before has failed altogether")
    if plan.better:
        lines.append(f"- {len(plan.better)} wishes of the rapid assessment: made anew, not more")
    return "\n".join(lines) + "\n"
