"""Offline RL: training on preference pairs, and what is left out, kept and told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from open4ov import training
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.recipe import DpoSection
from open4ov.rl.preference import training as offline
from open4ov.rl.preference import watch
from open4ov.rl.preference.prompts import Prompts
from open4ov.rl.preference.scores import Scorer, parts
from open4ov.rl.preference.screen import screen
from open4ov.rl.preference.training import Fit, train
from open4ov.sample import Sample, assistant, user

WORDS = ("red", "green", "blue", "yellow", "one two three", "two", "3 + 4 = 7", "left right")
ASKED = "What colour is the circle?"


def test_training_prefers_the_chosen_and_leaves_the_tower(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    red = Image.new("RGB", (64, 64), (220, 30, 30))
    base = Sample(id="seen", source="t", task="colour", images=["red"])
    pairs = [
        base.model_copy(update={"messages": [user(ASKED, images=1), assistant("red")], "rejected": [assistant("no")]}),
        base.model_copy(
            update={
                "id": "missing",
                "images": [],
                "messages": [user(ASKED), assistant("no")],
                "rejected": [assistant("red")],
            }
        ),
    ]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    section = DpoSection(epochs=40, batch=2, learning_rate=2e-3, beta=0.5)
    curve = train(model, processor, pairs, lambda _: red, section, seed=0).curve
    assert len(curve) == 40
    assert curve[0]["loss"] > 2 * curve[-1]["loss"]
    assert curve[-1]["accuracy"] == 1.0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("vision."), name


def test_a_sample_without_a_rejected_response_is_refused(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    sample = Sample(id="s1", source="t", task="t", messages=[user("?"), assistant("!")])
    with pytest.raises(ValueError, match="s1 is no preference pair"):
        train(model, processor, [sample], lambda _: Image.new("RGB", (32, 32)), DpoSection(), seed=0)


def pair(number: int, chosen: str, rejected: str, image: bool = True, asked: str = ASKED) -> Sample:
    return Sample(
        id=f"p{number}",
        source="t",
        task="t",
        images=[f"i{number}"] if image else [],
        messages=[user(f"{asked} {number}", images=int(image)), assistant(chosen)],
        rejected=[assistant(rejected)],
    )


def picture(name: str) -> Image.Image:
    return Image.new("RGB", (32, 32), (25 * int(name[1:]) % 255, 80, 200))


PAIRS = [pair(n, WORDS[n % len(WORDS)], WORDS[(n + 3) % len(WORDS)], n % 3 > 0) for n in range(22)]


class Bench:
    """A model to train, always the same at first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def train(self, pairs: list[Sample] = PAIRS, **options: Any) -> tuple[Fit, dict[str, torch.Tensor], list[str]]:
        said: list[str] = []
        run = {name: options.pop(name) for name in ("scratch", "stop_after", "folder") if name in options}
        known = {
            "precision": "fp32",
            "epochs": 2,
            "batch": 5,
            "learning_rate": 1e-3,
            "checkpoint_every": 2,
            "validation": {"pairs": 2, "every": 3},
        }
        section = DpoSection.model_validate({**known, **options})
        model = Qwen3VL.from_pretrained(self.directory)
        processor = Processor.from_pretrained(self.directory)
        fit = train(model, processor, pairs, picture, section, 0, note=said.append, **run)  # pyright: ignore[reportArgumentType]
        return fit, dict(model.state_dict()), said


@pytest.fixture
def bench(tiny_dir: Path) -> Bench:
    return Bench(tiny_dir)


@pytest.mark.parametrize("options", [{}, {"reference": True, "on_fall": "stop", "watch": 50.0}])
def test_an_interrupted_training_ends_with_the_same_bits(bench: Bench, tmp_path: Path, options: dict[str, Any]) -> None:
    whole, weights, _ = bench.train(**options)
    first, _, _ = bench.train(scratch=tmp_path, stop_after=5, **options)
    assert len(first.curve) == 5
    again, resumed, _ = bench.train(scratch=tmp_path, **options)
    assert again.curve == whole.curve
    assert again.summary == whole.summary
    assert all(torch.equal(value, weights[name]) for name, value in resumed.items())
    assert (tmp_path / "step-6").exists()


def test_the_journal_has_the_curve_and_the_pace_and_is_taken_up(bench: Bench, tmp_path: Path) -> None:
    """Lines beyond the checkpoint are taken back, torn ones too; figures go to TensorBoard where that is asked for."""
    folder = tmp_path / "journal"
    bench.train(scratch=tmp_path, folder=folder, stop_after=5)
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    whole, _, _ = bench.train(scratch=tmp_path, folder=folder)
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    pace = {"tokens", "seconds", "tokens_per_second"}
    assert [{name: line[name] for name in line if name not in pace} for line in lines] == whole.curve
    assert all(pace <= line.keys() for line in lines)
    assert not any(pace & point.keys() for point in whole.curve)
    assert not (folder / "tensorboard").exists()


def test_wandb_gets_every_figure_of_dpo(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, dict[str, Any]]] = []
    module = ModuleType("wandb")
    run = SimpleNamespace(log=lambda figures, step: logged.append((step, figures)), finish=lambda: None)
    module.init, module.Settings = lambda **_: run, dict  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", module)
    fit, _, _ = bench.train(folder=tmp_path, wandb="project", epochs=1)
    assert [step for step, _ in logged] == [point["step"] for point in fit.curve]
    for (_, figures), point in zip(logged, fit.curve, strict=True):
        assert figures.items() >= {f"train/{name}": value for name, value in point.items() if name != "step"}.items()


def test_a_journal_that_cannot_be_kept_names_its_key(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"dpo\.wandb: .*pip install 'open4ov\[wandb\]'"):
        bench.train(folder=tmp_path, wandb="project")


def test_other_pairs_take_up_no_checkpoint(bench: Bench, tmp_path: Path) -> None:
    bench.train(scratch=tmp_path, stop_after=5)
    others = [*PAIRS[:-1], pair(99, "red", "blue")]
    fit, weights, _ = bench.train(others, scratch=tmp_path)
    fresh, expected, _ = bench.train(others)
    assert fit.curve == fresh.curve
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_a_batch_in_parts_is_one_batch(bench: Bench) -> None:
    whole, weights, _ = bench.train(validation={"pairs": 0}, epochs=1)
    cut, others, _ = bench.train(validation={"pairs": 0}, epochs=1, part_tokens=60)
    assert [p["loss"] for p in cut.curve] == pytest.approx([p["loss"] for p in whole.curve], abs=2e-4)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=2e-4, rtol=2e-3)


def test_parts_hold_every_pair_once_within_the_budget() -> None:
    tokens = [5, 5, 30, 5, 5, 5]
    assert list(parts(range(6), tokens, 12)) == [[0, 1], [2], [3, 4], [5]]
    assert list(parts([3, 1], tokens, None)) == [[3, 1]]


def test_with_a_reference_the_first_loss_is_that_of_no_lead(bench: Bench) -> None:
    """Before the first step the model is the reference: log sigmoid(0), whatever it prefers."""
    fit, _, _ = bench.train(reference=True, nll_weight=0)
    assert fit.curve[0]["preference_loss"] == pytest.approx(0.693147, abs=1e-5)
    free, _, _ = bench.train(nll_weight=0)
    assert abs(free.curve[0]["preference_loss"] - 0.693147) > 1e-3
    assert fit.watch.points[0]["lead"] == 0.0


def test_log_probabilities_are_those_of_whole_documents(bench: Bench) -> None:
    model, processor = Qwen3VL.from_pretrained(bench.directory), Processor.from_pretrained(bench.directory)
    sums, lengths = Scorer(model, Prompts(processor, picture)).all(PAIRS[:4], [50] * 4, 3, None)
    for place, one in enumerate(PAIRS[:4]):
        for which, text in enumerate((one.messages[-1].text, (one.rejected or [])[-1].text)):
            document = processor.encode([*one.messages[:-1], assistant(text)], [picture(sha) for sha in one.images])
            with torch.no_grad():
                logp, _ = model.log_probs(pack([document]))
            assert lengths[place, which] == document.targets.sum()
            assert float(sums[place, which]) == pytest.approx(float(logp.sum()), abs=1e-4)


def test_pairs_that_cannot_be_trained_on_are_listed(tiny_dir: Path) -> None:
    def missing(name: str) -> Image.Image:
        if name == "i3":
            raise UserError("no such picture")
        return Image.new("RGB", (900, 2)) if name == "thin" else picture(name)

    pairs = [
        pair(1, "red", "blue"),
        pair(2, "red", " red\n"),
        pair(3, "red", "blue"),
        pair(4, "red", "blue " * 90, image=False),
        pair(5, "  ", "blue"),
        pair(6, "red", "blue", asked="How many squares are there? " * 20),
        pair(7, "Red.", "red"),  # a matter of style, and a pair
        pair(8, "red", "blue").model_copy(update={"images": []}),  # its prompt speaks of a picture that nobody gave
        pair(9, "red", "blue").model_copy(update={"images": ["thin"]}),
    ]
    found = screen(pairs, Prompts(Processor.from_pretrained(tiny_dir), missing), 120)
    assert [one.id for one in found.pairs] == ["p1", "p7"]
    assert found.listed == {
        "empty": ["p5"],
        "equal": ["p2"],
        "too_long": ["p4", "p6"],
        "picture_missing": ["p3"],
        "not_encoded": ["p8", "p9"],
    }


def test_a_loss_that_is_no_number_names_the_pairs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    original = offline.of_pairs

    def broken(*given: Any) -> tuple[torch.Tensor, dict[str, float]]:
        value, figures = original(*given)
        return value * float("nan"), figures

    monkeypatch.setattr(offline, "of_pairs", broken)
    with pytest.raises(training.Diverged, match=r"step 1: the loss is nan.*pairs of this batch: p\d+, p\d+"):
        bench.train()


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that makes the chosen responses less likely."""
    original = offline.of_pairs

    def wrong(sums: torch.Tensor, *others: Any) -> tuple[torch.Tensor, dict[str, float]]:
        return sums[:, 0].mean() * 0.1, original(sums, *others)[1]

    monkeypatch.setattr(offline, "of_pairs", wrong)


@pytest.mark.usefixtures("falling")
def test_a_fall_of_the_chosen_responses_is_told_once(bench: Bench) -> None:
    fit, _, said = bench.train(watch=0.05, validation={"pairs": 2, "every": 1})
    assert fit.watch.fallen > 0.05
    assert len(said) == 1
    assert "nats a token below their start (dpo.watch: 0.05)" in said[0]
    assert len(fit.curve) == 8


@pytest.mark.usefixtures("falling")
@pytest.mark.parametrize("on_fall", ["warn", "stop"])
def test_a_fall_before_a_kill_is_told_by_the_call_that_goes_on(bench: Bench, tmp_path: Path, on_fall: str) -> None:
    """What a killed stage has noted is lost with it."""
    options = {"watch": 0.05, "on_fall": on_fall, "checkpoint_every": 1, "validation": {"pairs": 2, "every": 1}}
    whole, _, told = bench.train(**options)
    fell = next(
        n
        for n, point in enumerate(whole.watch.points)
        if whole.watch.points[0]["chosen_logp_a_token"] - point["chosen_logp_a_token"] > 0.05
    )
    bench.train(scratch=tmp_path, stop_after=fell + 1, **options)
    again, _, said = bench.train(scratch=tmp_path, **options)
    assert said == told
    assert again.summary == whole.summary


@pytest.mark.usefixtures("falling")
def test_a_fall_ends_the_training_with_the_best_weights(bench: Bench, tiny_dir: Path) -> None:
    options: dict[str, Any] = {"watch": 0.05, "on_fall": "stop", "validation": {"pairs": 2, "every": 1}}
    fit, weights, said = bench.train(**options)
    assert fit.watch.stopped
    assert len(fit.curve) < 8
    best = fit.watch.best_step
    assert best is not None
    assert best < len(fit.curve)
    assert f"ends with the weights of step {best}" in said[0]
    unstopped, kept, _ = bench.train(**{**options, "on_fall": "warn"}, stop_after=best) if best else (None, None, None)
    expected = kept or Qwen3VL.from_pretrained(tiny_dir).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert unstopped is None or unstopped.curve == fit.curve[:best]


def test_the_watch_takes_what_is_no_number_for_a_fall() -> None:
    seen = watch.Watch(DpoSection(on_fall="stop"))
    keep: Callable[[], dict[str, torch.Tensor]] = dict
    seen.see(0, {"loss": 0.7, "chosen_logp_a_token": -2.0}, keep)
    seen.see(5, {"loss": float("nan"), "chosen_logp_a_token": float("nan")}, keep)
    assert seen.stopped
    assert seen.best_step == 0


def test_validation_shares_no_picture_with_training() -> None:
    pairs = [
        pair(number, "red", "blue", image=True).model_copy(update={"id": f"{number} {copy}", "images": [f"i{number}"]})
        for number in range(30)
        for copy in range(2)
    ]
    hidden = pairs[0].model_copy(update={"id": "hidden", "images": [], "extra": {"pair_about": ["i0"]}})
    pairs.append(hidden)
    own, held = watch.apart(pairs, 6, seed=1)
    assert sorted([*own, *held]) == list(range(61))
    assert 4 <= len(held) <= 6
    about = [{(pairs[n].extra.get("pair_about") or pairs[n].images)[0] for n in side} for side in (own, held)]
    assert not about[0] & about[1]
    assert watch.apart(pairs, 0, seed=1)[1] == []


def test_pairs_about_one_picture_are_trained_on_all_the_same() -> None:
    def about(*counts: int) -> list[Sample]:
        shown = [f"i{place}" for place, count in enumerate(counts) for _ in range(count)]
        return [pair(number, "red", "blue").model_copy(update={"images": [name]}) for number, name in enumerate(shown)]

    assert [len(side) for side in watch.apart(about(40), 2, 0)] == [40, 0]
    for seed in range(5):
        assert [len(side) for side in watch.apart(about(37, 3), 2, seed)] == [37, 3]
        assert [len(side) for side in watch.apart(about(30, 2, 8), 3, seed)] == [38, 2]


def test_what_few_pairs_do_not_suffice_for_is_said(bench: Bench) -> None:
    assert bench.train()[2] == []
    fit, _, said = bench.train(PAIRS[:4])
    assert len(fit.curve) == 2
    assert said == [
        "dpo.batch: a step takes 5 pairs, and all to train on are 4",
        "dpo.validation.pairs: 0 of 4 pairs are kept apart, not the 2 asked for: of few pairs it is a tenth at most",
    ]
    fit, _, said = bench.train([pair(number, "red", "red") for number in range(4)])
    assert fit.curve == []
    assert said == ["there is no pair to train on: the model stays as it is"]
