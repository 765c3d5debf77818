"""RL writes down the tasks none of whose responses was right, over all times that they were tried."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from open4ov.answers import INSTRUCTION
from open4ov.engine import Completion
from open4ov.rl.failed import Failures
from open4ov.rl.rollout import Group
from open4ov.rl.tasks import Task, task
from open4ov.sample import Sample, assistant, user
from open4ov.sft.preference import hard
from open4ov.store import ImageStore


def a_task(name: str, image: Image.Image | None = None) -> Task:
    sample = Sample(
        id=name,
        source="t",
        task="reasoning",
        images=[""] if image else [],
        messages=[user(f"{name}?", images=int(image is not None)), assistant("1+1=2. \\boxed{2}")],
        answer="2",
    )
    return task(sample, [image] if image else [])


def group(of: Task, *right: float) -> Group:
    zeros = torch.zeros(len(right), dtype=torch.float64)
    responses = [Completion("", [], [], "stop", 0) for _ in right]
    return Group(of, responses, torch.tensor(right, dtype=torch.float64), zeros, zeros, zeros)


def test_only_what_was_never_right_is_written_down(tmp_path: Path) -> None:
    seen, store = Failures(), ImageStore(tmp_path)
    red = Image.new("RGB", (8, 8), "red")
    hopeless, lucky, known = a_task("hopeless", red), a_task("lucky"), a_task("known")
    seen.see([group(hopeless, 0, 0), group(lucky, 0, 0), group(known, 1, 0)])
    seen.see([group(hopeless, 0, 0, 0), group(lucky, 0, 1)])
    (failed,) = seen.samples(store)
    assert failed.id == "hopeless"
    assert failed.extra["failed"] == {"tried": 5}
    assert (failed.pass_rate, failed.mastery) == (0.0, "unmastered")
    assert store.get(failed.images[0]).size == (8, 8)
    assert failed.messages[0].text.endswith(INSTRUCTION["en"]), "as it was asked"
    assert failed.messages[-1].text == "1+1=2. \\boxed{2}"
    assert failed.steps[-1].note == "none of 5 responses was right"
    (learned,), left_out = hard.take([failed])
    assert left_out == {}
    assert learned.lineage == ["hopeless"]
