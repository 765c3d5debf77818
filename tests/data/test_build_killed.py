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
from collections.abc import Callable
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


def wait(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.002)


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    images = pictures(tmp_path / "images", 12)
    lock = threading.Lock()
    sent: list[tuple[str, str]] = []  # (question, the answer it got)

    def counted(body: dict[str, Any], number: int) -> Raw:
        answer = reply(body, number)
        time.sleep(0.02)
        with lock:
            sent.append((f"{kind(body)} {digest(body)}", text_of(answer)))
        return answer

    with endpoint(counted) as server:
        file = recipe(tmp_path / "r.yaml", server.url, panel=True)
        assert start(images, file, tmp_path / "whole").wait(900) == 0
        total = len(sent)
        assert len({text for _, text in sent}) == len({question for question, _ in sent}) == total
        names = ("samples.parquet", "rejected.parquet", "topics.parquet", "summary.json")
        whole = {name: (tmp_path / "whole" / "data" / name).read_bytes() for name in names}
        rounds, where = 0, list[str]()
        while len(where) < KILLS:
            rounds += 1
            out, finished, kills = tmp_path / f"cut-{rounds}", False, 0
            sent.clear()
            while not finished:
                kept, before = kept_answers(out), len(sent)
                left = total - len(kept)
                # evenly over the questions that are left; of seven one while it starts; the last ones while it writes
                goal = before + min(left, rng.randint(1, max(1, 2 * left // max(2, KILLS - 4 - len(where)))))
                early, short, long = rng.random() < 1 / 7, rng.uniform(0, 0.03), rng.uniform(0, 3.0)
                process = start(images, file, out)
                if len(where) < KILLS:
                    if not early and left:
                        wait(process, lambda goal=goal: len(sent) >= goal)
                    elif not early:
                        wait(process, (out / ".work" / "data.new").exists)
                    time.sleep(long if early or not left else short)
                    if process.poll() is None:
                        process.send_signal(signal.SIGKILL)
                        kills += 1
                        where.append(f"{len(sent)} sent{', early' if early else ''}")
                finished = process.wait(900) == 0
                again = [question for question, answer in sent[before:] if answer in kept]
                assert again == [], f"answered and kept, yet sent again; kills at {where}: {again[:3]}"
            for name in names:
                assert (out / "data" / name).read_bytes() == whole[name], (name, where)
            assert len({question for question, _ in sent}) == total
            # a question under way at a kill may be sent once more: at most `concurrency` of three providers at each
            assert len(sent) <= total + 3 * 4 * kills
            assert not list(out.rglob(".part-*"))
    print(f"{len(where)} kills in {rounds} runs of {total} questions, at {'; '.join(where)}")
