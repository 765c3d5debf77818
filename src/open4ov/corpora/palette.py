"""Colours of objects and backgrounds: named, far apart, in English and Chinese."""

from __future__ import annotations

import random

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (214, 36, 40),
    "orange": (245, 130, 28),
    "yellow": (228, 192, 0),
    "green": (36, 150, 60),
    "cyan": (0, 184, 204),
    "blue": (36, 76, 212),
    "purple": (128, 52, 172),
    "pink": (242, 108, 172),
    "brown": (126, 74, 34),
    "black": (24, 24, 24),
    "white": (246, 246, 246),
}
CHINESE = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "cyan": "青色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "black": "黑色",
    "white": "白色",
}

LIGHT: dict[str, RGB] = {
    "white": (255, 255, 255),
    "ivory": (250, 246, 232),
    "mist": (234, 240, 244),
    "grey": (226, 226, 226),
    "mint": (230, 244, 232),
    "rose": (248, 234, 234),
    "lilac": (238, 234, 248),
    "sand": (240, 232, 214),
}
DARK: dict[str, RGB] = {"night": (32, 36, 46), "coal": (44, 44, 44), "pine": (28, 46, 42), "wine": (50, 32, 42)}
BACKGROUNDS = {**LIGHT, **DARK}

_ON_LIGHT = [name for name in COLOURS if name != "white"]
_ON_DARK = [name for name in COLOURS if name not in ("black", "brown", "purple", "blue")]


def background(rng: random.Random, dark: float = 0.15) -> str:
    """The name of a background, dark with the given probability."""
    return rng.choice(list(DARK if rng.random() < dark else LIGHT))


def on(background_name: str) -> list[str]:
    """The colour names that can be told from a background and from one another on it."""
    return _ON_DARK if background_name in DARK else _ON_LIGHT


def shade(rgb: RGB, rng: random.Random, spread: int = 10) -> RGB:
    """The colour with each channel moved by at most `spread` levels."""
    r, g, b = (min(255, max(0, v + rng.randint(-spread, spread))) for v in rgb)
    return r, g, b
