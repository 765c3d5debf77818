"""What was answered so far, one JSON line an answer: `answers.jsonl` in the folder of an evaluation.

A line is written whole as its answer comes, so that `kill -9` loses none; several processes may write at once (one
`write` to a file opened for appending). A line that a kill or a full disk has torn is left out when it is read, and
ended by a line break when the next one is written. An answer is found by its item's key: same model, same words, same
pictures, same settings.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.evaluate.item import Item
from open4ov.store import is_disk_full

NAME = "answers.jsonl"


@dataclass(frozen=True)
class Entry:
    """One answered item: what was asked, in the very words, and what was said. `tokens`: of each response, where known;
    `finish`: how each ended."""

    key: str
    model: str
    id: str
    suite: str
    place: str
    prompt: str
    responses: list[str]
    tokens: list[int | None]
    finish: list[str]
    answers: list[str]
    rule: str
    options: dict[str, str] = field(default_factory=dict[str, str])
    others: list[str] = field(default_factory=list[str])
    category: str = ""
    group: str = ""
    cluster: str = ""
    language: str = ""
    details: dict[str, str] = field(default_factory=dict[str, str])
    pictures: list[str] = field(default_factory=list[str])

    @staticmethod
    def of(item: Item, key: str, model: str, responses: list[tuple[str, int | None, str]]) -> Entry:
        """What `model` said to an item: text, tokens and how it ended, of each response."""
        return Entry(
            key=key,
            model=model,
            id=item.id,
            suite=item.suite,
            place=item.place,
            prompt=item.prompt,
            responses=[text for text, _, _ in responses],
            tokens=[tokens for _, tokens, _ in responses],
            finish=[finish for _, _, finish in responses],
            answers=list(item.answers),
            rule=item.rule,
            options=dict(item.options),
            others=list(item.others),
            category=item.category,
            group=item.group,
            cluster=item.cluster,
            language=item.language,
            details=dict(item.details),
            pictures=[picture.sha for picture in item.images],
        )


class AnswerBook:
    """The answers in a folder. Made and read at once; `add` may be called from threads and forked processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._held: dict[str, int] = {}
        self.torn = 0
        self._read()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if self.torn and not self._whole():
            os.write(self._file, b"\n")

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    def add(self, entry: Entry) -> None:
        """Keeps an answer. Raises UserError when the disk is full: what came before is kept."""
        line = json.dumps(asdict(entry), ensure_ascii=False).encode(errors="replace") + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            if is_disk_full(error):
                raise self._full() from None
            raise
        if written < len(line):
            raise self._full()

    def entries(self) -> dict[str, Entry]:
        """All answers in the file by their keys, those of other processes too."""
        self._read()
        found: dict[str, Entry] = {}
        with self.path.open("rb") as file:
            for key, start in self._held.items():
                file.seek(start)
                found[key] = Entry(**json.loads(file.readline()))
        return found

    def close(self) -> None:
        os.close(self._file)

    def _full(self) -> UserError:
        return UserError(f"{self.path}: the disk is full; all answers so far are kept. Free some space and give the "
                         "same command again")  # fmt: skip

    def _read(self) -> None:
        """Where each answer's line begins. Of two of one key the first counts."""
        self._held, self.torn = {}, 0
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            start = 0
            for line in file:
                key = _key(line)
                if key is None:
                    self.torn += 1
                else:
                    self._held.setdefault(key, start)
                start += len(line)

    def _whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def _key(line: bytes) -> str | None:
    """The key of a whole line; None for a torn one."""
    if not line.endswith(b"\n"):
        return None
    try:
        found: Any = json.loads(line)
        Entry(**found)
    except (ValueError, TypeError):
        return None
    return found["key"]
