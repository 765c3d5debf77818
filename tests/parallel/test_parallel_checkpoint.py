"""Checkpoints of several processes: exact on the same mesh, read on any other, whole after a kill, and refused when
their bytes have changed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import world
from safetensors.torch import load_file, save_file
from spread import point, same, spread, states, step, tiny_model, weights

from open4ov import checkpoints, training
from open4ov.errors import UserError
from open4ov.model import Qwen3VL
from open4ov.parallel import checkpoint, manifest
from open4ov.parallel.pretrained import export, fill

pytestmark = pytest.mark.distributed
ANY = str.isprintable


def trained(
    directory: Path, folder: Path | None, sizes: dict[str, Any], steps: list[int], experts: bool
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Goes on from what `folder` has, through the steps, saves -> weights and the optimizer's state, whole."""
    model, optimizer = spread(tiny_model(directory, experts, "pp" in sizes), sizes, dist.get_world_size())
    if folder is not None:
        found = checkpoint.load(folder, model, optimizer, ANY)
        assert (found.done if found else 0) == steps[0] - 1
        assert found is None or (len(found.curve), found.notes) == (found.done, {"seen": found.done})
    for number in steps:
        step(model, optimizer, number)
    result = weights(model), states(model, optimizer)
    if folder is not None:
        writer = checkpoint.Writer(folder)
        writer.save(model, optimizer, point(steps[-1]))
        step(model, optimizer, 99)  # the copy was made: what comes after does not get into it
        writer.close()
    return result


MESHES: dict[str, tuple[int, dict[str, Any]]] = {
    "fsdp": (2, {}),
    "tp": (2, {"tp": 2}),
    "cp": (2, {"cp": 2}),
    "hsdp": (2, {"dp_replicate": 2}),
    "one": (1, {}),
    "fsdp x tp": (4, {"tp": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("fsdp", "tp"), ("tp", "fsdp")])
def test_any_mesh_goes_on_from_any_other(tiny_dir: Path, tmp_path: Path, before: str, after: str) -> None:
    check_resharding(tiny_dir, tmp_path, before, after, experts=False)


@pytest.mark.slow
@pytest.mark.parametrize("experts", [False, True], ids=["dense", "experts"])
@pytest.mark.parametrize(
    ("before", "after"),
    [("one", "fsdp x tp"), ("fsdp x tp", "hsdp"), ("hsdp", "cp"), ("cp", "one"), ("tp", "fsdp x tp")],
)
def test_any_mesh_goes_on_from_any_other_many(
    tiny_dir: Path, tmp_path: Path, before: str, after: str, experts: bool
) -> None:
    check_resharding(tiny_dir, tmp_path, before, after, experts)


def check_resharding(tiny_dir: Path, folder: Path, before: str, after: str, experts: bool) -> None:
    (processes, sizes), (others, other_sizes) = MESHES[before], MESHES[after]
    at_save = world.run(trained, processes, tiny_dir, folder, sizes, [1, 2], experts)
    at_load = world.run(loaded, others, tiny_dir, folder, other_sizes, experts)
    for rank in at_load:
        assert not same(rank[0], at_save[0][0])
        assert not same(rank[1], at_save[0][1])


def loaded(
    directory: Path, folder: Path, sizes: dict[str, Any], experts: bool
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    model, optimizer = spread(tiny_model(directory, experts), sizes, dist.get_world_size())
    assert checkpoint.load(folder, model, optimizer, ANY) is not None
    return weights(model), states(model, optimizer)


@pytest.mark.slow
def test_resumed_is_uninterrupted(tiny_dir: Path, tmp_path: Path) -> None:
    """On the same mesh, bit for bit; the older checkpoint goes when the newer one is whole."""
    check_resumed(tiny_dir, tmp_path, {})


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_resumed_is_uninterrupted_in_a_pipeline(tiny_dir: Path, tmp_path: Path, schedule: str) -> None:
    """Tied words lie on two ranks, and in a V twice on one."""
    check_resumed(tiny_dir, tmp_path, {"pp": 2, "schedule": schedule})


def check_resumed(tiny_dir: Path, tmp_path: Path, sizes: dict[str, Any]) -> None:
    world.run(trained, 2, tiny_dir, tmp_path, sizes, [1, 2], False)
    resumed = world.run(trained, 2, tiny_dir, tmp_path, sizes, [3, 4], False)
    straight = world.run(trained, 2, tiny_dir, None, sizes, [1, 2, 3, 4], False)
    for (found, found_states), (expected, expected_states) in zip(resumed, straight, strict=True):
        assert not same(found, expected)
        assert not same(found_states, expected_states)
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


def killed_while_saving(directory: Path, folder: Path) -> None:
    model, optimizer = spread(tiny_model(directory), {}, 2)
    writer = checkpoint.Writer(folder)
    step(model, optimizer, 1)
    writer.save(model, optimizer, point(1))
    writer.wait()
    step(model, optimizer, 2)
    if dist.get_rank() == 1:
        real = checkpoint.manifest.entry

        def dies(path: Path) -> Any:
            real(path)
            os._exit(9)  # its files are written, the rename is not

        checkpoint.manifest.entry = dies
    writer.save(model, optimizer, point(2))
    writer.wait()


@pytest.mark.slow
def test_a_rank_killed_while_saving_leaves_the_one_before(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(world.WorldError, match=r"rank 1 died \(exit code 9\)"):
        world.run(killed_while_saving, 2, tiny_dir, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".part-2", "step-1"]
    resumed = world.run(trained, 2, tiny_dir, tmp_path, {}, [2, 3], False)
    straight = world.run(trained, 2, tiny_dir, None, {}, [1, 2, 3], False)
    assert not same(resumed[0][0], straight[0][0])
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]


def full_while_saving(directory: Path, folder: Path) -> str:
    model, optimizer = spread(tiny_model(directory), {}, 2)
    writer = checkpoint.Writer(folder)
    step(model, optimizer, 1)
    writer.save(model, optimizer, point(1))
    writer.wait()
    if dist.get_rank() == 1:
        real = checkpoint.HuggingFaceStorageWriter.write_data

        def is_full(*arguments: Any) -> Any:
            real(*arguments)
            raise OSError(errno.ENOSPC, "No space left on device")

        pytest.MonkeyPatch().setattr(checkpoint.HuggingFaceStorageWriter, "write_data", is_full)
    writer.save(model, optimizer, point(2))
    try:
        writer.close()
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_a_full_disk_is_told_on_all_ranks(tiny_dir: Path, tmp_path: Path) -> None:
    for text in world.run(full_while_saving, 2, tiny_dir, tmp_path):
        assert "the disk is full (at the checkpoint of step 2); the one of step 1 is whole and kept" in text
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def failing_while_saving(directory: Path, folder: Path) -> list[str]:
    """Faults of one rank -> what each rank hears of them."""
    model, optimizer = spread(tiny_model(directory), {}, 2)
    groups, rank, said = len(dist.distributed_c10d._world.pg_map), dist.get_rank(), list[str]()
    writer = checkpoint.Writer(folder)
    writer.save(model, optimizer, point(1))
    faults: list[tuple[int, Any, str, BaseException]] = [
        (1, checkpoint.manifest, "entry", MemoryError()),
        (0, checkpoint.Path, "mkdir", PermissionError("not yours")),
        (0, checkpoint.manifest, "write", OSError(errno.EDQUOT, "Disk quota exceeded")),
        (0, checkpoint.manifest, "sync", OSError("the disk is broken")),
    ]
    for number, (where, module, name, fault) in enumerate(faults):
        writer.wait()

        def fails(*_: Any, fault: BaseException = fault, **__: Any) -> None:
            raise fault

        with pytest.MonkeyPatch.context() as patch:
            if rank == where:
                patch.setattr(module, name, fails)
            writer.save(model, optimizer, point(number + 2))
            try:
                writer.wait()
            except (RuntimeError, UserError) as error:
                said.append(f"{type(error).__name__}: {error}")
        dist.barrier()
        said.append(" ".join(sorted(path.name for path in folder.iterdir())))
        dist.barrier()
    writer.save(model, optimizer, point(9))
    writer.close()
    assert len(dist.distributed_c10d._world.pg_map) == groups, "its group is given back"
    return said


def test_a_fault_of_one_rank_is_told_on_all_and_costs_nothing(tiny_dir: Path, tmp_path: Path) -> None:
    for said in world.run(failing_while_saving, 2, tiny_dir, tmp_path):
        memory, after, missing, then, full, kept, broken, _ = said
        assert memory == "RuntimeError: the checkpoint of step 2 could not be written: MemoryError()"
        assert missing == "RuntimeError: the checkpoint of step 3 could not be written: not yours"
        assert full.startswith("UserError: ")
        assert "the disk is full (at the checkpoint of step 4); the one of step 1 is whole and kept" in full
        assert broken == "RuntimeError: the checkpoint of step 5 could not be written: the disk is broken"
        assert after == then == kept == "step-1"
    assert [path.name for path in tmp_path.iterdir()] == ["step-9"]


def refused(directory: Path, folder: Path, experts: bool = False, identity: str = "a training") -> str:
    model, optimizer = spread(tiny_model(directory, experts), {}, dist.get_world_size())
    before = weights(model)
    try:
        found = checkpoint.load(folder, model, optimizer, identity.__eq__)
    except UserError as error:
        assert not same(weights(model), before), "nothing was read"
        return str(error)
    return "none" if found is None else f"step {found.done}"


@pytest.fixture(scope="module")
def saved(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by two ranks."""
    folder = tmp_path_factory.mktemp("saved")
    world.run(trained, 2, tiny_dir, folder, {}, [1, 2], False)
    return folder


def damaged(path: Path, how: str) -> str:
    """-> what the error must say."""
    optimizer = sorted((path / "optimizer").iterdir())
    if how == "one bit":
        data = bytearray(optimizer[1].read_bytes())
        data[-1] ^= 1
        optimizer[1].write_bytes(data)
        return f"{optimizer[1]}: its bytes are not those that were written (SHA-256)"
    if how == "cut off":
        os.truncate(optimizer[0], 1000)
        return f"{optimizer[0]}: has 1000 bytes, not the "
    if how == "missing":
        file = next((path / "model").iterdir())
        file.unlink()
        return f"{file}: is missing"
    if how == "another's":
        save_file(load_file(optimizer[0]), path / "optimizer" / "shard-00003-model-00001-of-00001.safetensors")
        return "is none of this checkpoint's files"
    if how == "record":
        record = json.loads((path / "record.json").read_text())
        (path / "record.json").write_text(json.dumps({**record, "done": 3}))
        return f"{path / 'record.json'}: its bytes are not those"
    (path / "manifest.json").unlink()
    return f"{path / 'manifest.json'}: is missing or damaged"


@pytest.mark.parametrize("how", ["one bit", "cut off", "missing", "another's", "record", "no manifest"])
def test_changed_files_are_named_and_not_read(tiny_dir: Path, saved: Path, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "c"
    shutil.copytree(saved, folder)
    said = damaged(folder / "step-2", how)
    for text in world.run(refused, 2, tiny_dir, folder):
        assert said in text
        assert f"delete {folder / 'step-2'}, and the training begins anew" in text


def test_of_another_model_or_training(tiny_dir: Path, saved: Path) -> None:
    for text in world.run(refused, 2, tiny_dir, saved, True):
        assert "step-2: of another model: no tensor model.language_model.layers.0.mlp." in text
    assert world.run(refused, 2, tiny_dir, saved, False, "another") == ["none", "none"]


@pytest.mark.slow
def test_many_go_on_from_one_process_and_one_from_many(tiny_dir: Path, tmp_path: Path) -> None:
    one = tiny_model(tiny_dir)
    optimizer = training.adamw(one, 1e-2, 0.1)
    step(one, optimizer, 1)
    average = {"average": {name: p.detach() * 2 for name, p in one.named_parameters()}}
    checkpoints.save(tmp_path, one, optimizer, point(1, tensors=average))
    expected = weights(one), states(one, optimizer)
    for found in world.run(loaded, 2, tiny_dir, tmp_path, {"tp": 2}, False):
        assert not same(found[0], expected[0])
        assert not same(found[1], expected[1])
    at_save = world.run(trained, 2, tiny_dir, tmp_path, {"tp": 2}, [2], False)
    other = tiny_model(tiny_dir)
    fresh = training.adamw(other, 1e-2, 0.1)
    found = checkpoints.load(tmp_path, other, fresh, ANY)
    assert found is not None
    assert (found.done, found.notes) == (2, {"seen": 2})
    assert not same(weights(other), at_save[0][0])
    assert not same(states(other, fresh), at_save[0][1])


def test_no_checkpoint(tiny_dir: Path, tmp_path: Path) -> None:
    assert world.run(refused, 1, tiny_dir, tmp_path / "nowhere") == ["none"]


def test_nothing_is_pickled(saved: Path) -> None:
    files = sorted(path.relative_to(saved / "step-2").as_posix() for path in saved.rglob("*") if path.is_file())
    shards = [f"shard-{rank:05}-model-00001-of-00001.safetensors" for rank in (1, 2)]
    expected = [f"{part}/{name}" for part in ("model", "optimizer") for name in shards]
    assert files == sorted(["manifest.json", "record.json", *expected])
    assert set(manifest.read(saved / "step-2")) == {"record.json", *expected}


@pytest.mark.slow
def test_own_tensors_come_back(tiny_dir: Path, tmp_path: Path) -> None:
    assert all(world.run(with_average, 2, tiny_dir, tmp_path))


def with_average(directory: Path, folder: Path) -> bool:
    model, optimizer = spread(tiny_model(directory), {}, 2)
    step(model, optimizer, 1)
    average = {name: p.detach() * 2 for name, p in model.named_parameters()}
    writer = checkpoint.Writer(folder)
    writer.save(model, optimizer, point(1, tensors={"average": average}))
    writer.close()
    other, fresh = spread(tiny_model(directory), {"tp": 2}, 2)
    found = checkpoint.load(folder, other, fresh, ANY)
    assert found is not None
    got = {name: checkpoint_whole(value) for name, value in found.tensors["average"].items()}
    return not same(got, {name: checkpoint_whole(value) for name, value in average.items()})


def checkpoint_whole(value: Any) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


@pytest.mark.slow
@pytest.mark.parametrize("experts", [False, True], ids=["dense", "experts"])
def test_to_hugging_face_and_back(tiny_dir: Path, tmp_path: Path, experts: bool) -> None:
    """A checkpoint of a mesh becomes a directory that everyone reads, which another mesh reads by its shards."""
    at_save = world.run(trained, 2, tiny_dir, tmp_path / "c", {}, [1], experts)
    config = tiny_model(tiny_dir, experts).config
    export(tmp_path / "c" / "step-1", config, tmp_path / "hf")
    model = Qwen3VL.from_pretrained(tmp_path / "hf")
    assert not same(dict(model.state_dict()), at_save[0][0])
    for found in world.run(filled, 2, tiny_dir, tmp_path / "hf", {"tp": 2}, experts):
        assert not same(found, at_save[0][0])


def filled(directory: Path, source: Path, sizes: dict[str, Any], experts: bool) -> dict[str, torch.Tensor]:
    model, _ = spread(tiny_model(directory, experts), sizes, dist.get_world_size())
    fill(model, source)
    return weights(model)


def test_a_directory_of_another_model_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    tiny_model(tiny_dir, experts=True).save_pretrained(tmp_path)
    for text in world.run(unfilled, 2, tiny_dir, tmp_path):
        assert f"{tmp_path}: is of another model than the one to be filled" in text


def unfilled(directory: Path, source: Path) -> str:
    try:
        filled(directory, source, {}, False)
    except UserError as error:
        return str(error)
    return ""
