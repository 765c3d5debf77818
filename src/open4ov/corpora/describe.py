"""Full descriptions of scenes, in short words: the dense supervision of pretraining."""

from __future__ import annotations

from typing import Any

from open4ov.corpora import clipart, icons, palette
from open4ov.corpora.item import Scene

REQUESTS = {
    "en": ("Describe the picture.", "What do you see?", "List everything in the picture.", "What is in the picture?"),
    "zh": ("描述这张图片。", "你看到了什么？", "图片里有什么？"),
}
_NONE = {"en": "empty", "zh": "空"}


def chinese(thing: dict[str, Any]) -> str:
    """The Chinese name of an object (a character names itself)."""
    if thing["type"] == "symbol":
        return icons.symbols()[thing["name"]].zh
    return clipart.drawings()[thing["name"]].zh if thing["type"] == "drawing" else thing["name"]


def phrase(thing: dict[str, Any], language: str = "en") -> str:
    """ "red cat", "blue 7", or the name alone for a drawing."""
    if "colour" not in thing:
        return chinese(thing) if language == "zh" else thing["name"]
    if language == "zh":
        return f"{palette.CHINESE[thing['colour']]}的{chinese(thing)}"
    return f"{thing['colour']} {thing['name']}"


def describe(scene: Scene, language: str = "en") -> str:
    """Everything in the scene, in reading order. language: "en" or "zh"."""
    kind = scene["kind"]
    if kind == "pair":
        first, second = (describe(part, language) for part in scene["scenes"])
        return f"第一张：{first} 第二张：{second}" if language == "zh" else f"First: {first} Second: {second}"
    if kind == "text":
        said = " / ".join(scene["lines"])
        colour = scene["colour"]
        return f"文字：{said}，{palette.CHINESE[colour]}。" if language == "zh" else f"Text: {said}, in {colour}."
    if kind == "chart":
        values = ", ".join(f"{a} {b}" for a, b in zip(scene["labels"], scene["values"], strict=True))
        if language == "zh":
            return ("柱状图" if scene["of"] == "bar" else "折线图") + f"：{values}。"
        return f"{scene['of'].capitalize()} chart: {values}."
    if kind == "grid":
        return _grid(scene, language)
    joined = ("，" if language == "zh" else ", ").join(phrase(thing, language) for thing in scene["objects"])
    if kind == "single":
        return joined + ("。" if language == "zh" else ".")
    return f"从左到右：{joined}。" if language == "zh" else f"From left to right: {joined}."


def _grid(scene: Scene, language: str) -> str:
    width, height = scene["size"]
    cells = {(thing["row"], thing["col"]): phrase(thing, language) for thing in scene["objects"]}
    lines: list[str] = []
    for row in range(1, height // 32 + 1):
        line = [cells.get((row, col), _NONE[language]) for col in range(1, width // 32 + 1)]
        lines.append(f"第{row}行：" + "，".join(line) + "。" if language == "zh" else f"Row {row}: {', '.join(line)}.")
    return ("" if language == "zh" else " ").join(lines)
