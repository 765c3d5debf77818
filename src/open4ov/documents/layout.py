"""Lines into blocks: paragraphs, headings, captions, and what stands in the margins."""

from __future__ import annotations

import re
from collections.abc import Sequence

from open4ov.documents.blocks import Block, Box, Line, RawPage, hull
from open4ov.documents.captions import caption_label
from open4ov.documents.columns import reading_order

MARGIN = 0.065
"""Share of the page's height at its top and bottom in which page numbers and running titles stand."""

_ITEM = re.compile(
    r"^\s*(?:[•●▪‣◦–—*-]\s|(?:question|problem|exercise)\s+\d|\(?\d{1,3}\s*[.)、．）]\s*\D|第\s*\d+\s*题|[(（]?[A-H][.)、．）:：]\s*\S"
    r"|(?:answers?|solution|答案|解析|参考答案)\s*[:：]|[【\[](?:答案|解析))",
    re.IGNORECASE,
)
_PAGE_NUMBER = re.compile(
    r"^\W*(?:page\s*|第\s*)?(?:\d{1,4}|[ivxlc]{1,7})(?:\s*(?:/|of|页，?共)\s*\d{1,4})?\s*页?\W*$", re.IGNORECASE
)
_CJK_END = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]$")
_CJK_START = re.compile(r"^[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]")


def join(lines: Sequence[str]) -> str:
    """The text of lines: words that a hyphen broke are whole again, Chinese lines meet without a space."""
    text = ""
    for line in lines:
        if not text:
            text = line
        elif re.search(r"[a-z]-$", text) and re.match(r"[a-z]", line):
            text = text[:-1] + line
        elif _CJK_END.search(text) and _CJK_START.search(line):
            text += line
        else:
            text += " " + line
    return text


def on_baselines(lines: Sequence[Line]) -> list[Line]:
    """Runs that stand on one line with less than a word's gap between them (a change of font) become one."""
    merged: list[Line] = []
    for line in lines:
        before = merged[-1] if merged else None
        if before is not None and _continues(before, line):
            gap = line.box.left - before.box.right
            space = " " if gap > 0.12 * before.size and not _CJK_END.search(before.text) else ""
            size = before.size if len(before.text) >= len(line.text) else line.size
            text = before.text + space + line.text
            merged[-1] = Line(hull((before.box, line.box)), text, size, before.bold and line.bold)
        else:
            merged.append(line)
    return merged


def _continues(before: Line, line: Line) -> bool:
    shared = min(before.box.bottom, line.box.bottom) - max(before.box.top, line.box.top)
    gap = line.box.left - before.box.right
    return shared > 0.6 * min(before.box.height, line.box.height) and -2 < gap < 0.8 * max(before.size, line.size)


def blocks(page: RawPage, lines: Sequence[Line], figures: Sequence[Box]) -> list[Block]:
    """The page's blocks in reading order; `figures` are rectangles to put among the text, `lines` what lies outside."""
    body = page.body
    items: list[Line | Box] = [*on_baselines(lines), *figures]
    ordered = reading_order(items, lambda item: item if isinstance(item, Box) else item.box)
    made: list[Block] = []
    open_: list[Line] = []

    def end() -> None:
        if open_:
            made.append(_block(page, open_, body))
            open_.clear()

    for item in ordered:
        if isinstance(item, Box):
            end()
            made.append(Block(kind="figure", page=page.number, box=item))
            continue
        if open_ and not _same_block(open_, item, page):
            end()
        open_.append(item)
    end()
    return made


def _same_block(before: Sequence[Line], line: Line, page: RawPage) -> bool:
    last, first = before[-1], before[0]
    height = max(last.box.height, 1.0)
    if _in_margin(last.box, page) != _in_margin(line.box, page):
        return False
    if not -0.5 * height <= line.box.top - last.box.bottom <= 0.75 * height:
        return False
    if caption_label(first.text) and line.box.top - last.box.bottom > 0.4 * height:
        return False
    if last.box.across(line.box) <= 0 or abs(line.size - last.size) > 0.2 * last.size:
        return False
    if _ITEM.match(line.text) or caption_label(line.text):
        return False
    if last.bold != line.bold and (last.bold and len(last.text) < 80):
        return False
    # a new paragraph: an indent after a line that did not reach the right edge, or a clear first-line indent
    indent = line.box.left - min(other.box.left for other in before)
    right = max(other.box.right for other in before)
    ends = re.search(r"[.!?。！？:：]\W*$", last.text) is not None
    if len(before) > 1 and ends and indent > 0.8 * line.size and first.box.left - last.box.left > 0.5 * line.size:
        return False
    return not (ends and len(before) > 1 and last.box.right < right - 6 * line.size and indent > 0.8 * line.size)


def _in_margin(box: Box, page: RawPage) -> bool:
    return box.bottom <= MARGIN * page.height or box.top >= (1 - MARGIN) * page.height


def _block(page: RawPage, lines: Sequence[Line], body: float) -> Block:
    text = join([line.text for line in lines])
    box = hull([line.box for line in lines])
    label = caption_label(text)
    block = Block(kind="text", page=page.number, box=box, text=text, label=label)
    size = max(line.size for line in lines)
    if _in_margin(box, page) and _PAGE_NUMBER.match(text):
        block.kind = "margin"
    elif label is not None:
        block.kind = "caption"
    elif len(lines) <= 3 and len(text) <= 160 and not re.search(r"[.。;；,，]$", text):
        bold = all(line.bold for line in lines)
        if size >= 1.18 * body or (bold and not _ITEM.match(text) and any(letter.isalpha() for letter in text)):
            block.kind = "heading"
    return block


def running_title(block: Block, page_height: float) -> str | None:
    """What names a block in the margin on every page alike (its text without digits); None for one in the page."""
    place = block.place
    if block.kind == "figure" or not (place.bottom <= MARGIN * page_height or place.top >= (1 - MARGIN) * page_height):
        return None
    return re.sub(r"\d+", "#", block.text.casefold()).strip()
