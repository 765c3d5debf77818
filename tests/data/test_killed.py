"""`kill -9` at random points of `open4ov data build`: the same samples as without, no answered question sent again."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from data.fake_model import digest, kind, pictures, recipe, reply
from mllm.endpoint import Raw, endpoint

KILLS = 20
SEED = 7


def start(images: Path, file: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "open4ov.cli", "data", "build", "--images", str(images), "--recipe", str(file)]
    environment = {**os.environ, "TEST_KEY": "k", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([*command, "--out", str(out), "--quiet"], env=environment, stdout=subprocess.DEVNULL)


def kept_answers(out: Path) -> set[str]:
    """The texts of the answers that are safe on disk; no two questions of different models get the same."""
    path = out / "asked" / "answers.sqlite"
    if not path.is_file():
        return set()
    with sqlite3.connect(path, timeout=60) as database:
        found = {text for (text,) in database.execute("SELECT answer FROM answers")}
    database.close()
    return found


def text_of(answer: Raw) -> str:
    return json.loads(answer.body)["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    images = pictures(tmp_path / "images", 24)
    lock = threading.Lock()
    sent: list[tuple[str, str]] = []  # (question, the answer it got)

    def counted(body: dict[str, Any], number: int) -> Raw:
        answer = reply(body, number)
        time.sleep(0.01)
        with lock:
            sent.append((f"{kind(body)} {digest(body)}", text_of(answer)))
        return answer

    with endpoint(counted) as server:
        file = recipe(tmp_path / "r.yaml", server.url, panel=True)
        assert start(images, file, tmp_path / "whole").wait(600) == 0
        total = len(sent)
        names = ("samples.parquet", "rejected.parquet", "topics.parquet", "summary.json")
        told = {name: (tmp_path / "whole" / "data" / name).read_bytes() for name in names}
        kills = rounds = 0
        where: list[str] = []
        while kills < KILLS:
            rounds += 1
            out = tmp_path / f"cut-{rounds}"
            sent.clear()
            finished = False
            while not finished:
                kept = kept_answers(out)
                before = len(sent)
                left = total - len(kept)
                # evenly over the questions that are left; some while it starts, some after the last answer
                after = rng.randint(0, max(1, 2 * left // max(2, KILLS - kills)))
                pause = rng.uniform(0, 0.05) if left > 0 and kills % 4 else rng.uniform(0, 4.0)
                process = start(images, file, out)
                while process.poll() is None and len(sent) < before + min(after, left):
                    time.sleep(0.002)
                if kills < KILLS:
                    time.sleep(pause)
                    if process.poll() is None:
                        process.send_signal(signal.SIGKILL)
                        kills += 1
                        where.append(f"{len(kept_answers(out))}/{total}")
                finished = process.wait(600) == 0
                again = [question for question, answer in sent[before:] if answer in kept]
                assert again == [], f"answered and kept, yet sent again after {where}: {again[:3]}"
            for name, bytes_ in zip(
                ("samples.parquet", "rejected.parquet", "topics.parquet", "summary.json"), told, strict=True
            ):
                assert (out / "data" / name).read_bytes() == bytes_, (name, where)
            assert len({question for question, _ in sent}) == total
            # a question under way at a kill may be sent once more: at most `concurrency` at each
            assert len(sent) <= total + 4 * kills
            assert not list(out.rglob(".part-*"))
    print(f"{kills} kills in {rounds} runs, at kept answers {', '.join(where)}")
