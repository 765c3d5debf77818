"""Which domain L1 labels of the shipped tree fit a drawing, by the folder or group that it comes from.

Made by reading the folders' names, to calibrate and to measure where `Others` stands; a place on no list tells nothing.
NONE: drawings to which no domain of the tree applies.
"""

from __future__ import annotations

NATURE, DAILY, LEISURE, PUBLIC, INDUSTRY = "Nature", "Daily life", "Culture and leisure", "Public space", "Industry"
EDUCATION, BUSINESS, AUTOMOTIVE = "Education", "Business and data", "Automotive"
NONE = ("arrow", "geometric", "zodiac", "other symbol", "heart", "emotion", "punctuation", "av symbol")
"""Emoji subgroups"""
CLIPART = {
    "animals": {NATURE}, "plants": {NATURE}, "food": {DAILY}, "buildings furniture": {DAILY}, "buildings": {PUBLIC},
    "tools": {INDUSTRY}, "electronics": {INDUSTRY}, "recreation music": {LEISURE}, "recreation sports": {LEISURE},
    "recreation games": {LEISURE}, "recreation art": {LEISURE}, "computer": {LEISURE, BUSINESS, INDUSTRY},
    "education": {EDUCATION}, "people": {DAILY}, "geography": {EDUCATION, PUBLIC, NATURE}, "containers": {DAILY},
    "office": {BUSINESS, EDUCATION, DAILY}, "science": {EDUCATION},
}  # fmt: skip
EMOJI = {
    "animal": {NATURE}, "plant": {NATURE}, "food": {DAILY}, "drink": {DAILY}, "dishware": {DAILY}, "clothing": {DAILY},
    "household": {DAILY}, "place building": {PUBLIC}, "place geographic": {NATURE, LEISURE, PUBLIC},
    "place religious": {PUBLIC, LEISURE}, "transport ground": {AUTOMOTIVE, PUBLIC}, "transport water": {PUBLIC},
    "transport air": {PUBLIC}, "sky weather": {NATURE}, "sport": {LEISURE}, "game": {LEISURE},
    "musical instrument": {LEISURE}, "music": {LEISURE}, "sound": {LEISURE}, "arts crafts": {LEISURE},
    "phone": {LEISURE, INDUSTRY}, "computer": {LEISURE, INDUSTRY, BUSINESS}, "light video": {LEISURE, INDUSTRY, DAILY},
    "tool": {INDUSTRY}, "science": {EDUCATION}, "money": {BUSINESS, DAILY},
    "book paper": {EDUCATION, LEISURE, BUSINESS},
    "writing": {EDUCATION, BUSINESS}, "office": {BUSINESS}, "mail": {BUSINESS, DAILY}, "person": {DAILY, LEISURE},
    "family": {DAILY},
}  # fmt: skip


def labels(source: str, place: str) -> frozenset[str] | None:
    """The fitting L1 names; none at all where no domain applies, None where that is not known."""
    if source == "openclipart":
        found = [name for name in CLIPART if place == name or place.startswith(f"{name} ")]
        return frozenset(CLIPART[max(found, key=len)]) if found else None
    if source in ("noto", "twemoji"):
        if any(place.endswith(f" {name}") for name in NONE):
            return frozenset()
        found = [name for name in EMOJI if f" {name} " in f" {place} "]
        return frozenset(EMOJI[max(found, key=len)]) if found else None
    return None
