"""A training of online RL that was interrupted ends with the same bytes; what ends one, and what it says then."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from online import RED, assert_same, train

from open4ov import training
from open4ov.engine import Completion, Request, int8
from open4ov.errors import UserError
from open4ov.model import Qwen3VL
from open4ov.rl import losses, trainer
from open4ov.rl.failed import Failures
from open4ov.rl.generation.generator import GeneratorGone, OwnGenerator
from open4ov.sample import Sample, assistant, user
from open4ov.store import ImageStore

int8_here = pytest.mark.skipif(not int8.available(), reason="this PyTorch has no FBGEMM")
PLAIN: dict[str, Any] = {"steps": 5, "reward": "online:odd", "checkpoint_every": 2, "learning_rate": 3e-3}
EVERYTHING: dict[str, Any] = {
    **PLAIN,
    "pass_k": 5,  # groups with fewer than five wrong responses are dead, so that more are rolled out
    "oversampling": {"enabled": True, "beta": 0.5, "cap": 3},
    "plateau": {"steps": 1, "rise": 0.5},
    "pass_k_share": 1.0,
    "replay": {"share": 0.5, "weight": 0.1},
    "length_weight": 0.2,
    "max_update_tokens": 64,
}
AHEAD: dict[str, Any] = {**EVERYTHING, "rollout": {"ahead": True}, "steps": 6}
EIGHT_BITS: dict[str, Any] = {**EVERYTHING, "rollout": {"weights": "int8"}}


def replayed(store: ImageStore) -> list[Sample]:
    shown = [store.put(RED)]
    return [
        Sample(id=f"s{i}", source="t", task="t", images=shown if i % 2 else [],
               messages=[user("what colour?", images=i % 2), assistant(["red", "blue", "seven"][i % 3])])
        for i in range(7)
    ]  # fmt: skip


def arguments(root: Path, store: ImageStore, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = replayed(store) if "replay" in options else ()
    return {"images": store, "replayed": given, "checkpoints": root / "checkpoints", "failures": Failures(), **more}


def outcome(result: trainer.Fit, given: dict[str, Any]) -> str:
    """All that a stage writes beside the model."""
    failed = [sample.model_dump() for sample in given["failures"].samples(given["images"])]
    return json.dumps([result.curve, result.summary, result.shown, failed])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [PLAIN, EVERYTHING, AHEAD, pytest.param(EIGHT_BITS, marks=int8_here)],
    ids=["plain", "everything", "ahead", "int8"],
)
def test_an_interrupted_training_ends_with_the_same_bits(
    tiny_dir: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Tasks and pictures come again in a second epoch, as the pool is small."""
    store = ImageStore(tmp_path / "store")
    given = arguments(tmp_path / "a", store, options)
    whole, expected = train(tiny_dir, pool=7, arguments=given, **options)
    assert {point["phase"] for point in expected.curve} == {"pass_at_k", "diversity"}
    resumed = arguments(tmp_path / "b", store, options)
    train(tiny_dir, pool=7, arguments={**resumed, "stop_after": 3}, **options)
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["step-2"]
    resumed["failures"] = Failures()
    model, result = train(tiny_dir, pool=7, arguments=resumed, **options)
    assert outcome(result, resumed) == outcome(expected, given)
    assert_same(model, whole)
    if "oversampling" in options:
        assert expected.curve[2]["oversampling"] > 1
    if "replay" in options:
        updates = sum(point["updates"] for point in expected.curve)
        assert expected.summary["replayed"] == 2 * updates > 0
        assert all(point["replay_loss"] > 0 for point in expected.curve if point["updates"])
    for point in expected.curve[1:]:
        assert ("tis_gap" in point) is ("rollout" in options and point["updates"] > 0)
        assert point["lag"] == (options is AHEAD)


KILLED = """
import sys
from pathlib import Path
import torch
from online import train
torch.set_num_threads(1)
root, tiny, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
arguments = {"checkpoints": root / "checkpoints", "folder": root / "journal"}
train(tiny, pool=7, arguments=arguments, steps=steps, reward="online:odd", checkpoint_every=1, learning_rate=3e-3)
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing(tiny_dir: Path, tmp_path: Path) -> None:
    """Killed at once after a checkpoint, and gone on with in this process."""
    options = {**PLAIN, "steps": 40, "checkpoint_every": 1}
    paths = [str(Path(__file__).parents[2] / "src"), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(tiny_dir), "40"]
    child = subprocess.Popen(command, env=environment)
    while not list(tmp_path.glob("checkpoints/step-[3-9]")):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = max(int(path.name[5:]) for path in (tmp_path / "checkpoints").glob("step-*"))
    assert done < 40
    given = {"checkpoints": tmp_path / "checkpoints", "folder": tmp_path / "journal", "stop_after": done + 2}
    resumed, result = train(tiny_dir, pool=7, arguments=given, **options)
    assert len(result.curve) == done + 2
    whole, expected = train(tiny_dir, pool=7, arguments={"stop_after": done + 2}, **options)
    assert result.curve == expected.curve
    assert_same(resumed, whole)
    lines = [json.loads(line) for line in (tmp_path / "journal" / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, done + 3))


def test_another_training_does_not_take_up_the_checkpoint(tiny_dir: Path, tmp_path: Path) -> None:
    given = {"checkpoints": tmp_path, "stop_after": 2}
    train(tiny_dir, arguments=given, **PLAIN)
    assert len(train(tiny_dir, arguments={**given, "stop_after": 1}, **{**PLAIN, "temperature": 0.9})[1].curve) == 1
    told = {"checkpoint_every": 3, "no_live_steps": 4}  # what is kept and told on the way makes no other training
    assert len(train(tiny_dir, arguments={**given, "stop_after": 3}, **{**PLAIN, **told})[1].curve) == 3


# ------------------------------------------------------------------------------------------------ what ends one


def test_no_live_group_goes_on_for_a_while_and_stops_then(tiny_dir: Path, tmp_path: Path) -> None:
    options = {"steps": 9, "reward": "online:never", "no_live_steps": 3}
    with pytest.raises(UserError) as told:
        train(tiny_dir, arguments={"checkpoints": tmp_path}, **options)
    assert str(told.value).startswith(
        "steps 1 to 3 have no group to learn from: all advantages are zero (of the last 4 groups 0 are all right and "
        "4 all wrong)"
    )
    assert "another rl.no_live_steps" in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]
    with pytest.raises(UserError, match="steps 1 to 5 have no group"):
        train(tiny_dir, arguments={"checkpoints": tmp_path}, **{**options, "no_live_steps": 5})
    with pytest.raises(UserError, match=r"step 1 has no group .*another rl\.no_live$"):
        train(tiny_dir, **{**options, "no_live": "stop", "no_live_steps": 10})
    assert len(train(tiny_dir, **{**options, "steps": 3})[1].curve) == 3, "the last step is over anyway"


def test_a_generator_that_is_gone_leaves_the_steps_that_are_done(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of the fourth step, of which nothing is kept; the same command goes on."""
    options = {**PLAIN, "checkpoint_every": 100}
    generate = OwnGenerator.generate

    def gone(self: OwnGenerator, requests: Sequence[Request], *rest: Any) -> list[list[Completion]]:
        if self.weight_version == 3:
            raise GeneratorGone("http://localhost:1/v1: does not answer; start it again and give the same command")
        return generate(self, requests, *rest)

    monkeypatch.setattr(OwnGenerator, "generate", gone)
    with pytest.raises(UserError, match="does not answer"):
        train(tiny_dir, arguments={"checkpoints": tmp_path}, **options)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]
    resumed, result = train(tiny_dir, arguments={"checkpoints": tmp_path}, **options)
    whole, expected = train(tiny_dir, **options)
    assert result.curve == expected.curve
    assert_same(resumed, whole)


def test_a_generator_that_is_gone_ahead_of_the_update_leaves_them_too(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends in another thread, and is heard of when a checkpoint is to hold the responses, or they are asked for.
    Nobody has them; the step begins anew, by the weights as they are."""
    options = {**PLAIN, "rollout": {"ahead": True}}
    calls: list[int] = []
    generate = OwnGenerator.generate

    def gone(self: OwnGenerator, requests: Sequence[Request], *rest: Any) -> list[list[Completion]]:
        calls.append(1)
        if len(calls) == 3:
            raise GeneratorGone("gone")
        return generate(self, requests, *rest)

    monkeypatch.setattr(OwnGenerator, "generate", gone)
    for every in (2, 100):
        calls.clear()
        folder = tmp_path / str(every)
        with pytest.raises(GeneratorGone, match="gone"):
            train(tiny_dir, arguments={"checkpoints": folder}, **{**options, "checkpoint_every": every})
        assert [path.name for path in folder.iterdir()] == ["step-2"]
        curve = train(tiny_dir, arguments={"checkpoints": folder}, **options)[1].curve
        assert [point["lag"] for point in curve] == [0, 1, 0, 1, 1]


def test_responses_that_were_there_when_the_generator_went_are_used(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not take new weights: the step's responses were generated before. The run that goes on has the same
    bytes as one that nothing happened to, with a checkpoint of that step and without."""
    update, versions = OwnGenerator.update_weights, list[int]()

    def gone(self: OwnGenerator) -> int:
        if self.weight_version == 1:
            raise GeneratorGone("gone")
        return update(self)

    generate = OwnGenerator.generate

    def seen(self: OwnGenerator, requests: Sequence[Request], *rest: Any) -> list[list[Completion]]:
        versions.append(self.weight_version)
        return generate(self, requests, *rest)

    whole, expected = train(tiny_dir, **{**PLAIN, "rollout": {"ahead": True}})
    assert [point["lag"] for point in expected.curve] == [0, 1, 1, 1, 1]
    monkeypatch.setattr(OwnGenerator, "generate", seen)
    for every in (1, 100):
        options = {**PLAIN, "rollout": {"ahead": True}, "checkpoint_every": every}
        folder = tmp_path / str(every)
        versions.clear()
        with monkeypatch.context() as patch:
            patch.setattr(OwnGenerator, "update_weights", gone)
            with pytest.raises(GeneratorGone, match="gone"):
                train(tiny_dir, arguments={"checkpoints": folder}, **options)
        assert [path.name for path in folder.iterdir()] == ["step-2"]
        resumed, result = train(tiny_dir, arguments={"checkpoints": folder}, **options)
        assert result.curve == expected.curve
        assert_same(resumed, whole)
        assert versions == [0, 0, 1, 2, 3], "none is generated twice"


def test_a_generator_that_forgets_to_take_new_weights_is_found_out(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OwnGenerator, "update_weights", lambda self: self.weight_version)
    with pytest.raises(RuntimeError, match=r"step 3 of RL has responses by the weights of version \[0\]; .* is 2"):
        train(tiny_dir, **{**PLAIN, "rollout": {"ahead": True}})


def test_a_loss_that_is_no_number_names_step_and_tasks(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, calls = losses.loss, list[int]()

    def broken(*given: Any, **named: Any) -> Any:
        calls.append(1)
        value, statistics = compute(*given, **named)
        return (value * math.nan if len(calls) == 7 else value), statistics

    with monkeypatch.context() as patch:
        patch.setattr(losses, "loss", broken)
        with pytest.raises(training.Diverged) as caught:
            train(tiny_dir, arguments={"checkpoints": tmp_path}, **PLAIN)
    step = int(str(caught.value).split(":")[0].removeprefix("step "))
    assert step in (4, 5)
    assert "the loss is nan: lower rl.learning_rate (0.003), or look at the tasks of this batch: t" in str(caught.value)
    kept = 2 * ((step - 1) // 2)
    assert f"The checkpoint of step {kept} is kept" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{kept}"]


@pytest.mark.parametrize("value", ["nan", "inf", "-0.5", "1.5", "'a'", "None"])
def test_a_reward_that_is_none_is_named(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    import online

    given = {"nan": math.nan, "inf": math.inf, "'a'": "a", "None": None}.get(value, value)
    given = float(given) if isinstance(given, str) and given != "a" else given
    monkeypatch.setattr(online, "unanswerable", lambda response, sample: given)
    with pytest.raises(UserError, match=rf"rl\.reward 'online:unanswerable' gave {value} for a response to sample t0"):
        train(tiny_dir, reward="online:unanswerable", steps=1)


def test_responses_without_a_word_earn_nothing(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even from a reward that likes silence; the reward is not asked."""

    def silent(self: OwnGenerator, requests: Sequence[Request], *rest: Any) -> list[list[Completion]]:
        version = self.weight_version
        words = [Completion("7", [40, 2], [-1.0, -1.0], "stop", version), Completion(" ", [2], [-1.0], "stop", version),
                 Completion("", [], [], "stop", version)]  # fmt: skip
        return [[words[i % 3] for i in range(one.n)] for one in requests]

    monkeypatch.setattr(OwnGenerator, "generate", silent)
    import online

    monkeypatch.setattr(online, "unanswerable", lambda response, sample: 1.0 if response.strip() else math.nan)
    _, result = train(tiny_dir, reward="online:unanswerable", steps=2)
    assert [(p["pass_rate"], p["empty"], p["updates"]) for p in result.curve] == [(3 / 8, 5 / 8, 2)] * 2


def test_a_frozen_tower_is_the_same_to_the_last_bit(tiny_dir: Path) -> None:
    model, _ = train(tiny_dir, **{**PLAIN, "steps": 2})
    before = Qwen3VL.from_pretrained(tiny_dir)
    assert_same(model.vision, before.vision)
