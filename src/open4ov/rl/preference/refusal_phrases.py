"""How an honest refusal is worded, in English and Chinese: a statement, and in most cases a request.

Two cases: there is no picture (`missing`; `refusals.refuses` knows them), or there is one that does not show what is
asked (`unseen`; `refusals.denies` knows them). Many wordings, so that the sense is learnt and not one sentence.
"""

from __future__ import annotations

import random
from itertools import product
from typing import Literal

Case = Literal["missing", "unseen"]

STATEMENTS: dict[Case, dict[str, tuple[str, ...]]] = {
    "missing": {
        "en": (
            "There is no picture here.",
            "I cannot see a picture.",
            "No picture was sent, so I cannot tell.",
            "No image came with your question.",
            "I do not see any picture, so I cannot answer that.",
            "I can't see an image here.",
            "Your message has no picture, and I would only be guessing.",
            "I was sent the words alone: the picture is missing.",
        ),
        "zh": (
            "这里没有图片。",
            "我没有看到图片。",
            "没有图片，我无法回答。",
            "您的问题没有图片。",
            "我看不到图片，所以无法判断。",
            "消息里没有图像，我不能乱猜。",
            "我没有收到图片。",
            "只有文字，没有图片。",
        ),
    },
    "unseen": {
        "en": (
            "The picture does not show that.",
            "That is not visible here.",
            "That is not in this picture, so I cannot tell.",
            "What you ask about is not shown.",
            "It is not there, so I would only be guessing.",
            "There is no such thing in the picture.",
        ),
        "zh": (
            "图里看不到这个。",
            "这张图里没有您问的内容。",
            "我没看到您问的东西，无法判断。",
            "画面中看不到，我不能乱猜。",
            "您问的内容不在图中。",
            "从这张图上看不到答案。",
        ),
    },
}
REQUESTS: dict[Case, dict[str, tuple[str, ...]]] = {
    "missing": {
        "en": ("Please send one.", "Please send the picture.", "Could you attach it?", "Then I can answer.", ""),
        "zh": ("请发送图片。", "请把图片发给我。", "请上传图片。", "发给我之后我再回答。", ""),
    },
    "unseen": {
        "en": ("Please send another picture.", "Do you have a clearer one?", "Please check the picture.", ""),
        "zh": ("请换一张图片。", "有更清楚的图片吗？", "请检查一下图片。", ""),
    },
}  # fmt: skip
"""An empty one: the statement stands alone."""


def refusals(case: Case, language: str) -> list[str]:
    """Every wording of a case."""
    space = "" if language == "zh" else " "
    pairs = product(STATEMENTS[case][language], REQUESTS[case][language])
    return [said + (space + asked if asked else "") for said, asked in pairs]


def refusal(case: Case, language: str, rng: random.Random, most: int | None = None) -> str:
    """One of them, of the first `most`."""
    return rng.choice(refusals(case, language)[:most])
