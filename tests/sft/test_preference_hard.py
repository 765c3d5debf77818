"""Tasks that an earlier run's RL failed altogether join the preference set."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from open4ov.errors import UserError
from open4ov.sample import Sample, assistant, user
from open4ov.sft.preference import hard
from open4ov.store import ImageStore, write_samples


def task(name: str, sha: str | None = None, **changes: object) -> Sample:
    return Sample(
        id=name,
        source="t",
        task="reasoning",
        images=[sha] if sha else [],
        messages=[user(f"{name}? \\boxed", images=int(sha is not None)), assistant("3+4=7. \\boxed{7}")],
        answer="7",
        pass_rate=0.0,
        mastery="unmastered",
        lineage=["older"],
        extra={"failed": {"tried": 8}},
    ).model_copy(update=changes)


def test_only_the_fully_failed_ones_with_a_reference_are_taken_once() -> None:
    asked = user("a?")
    given = [
        task("a"),
        task("b", pass_rate=0.125, mastery="partial"),
        task("c", messages=[asked]),
        task("d", pass_rate=None, mastery=None),
        task("e", extra={"graded_by": "topic"}),
        task("f", split="test"),
        task("g", messages=[asked, assistant(" ")]),
        task("h", messages=task("a").messages),
    ]
    taken, left_out = hard.take(given)
    assert left_out == {
        "not failed altogether by its own rollouts": 3,
        "not of the training split": 1,
        "there twice": 1,
        "without a reference response": 2,
    }
    (one,) = taken
    assert one.lineage == ["older", "a"]
    assert one.extra == {"failed": {"tried": 8}, "preference": "high_difficulty"}
    assert one.messages[-1].text == "3+4=7. \\boxed{7}"
    assert one.mastery is None
    assert one.id != "a"


def test_pictures_come_along_from_the_earlier_run(tmp_path: Path) -> None:
    earlier, mine = ImageStore(tmp_path / "run" / "image-store"), ImageStore(tmp_path / "mine")
    sha = earlier.put(Image.new("RGB", (8, 8), "red"))
    file = tmp_path / "run" / "rl" / "failed.parquet"
    write_samples(file, [task("a", sha), task("b", "0" * 64)])
    for path in (tmp_path / "run", file):
        taken, left_out = hard.read(path, mine)
        assert [s.lineage[-1] for s in taken] == ["a"]
        assert left_out == {"a picture is nowhere to be found": 1}
        assert mine.get(sha).size == (8, 8)


@pytest.mark.parametrize(("name", "why"), [("nowhere", "no such file or directory"), ("run", "is not finished")])
def test_a_path_that_is_none_is_refused(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=rf"sft\.preference_set\.hard: .*{why}"):
        hard.file_of(tmp_path / name)
