"""What a run tells while it goes: a bar on a terminal, lines in a log, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_JSON_EVERY = 1.0
_LINE_EVERY = 15.0
"""Seconds between two reports of progress, where each is a line."""


class Reporter(Protocol):
    """Hears of stages as they start, go on and end. `note` is for the user's eyes, `log` gets figures."""

    def started(self, stage: str, position: int, stages: int) -> None: ...
    def progress(self, stage: str, description: str, done: float, total: float) -> None: ...
    def note(self, stage: str, text: str) -> None: ...
    def log(self, stage: str, figures: dict[str, Any]) -> None: ...
    def finished(self, stage: str, seconds: float, peak_bytes: int) -> None: ...
    def skipped(self, stage: str, position: int, stages: int) -> None: ...
    def close(self) -> None: ...


class Quiet:
    """Says nothing."""

    def started(self, stage: str, position: int, stages: int) -> None:
        pass

    def progress(self, stage: str, description: str, done: float, total: float) -> None:
        pass

    def note(self, stage: str, text: str) -> None:
        pass

    def log(self, stage: str, figures: dict[str, Any]) -> None:
        pass

    def finished(self, stage: str, seconds: float, peak_bytes: int) -> None:
        pass

    def skipped(self, stage: str, position: int, stages: int) -> None:
        pass

    def close(self) -> None:
        pass


class JsonLines:
    """One JSON object a line: `{"event": ..., "stage": ..., ...}`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._last = 0.0

    def _write(self, event: str, stage: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "stage": stage, **fields}, ensure_ascii=False, default=str)
        print(line, file=self._stream, flush=True)

    def started(self, stage: str, position: int, stages: int) -> None:
        self._last = 0.0
        self._write("started", stage, position=position, stages=stages)

    def progress(self, stage: str, description: str, done: float, total: float) -> None:
        now = time.monotonic()
        if done >= total or now - self._last >= _JSON_EVERY:
            self._last = now
            self._write("progress", stage, description=description, done=done, total=total)

    def note(self, stage: str, text: str) -> None:
        self._write("note", stage, text=text)

    def log(self, stage: str, figures: dict[str, Any]) -> None:
        self._write("log", stage, figures=figures)

    def finished(self, stage: str, seconds: float, peak_bytes: int) -> None:
        self._write("finished", stage, seconds=round(seconds, 3), peak_bytes=peak_bytes)

    def skipped(self, stage: str, position: int, stages: int) -> None:
        self._write("skipped", stage, position=position, stages=stages)

    def close(self) -> None:
        pass


class Terminal:
    """A bar for the stage at work and a line for each finished one, on stderr; lines only where that is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last = time.monotonic()
        self._ordinal = ""

    def started(self, stage: str, position: int, stages: int) -> None:
        self._ordinal = f"{position:2d}/{stages}"
        self._last = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"{self._ordinal} {stage} ...")
            return
        self._bar = Progress(
            TextColumn("{task.fields[ordinal]} [bold]{task.fields[stage]}[/bold]"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, stage=stage, ordinal=self._ordinal)
        self._bar.start()

    def progress(self, stage: str, description: str, done: float, total: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=description, completed=done, total=total)
        elif time.monotonic() - self._last >= _LINE_EVERY:
            self._last = time.monotonic()
            self._console.print(f"{self._ordinal} {stage}: {description} {done:g}/{total:g}", markup=False)

    def note(self, stage: str, text: str) -> None:
        self._console.print(f"{self._ordinal} {stage}: {text}", markup=False)

    def log(self, stage: str, figures: dict[str, Any]) -> None:
        pass

    def finished(self, stage: str, seconds: float, peak_bytes: int) -> None:
        self.close()
        self._console.print(f"{self._ordinal} {stage:<24} {seconds:8.1f} s   peak {peak_bytes / 2**30:.2f} GiB")

    def skipped(self, stage: str, position: int, stages: int) -> None:
        self._ordinal = f"{position:2d}/{stages}"
        self._console.print(f"{self._ordinal} {stage:<24}  unchanged, kept")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
