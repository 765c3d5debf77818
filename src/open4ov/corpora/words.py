"""Everyday words for written text and for instructions: `assets/corpora/words/`. None belongs to a vertical."""

from __future__ import annotations

from open4ov.corpora.icons import ASSETS

ENGLISH = (ASSETS / "words" / "english.txt").read_text("utf-8").split()
CHINESE = (ASSETS / "words" / "chinese.txt").read_text("utf-8").split()
