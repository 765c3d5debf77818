"""`python -m bench.sft`: its samples are as they are said to be, and both sides do the same work."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image

from bench import sft_job, sft_report, sft_work
from bench.sft_ours import Measured
from bench.sft_pace import ROOT, Pace
from open4ov.model import Processor, Qwen3VL
from open4ov.store import ImageStore

OPTIONS = Namespace(quick=True, precision="fp32", threads=1, device="cpu", clock="cpu", compile=False)


class _NoPace:
    def step(self) -> None: ...


def test_samples_are_of_mixed_size_and_spread(tmp_path: Path) -> None:
    sft_work.make(tmp_path / "a", 100, 2)
    sft_work.make(tmp_path / "b", 100, 2)
    rows = json.loads((tmp_path / "a" / "train.json").read_text())
    assert rows == json.loads((tmp_path / "b" / "train.json").read_text())
    sentences = [row["answer"].count(".") for row in rows]
    assert min(sentences) == 2
    assert max(sentences) >= 15
    assert sorted(sentences)[50] < 8  # most are short
    sizes = [Image.open(tmp_path / "a" / row["image"]).size for row in rows]
    assert min(map(min, sizes)) >= 96
    assert max(map(max, sizes)) <= 448
    assert len(set(sizes)) > 20
    image = Image.open(tmp_path / "a" / rows[0]["image"]).convert("RGB")
    row, column, colour = rows[0]["answer"].split(".")[0].replace(",", "").split()[4::2]  # ... row R column C is COLOUR
    place = (int(column) * 32 - 16, int(row) * 32 - 16)
    assert image.getpixel(place) == sft_work.COLOURS[colour]


def test_what_is_taken_away_does_not_change_the_loss(tiny_dir: Path, tmp_path: Path) -> None:
    """A picture shared by its questions, features kept, pictures read once and packing are savings of time only; all
    but the head's share are."""
    sft_work.make(tmp_path, 3, 1, each=2)
    store = ImageStore(tmp_path / "store")
    samples = sft_work.read(tmp_path, "train", store)
    processor, model = Processor.from_pretrained(tiny_dir), Qwen3VL.from_pretrained(tiny_dir).eval()
    found: list[tuple[float, int]] = []
    rest = ["share", "cache", "once", "packing"]
    for without in ([], *(rest[:n] for n in range(1, 5))):
        told = {"without": without, "batch": 3, "grouped": True}
        encoder = Measured(processor, store, told, cast(Pace, _NoPace()))
        encoder.freeze(model, samples)
        batch, features = encoder.pack(samples)
        assert (features is None) == ("cache" in without)
        with torch.no_grad():
            found.append((float(model.loss(batch, features)), len(batch.input_ids)))
    for loss, _ in found:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
    lengths = [encoder.length(sample) for sample in samples]
    assert found[0][1] < sum(lengths) == found[1][1] == found[3][1]
    assert found[4][1] == 3 * max(lengths)


def test_a_picture_may_have_several_questions(tmp_path: Path) -> None:
    sft_work.make(tmp_path, 10, 2, each=4)
    rows = json.loads((tmp_path / "train.json").read_text())
    assert [rows[i]["image"] for i in (0, 3, 4, 7, 8)] == [f"pictures/train-{n}.png" for n in (0, 0, 1, 1, 2)]
    assert len(rows) == 10
    assert len({row["answer"] for row in rows}) == 10


def test_what_is_reached_of_the_aims_is_said() -> None:
    good, bad = sft_report.Result("nano", 4, 3.2, 3.01, 0.4, 0.002), sft_report.Result("60M", 1, 3.1, 2.4, 1.2, 0.02)
    lines = sft_report.aims([good, bad]).splitlines()
    assert lines[-4] == "| nano | 4 | 3.20 | 3.01 | 0.40 | +0.0020 | yes |"
    assert lines[-3].endswith("| 2.40 | 1.20 | +0.0200 | not: speed over 3 epochs, memory, loss |")


def test_losses_of_other_work_stop_the_bench() -> None:
    sft_job.check_losses(2.0, 2.001, "fp32")
    sft_job.check_losses(2.0, 2.02, "bf16")
    for ours, theirs, precision in ((2.0, 2.01, "fp32"), (2.0, 2.2, "bf16"), (float("nan"), 2.0, "fp32")):
        with pytest.raises(AssertionError, match="the first losses are"):
            sft_job.check_losses(ours, theirs, precision)


@pytest.mark.slow
def test_the_first_step_is_the_same_work(tmp_path: Path) -> None:
    """The same samples give TRL the same tokens, targets and loss as ours."""
    python = ROOT / ".venv-trl" / "bin" / "python"
    if not python.exists():
        pytest.skip("needs TRL's environment: scripts/trl_venv.sh .venv-trl")
    job = sft_job.prepare("nano", 2, tmp_path / "job", python, OPTIONS)
    ours, theirs = sft_job.first_loss(job)
    assert theirs == pytest.approx(ours, rel=1e-4)
