"""Every question of the general corpora, answered a second time here from the annotation alone, in other code."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from open4ov.answers import INSTRUCTION
from open4ov.corpora import TASKS, dense, generate, icons, questions

Scene = dict[str, Any]
COUNT = 60
SINGULAR = {"men": "man", "women": "woman", "knives": "knife", "leaves": "leaf", "maple leaves": "maple leaf"}
SINGULAR |= {"computer mice": "computer mouse"}


def things(scene: Scene, said: str) -> list[dict[str, Any]]:
    """The objects that a phrase of a question means: a name (singular or plural), a colour, a digit or letter."""
    said = said.removeprefix("digit ").removeprefix("letter ")
    said = SINGULAR.get(said, said)
    names = {said, said.removesuffix("s"), said.removesuffix("es"), re.sub("ies$", "y", said)}
    return [t for t in scene["objects"] if t["name"] in names]


def coloured(scene: Scene, colour: str) -> list[dict[str, Any]]:
    return [t for t in scene["objects"] if t["colour"] == colour]


def only(values: Any) -> str:
    found = set(values)
    assert len(found) == 1, found
    return str(found.pop())


def at(scene: Scene, row: int, col: int) -> str:
    return only(t["name"] for t in scene["objects"] if (t["row"], t["col"]) == (row, col))


def corner(scene: Scene, place: str) -> str:
    row = 1 if "top" in place else scene["size"][1] // 32
    return at(scene, row, 1 if "left" in place else scene["size"][0] // 32)


def beside(scene: Scene, side: str, name: str) -> str:
    (anchor,) = things(scene, name)
    return at(scene, anchor["row"] + (side == "below"), anchor["col"] + (side == "right of"))


def relation(scene: Scene, one: str, other: str, axes: tuple[str, str], answers: tuple[str, str]) -> str:
    (a,), (b,) = things(scene, one), things(scene, other)
    axis = axes[0] if axes[0] in a else axes[1]
    assert a[axis] != b[axis]
    return answers[a[axis] > b[axis]]


def extreme(scene: Scene, word: str) -> str:
    axis = "x" if word.endswith("most") else "y"
    pick = min if word in ("leftmost", "highest") else max
    return pick(scene["objects"], key=lambda t: t[axis])["name"]


def value(scene: Scene, label: str) -> int:
    return scene["values"][scene["labels"].index(label)]


def bar(scene: Scene, word: str) -> str:
    best = (max if word in ("highest", "tallest") else min)(scene["values"])
    assert scene["values"].count(best) == 1
    return scene["labels"][scene["values"].index(best)]


def more(scene: Scene, wanted: str, said: str) -> str:
    colour = said.removesuffix(" things") if said.endswith(" things") else None
    first, second = (len(coloured(s, colour) if colour else things(s, said)) for s in scene["scenes"])
    assert first != second
    return "first" if (first > second) == (wanted == "more") else "second"


def larger(scene: Scene, wanted: str) -> str:
    first, second = (int(s["lines"][0]) for s in scene["scenes"])
    assert first != second
    return "first" if (first > second) == (wanted == "larger") else "second"


def same(scene: Scene, field: str) -> str:
    first, second = (s["objects"][0][field] for s in scene["scenes"])
    return "yes" if first == second else "no"


def digits(scene: Scene) -> list[int]:
    return [int(t["name"]) for t in scene["objects"] if t["name"].isdigit()]


def how_many(scene: Scene, said: str) -> int:
    return len(coloured(scene, said[:-7])) if said.endswith(" things") else len(things(scene, said))


RULES: list[tuple[str, Callable[..., Any]]] = [
    (r"What is this\?|What object is in the picture\?|Name the object\.|What does the picture show\?",
     lambda s: only(t["name"] for t in s["objects"])),
    (r"What colou?r is the (?:text|writing)\?", lambda s: s["colour"]),
    (r"What colour is (?:it|the object)\?", lambda s: only(t["colour"] for t in s["objects"])),
    (r"What colou?r is the (.+)\?|What is the colour of the (.+)\?",
     lambda s, a, b: only(t["colour"] for t in things(s, a or b))),
    (r"How many more (.+) than (.+) are there\?", lambda s, a, b: how_many(s, a) - how_many(s, b)),
    (r"How many (.+?) are there\?|How many (.+?) are in the picture\?", lambda s, a, b: how_many(s, a or b)),
    (r"How many things are there in all\?|Count everything\.", lambda s: len(s["objects"])),
    (r"Count the (.+)\.", how_many),
    (r"How many (.+) and (.+) are there in all\?", lambda s, a, b: how_many(s, a) + how_many(s, b)),
    (r"Each (.+) costs (\d+) coins\. How many coins do all the .+ cost\?", lambda s, a, n: how_many(s, a) * int(n)),
    (r"Add all the digits in the picture\.|What is the sum of the digits in the picture\?", lambda s: sum(digits(s))),
    (r"Multiply the two digits in the picture\.", lambda s: digits(s)[0] * digits(s)[1]),
    (r"How much higher is (\w) than (\w)\?", lambda s, a, b: value(s, a) - value(s, b)),
    (r"What is the sum of (\w) and (\w)\?", lambda s, a, b: value(s, a) + value(s, b)),
    (r"Compute the expression in the picture\.|What is the result of the written sum\?",
     lambda s: eval(s["lines"][0].replace("×", "*"))),
    (r"What does the (first|second) line say\?", lambda s, a: s["lines"][a == "second"]),
    (r"What does the text say\?|Read the text\.|What is written\?|What number is written\?|Read the number\.",
     lambda s: " / ".join(s["lines"])),
    (r"Which digit is in the picture\?|What digit do you see\?",
     lambda s: only(t["name"] for t in s["objects"] if t["name"].isdigit())),
    (r"(?:Read|Which character is in|What is in) row (\d), column (\d)[.?]", lambda s, r, c: at(s, int(r), int(c))),
    (r"(?:What|Which object) is at the (.+)\?", corner),
    (r"What is (right of|below) the (.+)\?", beside),
    (r"In which (row|column) is the (.+)\?", lambda s, a, b: only(t[a[:3]] for t in things(s, b))),
    (r"Is the (.+?) (?:to the )?left or (?:to the )?right of the (.+)\?",
     lambda s, a, b: relation(s, a, b, ("x", "col"), ("left", "right"))),
    (r"Is the (.+) above or below the (.+)\?", lambda s, a, b: relation(s, a, b, ("y", "row"), ("above", "below"))),
    (r"What is the (\w+) object\?|Name the (\w+) object\.|Which object is (\w+)\?",
     lambda s, a, b, c: extreme(s, w) if (w := a or b or c) in ("leftmost", "rightmost", "highest", "lowest")
     else only(t["name"] for t in coloured(s, w))),
    (r"What is the value of (\w)\?|How high is (\w)\?|Read the value of (\w)\.",
     lambda s, a, b, c: value(s, a or b or c)),
    (r"Which (?:bar|point) is the (\w+)\?", bar),
    (r"Is (\w) higher than (\w)\?", lambda s, a, b: "yes" if value(s, a) > value(s, b) else "no"),
    (r"Which picture has (more|fewer) (.+), the first or the second\?", more),
    (r"Which picture shows the (larger|smaller) number, the first or the second\?", larger),
    (r"Is it the same object in both pictures\?", lambda s: same(s, "name")),
    (r"Is the colour the same in both pictures\?|Do the two objects have the same colour\?",
     lambda s: same(s, "colour")),
    (r"Which object is in both pictures\?",
     lambda s: only({t["name"] for t in s["scenes"][0]["objects"]} & {t["name"] for t in s["scenes"][1]["objects"]})),
    (r"(?:What is|Compute|Calculate) (\d+) ([-+*]) (\d+)[.?]", lambda s, a, o, b: eval(a + o + b)),
    (r".+ has (\d+) .+ and gets (\d+) more\. .+", lambda s, a, b: int(a) + int(b)),
    (r".+ has (\d+) .+ and gives away (\d+)\. .+", lambda s, a, b: int(a) - int(b)),
    (r".+ has (\d+) boxes with (\d+) .+ in each\. .+", lambda s, a, b: int(a) * int(b)),
    (r'(?:Repeat the word|Say) "(.+)" (\d) times\.', lambda s, a, n: " ".join([a] * int(n))),
    (r"(?:Write these words in reverse order|Reverse the list): (.+)\.", lambda s, a: ", ".join(a.split(", ")[::-1])),
    (r'(?:Write|Put the word) "(.+)" in (?:capital letters|upper case)\.', lambda s, a: a.upper()),
    (r"(?:What is|Say only) the (first|last) word(?: of this list)?: (.+)[.?]",
     lambda s, a, b: b.split(", ")[0 if a == "first" else -1]),
    (r'Spell (?:the word )?"(.+?)",?.* with hyphens\.', lambda s, a: "-".join(a)),
    (r"(?:Translate|What is) (\w+) (?:into|in) (?:Chinese|English)[.?]",
     lambda s, a: {**dict(ZH), **{han: name for name, han in ZH}}[a]),
    (r"Write the number (\d+) in Chinese\.", lambda s, a: "零一二三四五六七八九十"[int(a)]),
    (r"Write (\d+) as a word\.|Spell the number (\d+)\.", lambda s, a, b: WORDS[int(a or b)]),
    (r"Which number is (larger|smaller), (\d+) or (\d+)\?|Say the (larger|smaller) number: (\d+), (\d+)\.",
     lambda s, w, a, b, v, c, d: (max if (w or v) == "larger" else min)(int(a or c), int(b or d))),
    (r"Is (\d+) (larger|smaller) than (\d+)\?(?: Answer yes or no\.)?",
     lambda s, a, w, b: "yes" if (int(a) > int(b)) == (w == "larger") else "no"),
    (r"(?:Count|Write the numbers) from (\d+) to (\d+)\.",
     lambda s, a, b: ", ".join(map(str, range(int(a), int(b) + 1)))),
    (r'Join "(.+)" and "(.+)" with "and"\.|Write "(.+)", then "and", then "(.+)"\.',
     lambda s, a, b, c, d: f"{a or c} and {b or d}"),
]  # fmt: skip
ZH = [("red", "红色"), ("orange", "橙色"), ("yellow", "黄色"), ("green", "绿色"), ("cyan", "青色"), ("blue", "蓝色"),
      ("purple", "紫色"), ("pink", "粉色"), ("brown", "棕色"), ("black", "黑色"), ("white", "白色")]  # fmt: skip
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def solve(scene: Scene, question: str) -> str:
    asked = question.removesuffix(INSTRUCTION["en"]).strip()
    for pattern, rule in RULES:
        if match := re.fullmatch(pattern, asked):
            return str(rule(scene, *match.groups()))
    raise AssertionError(f"no rule for {question!r}")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_agree_with_a_second_derivation(task: str, split: str) -> None:
    for item in generate(task, split, COUNT, seed=3):
        sample = item.sample
        assert sample.scene is not None
        assert sample.answer == solve(sample.scene, sample.messages[0].text), sample.messages[0].text


@pytest.mark.parametrize("task", ["reasoning", "arithmetic"])
def test_worked_responses_are_right_at_every_step_and_end_in_the_boxed_answer(task: str) -> None:
    wordy = 0
    for item in generate(task, "train", 300, seed=4):
        response = item.sample.messages[1].text
        assert item.sample.messages[0].text.endswith("MUST BE put in \\boxed{}.")
        assert response.endswith(f"\\boxed{{{item.sample.answer}}}")
        for chain in re.findall(r"[\d+*=-]*=[\d+*=-]+", response):
            assert len({eval(side) for side in chain.split("=")}) == 1, chain
        wordy += response.startswith("Let me")
    assert 0.4 < wordy / 300 < 0.6


def test_dense_turns_are_answered_from_the_scene() -> None:
    checked = 0
    for index in range(400):
        sample = dense("train", index, seed=1).sample
        assert sample.scene is not None
        if sample.language != "en" or sample.scene["kind"] in ("words", "none"):
            continue
        texts = [message.text for message in sample.messages]
        for question, response in zip(texts[::2], texts[1::2], strict=True):
            if re.match(r"Describe|What do you see|List everything|What is in the picture", question):
                continue
            boxed = re.search(r"\\boxed\{(.+)\}$", response)
            assert (boxed.group(1) if boxed else response) == solve(sample.scene, question), question
            checked += 1
    assert checked > 500


def test_chinese_answers_translate_the_english_ones() -> None:
    """Colour and counting in Chinese, derived again through the Chinese names."""
    names = {symbol.zh: name for name, symbol in icons.symbols().items()}
    colours = {han: name for name, han in ZH}
    checked = 0
    for item in generate("colour", "test", 60, seed=5, language="zh"):
        question = item.sample.messages[0].text
        said = re.fullmatch(r"(.+?)(?:是什么颜色？|的颜色是什么？)", question)
        scene = item.sample.scene
        assert said is not None
        assert scene is not None
        if (name := names.get(said.group(1))) is not None:
            assert colours[item.sample.answer or ""] == only(t["colour"] for t in scene["objects"] if t["name"] == name)
            checked += 1
    for item in generate("counting", "test", 60, seed=5, language="zh"):
        question, scene = item.sample.messages[0].text, item.sample.scene
        assert scene is not None
        if said := re.fullmatch(r"(.+?)的东西有几个？", question):
            expected = len(coloured(scene, colours[said.group(1)]))
        elif question == "一共有几个东西？":
            expected = len(scene["objects"])
        else:
            said = re.fullmatch(r"(?:有几个|图中有多少个)(?:数字)?(.+)？", question)
            assert said is not None
            expected = len([t for t in scene["objects"] if t["name"] == names.get(said.group(1), said.group(1))])
        assert item.sample.answer == str(expected)
        checked += 1
    assert checked > 80


def test_questions_depend_on_the_scene_and_the_generator_only() -> None:
    for item in generate("position", "val", 20):
        scene = item.sample.scene
        assert scene is not None
        assert questions(scene, random.Random("a")) == questions(scene, random.Random("a"))
