"""Does a response refuse or deny? By phrases, in English and Chinese: the same for training pairs and for scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from open4ov.answers import normalise

REFUSALS: dict[str, tuple[str, ...]] = {
    "en": (
        "no picture", "no image", "no photo", "no figure", "no chart", "can't see", "cannot see", "can not see",
        "don't see", "do not see", "not see any", "picture is missing", "image is missing", "missing image",
        "without a picture", "without an image", "without the picture", "without the image", "need a picture",
        "need an image", "need the picture", "need the image", "not given a picture", "not given an image",
        "send a picture", "send an image", "send the picture", "send the image", "attach a picture", "attach an image",
    ),
    "zh": (
        "没有图片", "没有图像", "没有看到图", "没看到图", "看不到图", "没有照片", "没有提供图", "没有收到图",
        "未提供图", "未看到图", "未收到图", "缺少图",
        "无法看到", "看不见图", "请提供图", "请发送图", "请上传图", "需要图",
    ),
}  # fmt: skip
"""Phrases that mark a response as an honest refusal when the image is missing, after `normalise`."""

_NO_PICTURE = {
    language: tuple(phrase for phrase in phrases if re.search("picture|image|photo|figure|chart|图|照片", phrase))
    for language, phrases in REFUSALS.items()
}
DENIALS: dict[str, tuple[str, ...]] = {
    "en": (
        "there is no", "there are no", "there's no", "there isn't", "there is not", "no such", "not in the picture",
        "not in the image", "not in this", "not there", "not shown", "not visible", "does not show", "doesn't show",
        "not see", "don't see", "can't see", "cannot see", "is absent",
    ),
    "zh": ("没有", "不在图", "看不到", "没看到", "不存在", "未见"),
}  # fmt: skip
"""Phrases that mark a response as denying that the thing asked about is there, after `normalise`."""


def refuses(response: str) -> bool:
    """True when the response says, in English or Chinese, that it was given no picture (`REFUSALS`)."""
    return _has(response, REFUSALS)


def denies(response: str) -> bool:
    """True when the response says that what it is asked about is not there (`DENIALS`).

    Not when it says that there is no picture: beside a picture that is false.
    """
    return _has(response, DENIALS) and not _has(response, _NO_PICTURE)


def _has(response: str, phrases: Mapping[str, Sequence[str]]) -> bool:
    text = normalise(response)
    return any(phrase in text for language in phrases.values() for phrase in language)
