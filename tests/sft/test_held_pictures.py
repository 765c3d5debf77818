"""Pictures and features are held within bounds: what has no room is read, mapped or computed again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from looped import Bench
from PIL import Image

from open4ov.model import VisionFeatures
from open4ov.model.images import ImageSettings
from open4ov.sample import Sample, assistant, user
from open4ov.sft.features import Features
from open4ov.sft.pictures import Pictures
from open4ov.store import ImageStore

SETTINGS = ImageSettings(min_pixels=32 * 32, max_pixels=96 * 96)


class Counting(ImageStore):
    """Counts what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read: list[str] = []

    def get(self, sha: str) -> Image.Image:
        self.read.append(sha)
        return super().get(sha)


def test_of_many_pictures_the_latest_are_held(tmp_path: Path) -> None:
    store = Counting(tmp_path)
    names = [store.put(Image.new("RGB", (64, 64), (n % 256, n // 256, 7))) for n in range(300)]
    size = 64 * 64 * 3
    pictures = Pictures(store, SETTINGS, held_bytes=10 * size + 5)
    for name in names:
        pictures.get(name)
        assert pictures.bytes <= 10 * size
    assert store.read == names
    for name in names[-10:]:
        pictures.get(name)
    assert store.read == names, "the last ten were not read again"
    pictures.get(names[-10])
    pictures.get(names[0])  # for which the one that was asked for longest ago goes
    pictures.get(names[-10])
    assert store.read == [*names, names[0]]
    pictures.get(names[-9])
    assert store.read == [*names, names[0], names[-9]]
    pictures.clear()
    assert pictures.bytes == 0


def test_a_picture_that_is_larger_than_all_room_is_read_each_time(tmp_path: Path) -> None:
    store = Counting(tmp_path)
    name = store.put(Image.new("RGB", (64, 64), "red"))
    pictures = Pictures(store, SETTINGS, held_bytes=100)
    assert pictures.get(name).size == pictures.get(name).size == (64, 64)
    assert store.read == [name] * 2
    assert pictures.bytes == 0


def chunk(first: int, count: int = 3) -> dict[str, VisionFeatures]:
    generator = torch.Generator().manual_seed(first)
    return {
        str(n): VisionFeatures(
            torch.randn(4 + n % 3, 8, generator=generator),
            [torch.randn(4 + n % 3, 8, generator=generator).bfloat16() for _ in range(2)],
        )
        for n in range(first, first + count)
    }


def test_features_beyond_memory_lie_on_disk_bit_for_bit(tmp_path: Path) -> None:
    chunks = [chunk(3 * n) for n in range(6)]
    size = sum(features.nbytes for features in chunks[0].values())
    kept = Features(2 * size, tmp_path / "features", 3 * size)
    for number, one in enumerate(chunks):
        assert kept.full == (number > 4)
        if not kept.full:
            kept.put(one)
    assert kept.in_memory == 2 * size
    assert kept.on_disk == 3 * size
    assert len(list((tmp_path / "features").iterdir())) == 3
    for one in chunks[:5]:
        for name, features in one.items():
            assert name in kept
            found = kept.get(name)
            assert torch.equal(found.merged, features.merged)
            assert len(found.deepstack) == 2
            assert all(torch.equal(a, b) for a, b in zip(found.deepstack, features.deepstack, strict=True))
            assert found.deepstack[0].dtype == torch.bfloat16
    assert "17" not in kept
    kept.clear()
    assert not (tmp_path / "features").exists()
    assert "0" not in kept


@pytest.mark.parametrize("room", ["memory", "disk", "both", "neither"])
def test_the_loss_is_the_same_wherever_features_are_kept(tiny_dir: Path, tmp_path: Path, room: str) -> None:
    bench = Bench(tiny_dir, ImageStore(tmp_path / "images"))
    samples = [
        Sample(
            id=f"s{n}",
            source="t",
            task="t",
            images=[bench.store.put(Image.new("RGB", (32, 32), (3 * n, 9, 200 - n)))],
            messages=[user("What colour is the circle?", images=1), assistant("red")],
        )
        for n in range(80)
    ]
    encoder, model = bench.encoder(), bench.model()
    memory = 2**30 if room == "memory" else 1 if room == "both" else 0
    disk = 2**30 if room in ("disk", "both") else 0
    encoder.features = Features(memory, tmp_path / "f", disk)
    model.requires_grad_(False)
    expected = [model.loss(encoder.pack(samples[n : n + 4])[0]).item() for n in (0, 62, 76)]
    if room != "neither":
        encoder.freeze(model, samples)
    assert (tmp_path / "f").exists() == (room in ("disk", "both"))
    for n, value in zip((0, 62, 76), expected, strict=True):
        batch, features = encoder.pack(samples[n : n + 4])
        assert (features is None) == (room == "neither")
        assert model.loss(batch, features).item() == pytest.approx(value, abs=1e-6)
    encoder.thaw()
    assert not (tmp_path / "f").exists()
