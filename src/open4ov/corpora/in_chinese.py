"""The sums and instructions of `arithmetic.py` and `instruction.py`, asked in Chinese: the same scene, the same result.

The base's own corpora ask them in English only; stage 3 of SFT needs questions without a picture in both languages.
"""

from __future__ import annotations

import random

from open4ov.answers import INSTRUCTION
from open4ov.corpora import arithmetic, palette, words
from open4ov.corpora.item import QA, Scene
from open4ov.corpora.looking import NUMBER_WORDS

_PEOPLE = {
    "Tom": "小明", "Anna": "小红", "Ben": "小刚", "Lily": "小丽",
    "Max": "小华", "Emma": "小梅", "Sam": "小军", "Mia": "小雨",
}  # fmt: skip
_GOODS = {
    "apples": "个苹果", "books": "本书", "pens": "支笔", "eggs": "个鸡蛋",
    "cards": "张卡片", "stamps": "张邮票", "shells": "个贝壳", "coins": "枚硬币",
}  # fmt: skip
_HAN = "零一二三四五六七八九十"


def ask(scene: Scene, rng: random.Random) -> QA | None:
    """The scene's question in Chinese; None for a scene of another kind, or one that cannot be asked so."""
    if scene.get("kind") != "none":
        return None
    if scene.get("of") == "arithmetic":
        return _sum(scene, rng)
    return _instruction(scene, rng) if scene.get("of") == "instruction" else None


def _sum(scene: Scene, rng: random.Random) -> QA | None:
    a, b, sign, answer = scene["a"], scene["b"], scene["sign"], arithmetic.solve(scene)
    if scene["who"] not in _PEOPLE or scene["what"] not in _GOODS:
        return None
    who, goods = _PEOPLE[scene["who"]], _GOODS[scene["what"]]
    measure = goods[0]
    if not scene["story"]:
        question = rng.choice(("{}等于多少？", "计算 {}。", "{}是多少？")).format(f"{a} {sign} {b}")
    elif sign == "+":
        question = f"{who}有{a}{goods}，又得到{b}{measure}。{who}现在有多少{goods}？"
    elif sign == "-":
        question = f"{who}有{a}{goods}，送出{b}{measure}。还剩多少{goods}？"
    else:
        question = f"{who}有{a}个盒子，每个盒子里有{b}{goods}。一共有多少{goods}？"
    response = f"{arithmetic.steps(a, sign, b)}。\\boxed{{{answer}}}"
    return QA("arithmetic", f"{question}{INSTRUCTION['zh']}", str(answer), [], response)


def _instruction(scene: Scene, rng: random.Random) -> QA | None:
    do: str = scene["do"]
    numbers: list[int] = scene["numbers"]
    x, y = numbers
    english = scene["words"][0]
    said = list(dict.fromkeys(_chinese(word) for word in scene["words"]))
    if len(said) < 2:
        return None
    listed, word = "、".join(said), said[0]
    if do == "repeat":
        times = 2 + x % 4
        return _qa(rng, " ".join([word] * times), f"把“{word}”说{times}遍。", f"请重复“{word}”{times}遍。")
    if do == "reverse":
        return _qa(rng, "、".join(reversed(said)), f"把这些词倒过来写：{listed}。", f"请倒序写出：{listed}。")
    if do == "upper":
        return _qa(rng, english.upper(), f"把“{english}”写成大写。", f"请用大写字母写“{english}”。")
    if do == "first":
        return _qa(rng, word, f"这些词里第一个是什么：{listed}？", f"只说第一个词：{listed}。")
    if do == "last":
        return _qa(rng, said[-1], f"这些词里最后一个是什么：{listed}？", f"只说最后一个词：{listed}。")
    if do == "spell":
        return _qa(rng, "-".join(english), f"用连字符拼写“{english}”。", f"请逐个字母拼写“{english}”，中间用连字符。")
    if do == "translate":
        colour = list(palette.COLOURS)[x % len(palette.COLOURS)]
        han = palette.CHINESE[colour]
        if y % 2:
            return _qa(rng, han, f"{colour}用中文怎么说？", f"请把{colour}翻译成中文。")
        return _qa(rng, colour, f"{han}用英语怎么说？", f"请把{han}翻译成英语。")
    if do == "number":
        value = x % 11
        if y % 2:
            return _qa(rng, _HAN[value], f"用汉字写数字{value}。", f"数字{value}用汉字怎么写？")
        return _qa(rng, NUMBER_WORDS[value], f"数字{value}用英语怎么写？", f"用英语写数字{value}。")
    if do == "larger":
        wanted = rng.choice(("大", "小"))
        answer = max(x, y) if wanted == "大" else min(x, y)
        return _qa(rng, str(answer), f"{x}和{y}，哪个更{wanted}？", f"说出较{wanted}的数：{x}、{y}。")
    if do == "compare":
        wanted = rng.choice(("大", "小"))
        yes = x > y if wanted == "大" else x < y
        return _qa(rng, "是" if yes else "不是", f"{x}比{y}{wanted}吗？", f"{x}比{y}{wanted}吗？回答是或不是。")
    if do == "count":
        start, end = x % 10, x % 10 + 2 + y % 4
        counted = ", ".join(map(str, range(start, end + 1)))
        return _qa(rng, counted, f"从{start}数到{end}。", f"写出从{start}到{end}的数。")
    if do == "join":
        asked = (f"用“和”连接“{word}”与“{said[1]}”。", f"先写“{word}”，再写“和”，再写“{said[1]}”。")
        return _qa(rng, f"{word}和{said[1]}", *asked)
    return None


def _chinese(word: str) -> str:
    """A Chinese word for the English one, always the same; not its translation, for the tasks are about form."""
    return words.CHINESE[sum(word.encode()) % len(words.CHINESE)]


def _qa(rng: random.Random, answer: str, *questions: str) -> QA:
    return QA("instruction", rng.choice(questions), answer)
