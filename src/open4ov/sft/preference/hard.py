"""High-difficulty supplementary data (paper §3.2.3): what an earlier run's RL found the model to fail altogether.

RL writes those tasks into `rl/failed.parquet` of its run directory (`rl/failed.py`); stage 3 learns them in advance, by
their worked reference responses. Samples that the present run's own grading finds unmastered join in `sft/trainer.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from open4ov.errors import UserError
from open4ov.sample import Sample, content_id
from open4ov.store import ImageStore, read_samples

KIND = "high_difficulty"


def file_of(path: str | Path, key: str = "sft.preference_set.hard") -> Path:
    """The file of failed tasks that a recipe names: itself, or `rl/failed.parquet` of a run directory. Raises UserError
    when there is none."""
    path = Path(path)
    if path.is_file():
        return path
    file = path / "rl" / "failed.parquet"
    if not file.is_file():
        what = (
            "has no rl/failed.parquet: its stage rl is not finished" if path.is_dir() else "no such file or directory"
        )
        raise UserError(f"{key}: {path}: {what}; name a finished run's directory, or a file of samples")
    return file


def read(path: str | Path, into: ImageStore) -> tuple[list[Sample], dict[str, int]]:
    """The samples to learn in advance, and how many were left out, by reason.

    Taken are those that no response answered (`pass_rate` 0 by own rollouts), with a reference response, of the
    training split, each once. Their pictures are copied into the store `into` from the run that the file lies in.
    Raises UserError for a file that is none.
    """
    file = file_of(path)
    stores = [ImageStore(folder / "image-store") for folder in file.parents if (folder / "image-store").is_dir()]

    def have(sha: str) -> bool:
        if into.path(sha).exists():
            return True
        source = next((store for store in stores if store.path(sha).exists()), None)
        return source is not None and into.put(source.get(sha)) == sha

    return take(read_samples(file), have)


def take(
    samples: Sequence[Sample], have: Callable[[str], bool] = lambda sha: True
) -> tuple[list[Sample], dict[str, int]]:
    """As `read`, of samples at hand; `have(digest)`: whether a picture is there."""
    left_out: Counter[str] = Counter()
    taken: dict[str, Sample] = {}
    for sample in samples:
        hard = sample.model_copy(
            update={
                "id": content_id(
                    "preference", KIND, sample.images, [m.model_dump(exclude_none=True) for m in sample.messages]
                ),
                "lineage": [*sample.lineage, sample.id],
                "mastery": None,  # of the model that failed, which is not the one that is trained now
                "pass_rate": None,
                "extra": {**sample.extra, "preference": KIND},
            }
        )
        fault = _fault(sample) or ("there twice" if hard.id in taken else None)
        if fault is None and not all(have(sha) for sha in sample.images):
            fault = "a picture is nowhere to be found"
        if fault:
            left_out[fault] += 1
        else:
            taken[hard.id] = hard
    return list(taken.values()), dict(sorted(left_out.items()))


def _fault(sample: Sample) -> str | None:
    if sample.pass_rate is None or sample.pass_rate > 0 or sample.extra.get("graded_by") == "topic":
        return "not failed altogether by its own rollouts"
    if sample.split != "train":
        return "not of the training split"
    last = sample.messages[-1] if sample.messages else None
    if last is None or last.role != "assistant" or not last.text.strip():
        return "without a reference response"
    return None
