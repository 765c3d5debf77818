"""Captions: which lines are some ("Figure 3.1. The mail route", "图 3 电路"), and which figure each belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence

from open4ov.documents.blocks import Block

REACH = 48.0
"""Points between a figure and its caption, at most."""

_NUMBER = (
    r"(?:[A-Z](?=[.\-–—]?\d))?[.\-–—]?\d+(?:[.\-–—]\d+)*(?:\s?\([a-z]\)|[a-z](?![a-z]))?"
    r"|[IVX]{1,5}(?![A-Za-z])|[A-Z](?![A-Za-z])"
)
_EN = re.compile(
    rf"^(fig(?:ure|\.)?|figs\.|chart|diagram|plate|scheme|photo|illustration|graph|map|exhibit|table|tab\.)\s*({_NUMBER})"
    r"\s*([.:：|\-–—]?)\s*(.*)$",
    re.IGNORECASE | re.DOTALL,
)
_ZH = re.compile(
    r"^(附?图|插图|圖|图表|表)\s*([A-Z]?\d+(?:[.\-–—·]\d+)*(?:\([a-z]\)|[a-z](?![a-z]))?|[一二三四五六七八九十]+)\s*([.:：、．]?)\s*(.*)$",
    re.DOTALL,
)
_SAYS_EN = re.compile(
    r"^(?:shows?|showed|illustrates?|depicts?|presents?|gives?|displays?|demonstrates?|compares?|plots?|summari[sz]es?|"
    r"lists?|is|was|are|were|has|have|can|may|and|or|to|in|of|on|for|which|that|we|as|below|above|contains?|describes?|"
    r"represents?|reports?|provides?|indicates?|reveals?|also|does|will|should|the|,|;|\))(?:\W|$)",
)
_SAYS_ZH = re.compile(r"^(?:所示|中|为|是|表示|显示|给出|可以|可知|可见|说明|展示|描述|的|和|与|或|，|所|里|上)")
_WORDS = {"fig": "figure", "fig.": "figure", "figs.": "figure", "tab.": "table", "附图": "图", "插图": "图", "圖": "图"}
MENTION = re.compile(
    rf"\b(fig(?:ure|\.|s\.)?|chart|diagram|plate|scheme|photo|illustration|graph|map|exhibit)\s*({_NUMBER})"
    r"|(附?图|插图|圖)\s*([A-Z]?\d+(?:[.\-–—·]\d+)*)",
    re.IGNORECASE,
)


def _label(word: str, number: str) -> str:
    word = word.casefold()
    return f"{_WORDS.get(word, word)} {re.sub('[–—·-]', '-', number.replace(' ', ''))}"


def caption_label(text: str) -> str | None:
    """`figure 3.1`, `图 3`, `table 2` when the text is a caption; None for a sentence that only begins so."""
    found = _EN.match(text)
    if found:
        word, number, mark, rest = found.groups()
        if len(text) > 600 or (not mark and (_SAYS_EN.match(rest) or (rest[:1].islower() and len(rest) > 40))):
            return None
        if word.islower() or (len(word) > 4 and not rest and not mark and len(text) > 40):
            return None  # mid-sentence: "... as in\nfigure 3 ..."
        return _label(word, number)
    found = _ZH.match(text)
    if found:
        word, number, mark, rest = found.groups()
        if len(text) > 300 or (not mark and _SAYS_ZH.match(rest)):
            return None
        return _label(word, number)
    return None


def mentions(text: str) -> set[str]:
    """The labels of the figures that a text refers to."""
    found = set[str]()
    for match in MENTION.finditer(text):
        word, number, zh_word, zh_number = match.groups()
        if zh_word or not number.isalpha() or number.isupper():
            found.add(_label(zh_word or word, zh_number or number))
    return found


def is_table(block: Block) -> bool:
    """Whether a caption is a table's."""
    return block.label is not None and block.label.startswith(("table", "表"))


def attach(blocks: Sequence[Block]) -> None:
    """Gives each figure of a page its caption, in place: the nearest pairs first, each caption to one figure.

    A caption stands below or above its figure, or beside it, with nothing between. Below is the custom, so above
    counts half as far again.
    """
    figures = [block for block in blocks if block.kind == "figure" and not block.caption]
    captions = [block for block in blocks if block.kind == "caption" and not is_table(block)]
    pairs: list[tuple[float, int, int]] = []
    for i, figure in enumerate(figures):
        for j, caption in enumerate(captions):
            cost = _cost(figure, caption, blocks)
            if cost is not None:
                pairs.append((cost, i, j))
    taken: tuple[set[int], set[int]] = (set(), set())
    for _, i, j in sorted(pairs):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            give(figures[i], captions[j])


def give(figure: Block, caption: Block) -> None:
    """Writes a caption down with its figure."""
    figure.caption, figure.label, figure.caption_box = caption.text, caption.label, caption.box


def carry(before: Sequence[Block], after: Sequence[Block]) -> None:
    """A caption that a page break parted from its figure: first on its page, and the figure last on the page before."""
    text = [block for block in after if block.kind != "margin"]
    last = [block for block in before if block.kind != "margin"]
    if not text or not last or text[0].kind != "caption" or last[-1].kind != "figure" or last[-1].caption:
        return
    if is_table(text[0]) or any(block.caption_box == text[0].box for block in text):
        return
    give(last[-1], text[0])


def _cost(figure: Block, caption: Block, blocks: Sequence[Block]) -> float | None:
    """How far a caption is from a figure, points; None when it cannot be its."""
    place, said = figure.place, caption.place
    overlap = place.across(said)
    if overlap > 0.3 * min(place.width, said.width):
        below, above = said.top - place.bottom, place.top - said.bottom
        gap = below if below > above else above
        if gap < -0.3 * said.height - 6 or gap > REACH:
            return None
        low, high = (place.bottom, said.top) if below > above else (said.bottom, place.top)
        cost = max(gap, 0.0) * (1.0 if below > above else 1.5)
    else:
        shared = min(place.bottom, said.bottom) - max(place.top, said.top)
        if shared < 0.5 * said.height or -overlap > REACH / 2:
            return None
        return -overlap + 20.0
    for other in blocks:
        if other is figure or other is caption or other.kind == "margin":
            continue
        middle = (other.place.top + other.place.bottom) / 2
        if low < middle < high and other.place.across(said) > 0:
            cost += 12.0  # something stands between: possible, not likely
    return cost
