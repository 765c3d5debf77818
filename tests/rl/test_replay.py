"""SFT samples beside the prompts of RL: which, how many, and that their gradient is that of SFT's loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from online import RED, section, tasks, train

from open4ov.engine import VisionCache
from open4ov.errors import UserError
from open4ov.graph import StageRun
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.rl import replay
from open4ov.rl.replay import Replay
from open4ov.rl.sampling import Cursor
from open4ov.sample import Sample, assistant, user
from open4ov.stages import rl
from open4ov.store import ImageStore, write_json, write_samples
from open4ov.training_pass import accumulate


def samples(store: ImageStore) -> list[Sample]:
    shown = [store.put(RED)]
    made = [
        Sample(id=f"s{i}", source="t", task="t", images=shown * (i % 2),
               messages=[user("what colour?", images=i % 2), assistant("red green"[: 3 + i])])
        for i in range(5)
    ]  # fmt: skip
    unanswered = made[0].model_copy(update={"id": "u", "messages": made[0].messages[:1]})
    return [*made, made[0].model_copy(update={"id": "v", "split": "val"}), unanswered]


def added(one: Replay, model: Qwen3VL) -> float | None:
    """A mini-batch's turn; the loss of its samples, where there are some."""
    coming = one.coming(model)
    return None if coming is None else one.took(model, float(accumulate(model, [coming])[0]))


def test_the_share_is_of_prompts_and_samples_together() -> None:
    def each(share: float) -> float:
        return replay.each(section(prompts=16, minibatches=4, replay={"share": share}))

    assert [each(share) for share in (0.0, 0.2, 0.5, 0.75)] == pytest.approx([0, 1, 4, 12])


@pytest.mark.parametrize(("share", "counts"), [(0.2, [1, 1, 1, 1]), (0.1, [0, 0, 1, 0]), (0.5, [4, 4, 4, 4])])
def test_a_small_share_leaves_minibatches_out(tiny_dir: Path, tmp_path: Path, share: float, counts: list[int]) -> None:
    """And a run that goes on knows whose turn it is."""
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    given = [sample for sample in replay.usable(samples(ImageStore(tmp_path))) if not sample.images]
    given = [given[i % len(given)].model_copy(update={"id": f"r{i}"}) for i in range(9)]
    options = section(prompts=16, minibatches=4, replay={"share": share})
    order, used, found = Cursor([sample.id for sample in given], 0), 0, []
    for done in range(4):
        one = Replay(given, ImageStore(tmp_path).get, processor, VisionCache(model, processor), options, order,
                     done, used)  # fmt: skip
        assert (added(one, model) is None) is (counts[done] == 0)
        found.append(one.used - used)
        used = one.used
    assert found == counts


def test_a_training_whose_share_is_less_than_one_a_minibatch(tiny_dir: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    given: dict[str, Any] = {"images": store, "replayed": replay.usable(samples(store))}
    options: dict[str, Any] = {"steps": 3, "reward": "online:odd", "replay": {"share": 0.1}}  # 2/9 a mini-batch
    _, result = train(tiny_dir, arguments=given, **options)
    assert sum(point["updates"] for point in result.curve) == 6
    assert result.summary["replayed"] == 1
    assert ["replay_loss" in point for point in result.curve] == [False, False, True]
    with pytest.raises(ValueError, match="`images` has the pictures of `replayed` samples"):
        train(tiny_dir, arguments={**given, "images": None}, **options)


def test_the_gradient_is_that_of_the_weighed_cross_entropy(tiny_dir: Path, tmp_path: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    store = ImageStore(tmp_path)
    given = replay.usable(samples(store))
    assert [sample.id for sample in given] == ["s0", "s1", "s2", "s3", "s4"]
    options = section(prompts=4, minibatches=1, replay={"share": 0.5, "weight": 0.3})
    order = Cursor([sample.id for sample in given], 0)
    replayed = Replay(given, store.get, processor, VisionCache(model, processor, alone=True), options, order)
    model.vision.requires_grad_(False)
    value = added(replayed, model)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    loss = model.loss(pack([processor.encode(s.messages, [store.get(n) for n in s.images]) for s in given[:4]]))
    (0.3 * loss).backward()
    assert value == pytest.approx(loss.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4)
    assert replayed.cursor.take(1) == ["s4"]
    assert replayed.used == 4


@pytest.mark.slow
def test_it_keeps_what_sft_taught(tiny_dir: Path, tmp_path: Path) -> None:
    """Steps that reward digits make other text unlikely; with replay it is not."""
    store, processor = ImageStore(tmp_path), Processor.from_pretrained(tiny_dir)
    given = replay.usable(samples(store))
    packed = pack([processor.encode(s.messages, [store.get(n) for n in s.images]) for s in given])

    def loss(**changes: object) -> float:
        extra = {"images": store, "replayed": given} if changes else {}
        model, _ = train(tiny_dir, steps=6, reward="online:odd", arguments=extra, **changes)
        with torch.no_grad():
            return float(model.loss(packed))

    assert loss(replay={"share": 0.5, "weight": 1.0}) < loss() - 0.3


def test_a_stage_replays_the_general_set(tiny_dir: Path, tmp_path: Path) -> None:
    options = section(steps=2, reward="online:odd", replay={"share": 0.5}, tensorboard=False)
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "model").symlink_to(tiny_dir)
    store = ImageStore(tmp_path / "image-store")
    inputs = {
        name: tmp_path / folder for name, folder in (("sft_preference", "sft"), ("data", "data"), ("rl_pool", "pool"))
    }
    pool = [t.sample.model_copy(update={"images": [store.put(one) for one in t.images]}) for t in tasks(8)]
    write_samples(tmp_path / "pool" / "pool.parquet", pool)
    write_json(tmp_path / "pool" / "pool.json", {"wanted": 8})

    def ran(name: str) -> Path:
        for folder in (name, f"{name}.scratch"):
            (tmp_path / folder).mkdir()
        run = StageRun(Recipe(name="t", rl=options), tmp_path / name, tmp_path / f"{name}.scratch", inputs, store, 0,
                       "rl", Quiet())  # fmt: skip
        rl.run(run)
        return tmp_path / name

    write_samples(tmp_path / "data" / "general.parquet", samples(store))
    out = ran("rl")
    summary, shown = (json.loads((out / f"{name}.json").read_text()) for name in ("summary", "rollouts"))
    assert summary["replayed"] > 0
    assert [one["step"] for one in shown] == [1, 2]
    assert len((out / "train.jsonl").read_text().splitlines()) == 2
    write_samples(tmp_path / "data" / "general.parquet", samples(store)[-2:])
    with pytest.raises(UserError, match=r"rl\.replay\.share: there is no general sample to replay"):
        ran("none")
