"""Training with the tiny random model: it learns, it resumes exactly, it leaves frozen weights alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from open4ov.admission import mastery
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.recipe import SftSection, SftStage
from open4ov.recipe_mastery import MasterySection
from open4ov.sample import Sample, assistant, user
from open4ov.sft.encoding import Encoder, prefetch
from open4ov.sft.features import Features
from open4ov.sft.fit import fit
from open4ov.sft.trainer import idle_ranks
from open4ov.store import ImageStore
from open4ov.verifier import Verifier

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (40, 40, 220), "yellow": (230, 220, 40)}


@pytest.fixture
def samples(tmp_path: Path) -> tuple[list[Sample], ImageStore]:
    store = ImageStore(tmp_path / "images")
    made = []
    for size in (32, 64):
        for name, colour in COLOURS.items():
            sha = store.put(Image.new("RGB", (size, 64), colour))
            messages = [user("What colour is the circle?", images=1), assistant(name)]
            made.append(
                Sample(id=f"{name}{size}", source="t", task="colour", images=[sha], messages=messages, answer=name)
            )
    made.append(Sample(id="t", source="t", task="sum", messages=[user("1 + 1 ="), assistant("2")], answer="2"))
    return made, store


def trained(
    tiny_dir: Path, data: tuple[list[Sample], ImageStore], times: int = 8, **kwargs: object
) -> tuple[Qwen3VL, list[float]]:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    options = SftStage(tokens=1, learning_rate=3e-3, freeze_vision=bool(kwargs.pop("freeze", False)))
    section = SftSection(pack_tokens=128, precision="fp32", checkpoint_every=3)
    result = fit(model, Encoder(processor, data[1]), data[0] * times, section, options, **kwargs)  # pyright: ignore
    return model, [point["loss"] for point in result.curve]


def test_loss_falls_and_the_picture_decides(tiny_dir: Path, samples: tuple[list[Sample], ImageStore]) -> None:
    model, losses = trained(tiny_dir, samples, times=30)
    assert losses[0] > 3
    assert losses[-1] < 0.2
    encoder = Encoder(Processor.from_pretrained(tiny_dir), samples[1])
    red, blue = samples[0][0], samples[0][2]
    swapped = red.model_copy(update={"id": "swapped", "images": blue.images})
    packed, _ = encoder.pack([red, swapped])
    with torch.no_grad():
        logp, _ = model.log_probs(packed)
    right, wrong = (part.sum().item() for part in logp.split(packed.lengths.tolist()))
    assert right > wrong + 1


def test_an_interrupted_training_ends_with_the_same_bits(
    tiny_dir: Path, samples: tuple[list[Sample], ImageStore], tmp_path: Path
) -> None:
    whole, losses = trained(tiny_dir, samples)
    folder = tmp_path / "checkpoints"
    trained(tiny_dir, samples, checkpoints=folder, stop_after=5)
    assert [path.name for path in folder.iterdir()] == ["step-3"]
    for left in (".part-4", ".part-999"):  # what a kill while writing leaves, at a step that comes again and one that
        (folder / left).mkdir()  # does not
    resumed, again = trained(tiny_dir, samples, checkpoints=folder)
    assert again == losses
    assert not list(folder.glob(".part-*"))
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_a_checkpoint_of_other_data_is_not_used(
    tiny_dir: Path, samples: tuple[list[Sample], ImageStore], tmp_path: Path
) -> None:
    trained(tiny_dir, samples, checkpoints=tmp_path / "c", stop_after=4)
    _, losses = trained(tiny_dir, (samples[0][::-1], samples[1]), checkpoints=tmp_path / "c")
    assert losses == trained(tiny_dir, (samples[0][::-1], samples[1]))[1]


def test_a_frozen_tower_stays_bit_identical(tiny_dir: Path, samples: tuple[list[Sample], ImageStore]) -> None:
    before = Qwen3VL.from_pretrained(tiny_dir).state_dict()
    after = trained(tiny_dir, samples, freeze=True)[0].state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) is (name.startswith("vision.")), name


def test_packed_loss_is_the_token_mean_of_single_losses(
    tiny_dir: Path, samples: tuple[list[Sample], ImageStore]
) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    encoder = Encoder(processor, samples[1])
    with torch.no_grad():
        together = model.loss(encoder.pack(samples[0])[0])
        total, count = 0.0, 0
        for sample in samples[0]:
            single = pack([processor.encode(sample.messages, [samples[1].get(sha) for sha in sample.images])])
            count += int(single.targets.sum())
            total += model.loss(single).item() * int(single.targets.sum())
    assert together.item() == pytest.approx(total / count, abs=1e-5)


def test_held_features_give_the_same_loss_as_pixels(tiny_dir: Path, samples: tuple[list[Sample], ImageStore]) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    encoder = Encoder(processor, samples[1])
    with torch.no_grad():
        pixels = model.loss(encoder.pack(samples[0])[0])
        encoder.freeze(model, samples[0])
        held, features = encoder.pack(samples[0])
        assert len(held.pixels) == 0
        assert model.loss(held, features).item() == pytest.approx(pixels.item(), abs=1e-5)


def test_every_picture_is_held_or_encoded_again(tiny_dir: Path, tmp_path: Path) -> None:
    """More pictures than a chunk; and more than there is room for: the others pass the tower in the forward pass."""
    store, model, processor = (
        ImageStore(tmp_path),
        Qwen3VL.from_pretrained(tiny_dir),
        Processor.from_pretrained(tiny_dir),
    )
    made = [
        Sample(
            id=str(number),
            source="t",
            task="t",
            images=[store.put(Image.new("RGB", (32, 32), (number, 0, 0)))],
            messages=[user("one", 1), assistant("two")],
        )
        for number in range(70)
    ]
    whole = Encoder(processor, store)
    plain = whole.pack(made)[0]
    whole.freeze(model, made)
    held, features = whole.pack(made)
    assert len(held.pixels) == 0
    part = Encoder(processor, store, features=Features(1))
    part.freeze(model, made)
    assert part.pack(made[:64])[1] is not None
    mixed, none = part.pack(made[60:])
    assert none is None
    with torch.no_grad():
        assert model.loss(held, features).item() == pytest.approx(model.loss(plain).item(), abs=1e-5)
        rest, known = whole.pack(made[60:])
        assert model.loss(mixed).item() == pytest.approx(model.loss(rest, known).item(), abs=1e-5)


def test_a_thawed_tower_is_trained(tiny_dir: Path, samples: tuple[list[Sample], ImageStore]) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    encoder, section = Encoder(processor, samples[1]), SftSection(pack_tokens=128, precision="fp32")
    fit(model, encoder, samples[0], section, SftStage(tokens=1, freeze_vision=True))
    before = model.vision.patch.weight.detach().clone()
    model.requires_grad_(True)
    fit(model, encoder, samples[0], section, SftStage(tokens=1))
    assert not torch.equal(model.vision.patch.weight, before)


def test_errors_of_the_background_thread_arrive() -> None:
    def broken():
        yield 1
        raise KeyError("lost")

    stream = prefetch(broken())
    assert next(stream) == 1
    with pytest.raises(KeyError, match="lost"):
        next(stream)
    assert list(prefetch(range(20), depth=2)) == list(range(20))


def test_the_background_thread_uses_the_card_of_who_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    used = list[tuple[int, str]]()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda card: used.append((card, threading.current_thread().name)))
    assert list(prefetch(range(2))) == [0, 1]
    assert used == [(3, "prefetch")]


@pytest.mark.slow
def test_grades_come_from_rollouts_and_are_shared_by_topic(
    tiny_dir: Path, samples: tuple[list[Sample], ImageStore]
) -> None:
    from open4ov.engine import Engine

    model, _ = trained(tiny_dir, samples, times=60)
    processor = Processor.from_pretrained(tiny_dir)
    encoder = Encoder(processor, samples[1])
    wrong = samples[0][0].model_copy(update={"id": "wrong", "task": "naming", "answer": "purple"})
    options = MasterySection(rollouts=2, samples=4)
    with Verifier(lambda a, b, _: a == b) as verifier:
        graded = mastery.examine(
            [*samples[0], wrong], Engine(model, processor), encoder.picture, options, verifier, 0
        ).samples
    how = [s.extra["graded_by"] for s in graded]
    assert how.count("rollouts") == 4
    assert {s.task for s in graded if s.extra["graded_by"] == "rollouts"} == {"colour", "sum", "naming"}
    assert graded[-1].mastery == "unmastered"
    assert graded[-2].mastery == "mastered"
    assert all((s.pass_rate or 0) > 0 for s in graded[:-1])


def test_a_limit_cuts_responses_and_refuses_to_cut_pictures(
    tiny_dir: Path, samples: tuple[list[Sample], ImageStore]
) -> None:
    processor, (made, store) = Processor.from_pretrained(tiny_dir), samples
    picture = made[4].model_copy(update={"messages": [user("What?", images=1), assistant("red green blue " * 30)]})
    whole = Encoder(processor, store).document(picture)
    assert len(whole) > 60
    encoder = Encoder(processor, store, limit=60)
    document = encoder.document(picture)
    assert torch.equal(document.input_ids, whole.input_ids[:60])
    assert len(encoder.pack([picture])[0].input_ids) == 60
    first_target = int(whole.targets.nonzero()[0])
    assert Encoder(processor, store, limit=first_target).length(picture) == len(whole), "nothing to learn would be left"
    turns = [user("one"), assistant("two"), *picture.messages]
    late = picture.model_copy(update={"id": "late", "messages": turns})
    opened = (Encoder(processor, store).document(late).input_ids == processor.special["<|vision_start|>"]).nonzero()
    with pytest.raises(
        UserError, match=f"sample late: cut after {int(opened) + 2} of its .* a limit of {int(opened) + 6}"
    ):
        Encoder(processor, store, limit=int(opened) + 2).document(late)


def test_adapters_that_are_asked_for_must_be_there(tiny_dir: Path, samples: tuple[list[Sample], ImageStore]) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    section = SftSection(pack_tokens=128, precision="fp32", lora_rank=2)
    with pytest.raises(UserError, match="has no adapters"):
        fit(model, Encoder(processor, samples[1]), samples[0], section, SftStage(tokens=1))


def test_ranks_without_packs_are_told_with_what_to_do() -> None:
    assert idle_ranks(3, 8) == (
        "sft.accumulate: 3 packs a step keep only 3 of 8 ranks of packs busy; raise it to 8 or a multiple of that, or "
        "start fewer processes"
    )
    assert idle_ranks(8, 8) == idle_ranks(9, 8) == ""
