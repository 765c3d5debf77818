"""Updates of GSPO and steps of DPO of tiny models, on as many processes as there are, for `test_rl_spread.py`."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.append(str(Path(__file__).parents[1] / "parallel"))

import online
from packs import config_of  # pyright: ignore[reportMissingImports]
from PIL import Image
from torch import Tensor
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]

from open4ov import training
from open4ov.engine import Completion, VisionCache
from open4ov.graph import StageRun
from open4ov.model import Processor, Qwen3VL
from open4ov.parallel.crew import Crew, follow, leading
from open4ov.parallel.launch import World
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel, whole
from open4ov.progress import Quiet
from open4ov.recipe import DpoSection, Recipe
from open4ov.recipe_parallel import ParallelSection
from open4ov.rl.generation import spread
from open4ov.rl.preference.training import train
from open4ov.rl.replay import Replay
from open4ov.rl.rollout import Group
from open4ov.rl.sampling import Cursor
from open4ov.rl.update import Broken, Updater
from open4ov.sample import Sample, assistant, user
from open4ov.stages import rl
from open4ov.stages import spread as spread_stages
from open4ov.store import ImageStore, read_samples, write_json

RATE = 3e-4
"""AdamW moves an entry whose gradient is near its eps by a share of this that is no better known than the gradient"""
RESPONSES = [
    [[40, 41, 42], [50], [60, 61], [70, 71, 72, 73, 74]],
    [[80, 81], [90, 91, 92, 93], [33], [44, 45]],
    [[51, 52], [53, 54], [55], [56]],
    [[41, 42, 43, 44, 45, 46], [61], [], [71, 72]],
    [[34, 35, 36], [37], [38, 39], [62, 63, 64]],
]
ADVANTAGES = [
    [1.0, -0.5, 0.25, -0.75],
    [0.5, -1.0, 0.3, 0.2],
    [0.0] * 4,
    [-0.4, 0.6, 0.1, -0.3],
    [0.7, 0.1, -0.2, -1.0],
]


@dataclass(frozen=True)
class Case:
    """kind: of the model (`packs.config_of`); what: gspo or dpo; options: of its section."""

    sizes: dict[str, int]
    what: str = "gspo"
    kind: str = "dense"
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.what} {self.sizes} {self.kind} {self.options}"


@dataclass
class Outcome:
    """gradients: of the first step of the optimizer."""

    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    figures: list[dict[str, Any]]


def model_of(processor: Processor, kind: str, sizes: dict[str, int] | None, frozen: bool = True) -> Any:
    """sizes: None for a model in one process."""
    model = Qwen3VL(config_of(processor, kind), seed=3)
    with torch.no_grad():  # see tests/parallel/parity.py
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    if frozen:
        training.freeze_vision(model)
    if sizes is None:
        return model
    options = ParallelSection.model_validate(sizes)
    return Parallel.of(model, Mesh.of(options, dist.get_world_size(), model.config).open("cpu"), options)


@contextmanager
def recorded(seen: dict[str, Tensor]) -> Any:
    """`seen` gets the gradients of the first step; AdamW's eps is far above their rounding."""
    step, adamw = training.step, training.adamw

    def stepped(model: Any, *arguments: Any) -> float:
        if not seen:
            seen.update({n: whole(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None})
        return step(model, *arguments)

    def calm(*arguments: Any) -> training.Optimizer:
        made = adamw(*arguments)
        for group in made.param_groups:
            group["eps"] = 1e-6
        return made

    training.step, training.adamw = stepped, calm
    try:
        yield
    finally:
        training.step, training.adamw = step, adamw


def groups() -> list[Group]:
    made: list[Group] = []
    for task, responses, advantages in zip(online.tasks(5), RESPONSES, ADVANTAGES, strict=True):
        said = [Completion("x" if ids else "", ids, [-5.0] * len(ids), "stop", 0) for ids in responses]
        own = torch.tensor(advantages, dtype=torch.float64)
        made.append(Group(task, said, (own > 0).double(), own, torch.zeros_like(own), own))
    return made


def computed(directory: Path, case: Case, alone: bool = False) -> Outcome:
    """alone: in this process, whatever the sizes."""
    processor = Processor.from_pretrained(directory)
    options, seen = dict(case.options), dict[str, Tensor]()
    frozen = options.get("freeze_vision", True)
    model = model_of(processor, case.kind, None if alone else case.sizes, frozen)
    with recorded(seen):
        figures = (_gspo if case.what == "gspo" else _dpo)(model, processor, options)
    weights = {name: whole(p.detach()).clone() for name, p in model.named_parameters()}
    torch.set_flush_denormal(False)
    if isinstance(model, Parallel) and case.sizes.get("pp"):
        weights = model.full_state(everywhere=True)
        everybody = model.told(seen)
        seen = {name: value for own in everybody for name, value in own.items()}
    return Outcome(seen, weights, figures)


def _gspo(model: Any, processor: Processor, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Two updates of two mini-batches each, from groups of another policy."""
    shares = options.pop("replay", None)
    section = online.section(group=4, prompts=5, minibatches=2, learning_rate=RATE, **options)
    seeing = spread.seeing(model) if isinstance(model, Parallel) else model
    pictures = VisionCache(seeing, processor)
    updater = Updater(model, processor, pictures, section, weighed=True)
    replay = None
    if shares:
        section = section.model_copy(update={"replay": section.replay.model_copy(update=shares)})
        names = [f"s{i}" for i in range(4)]
        samples = [
            Sample(
                id=n,
                source="t",
                task="t",
                messages=[user(f"{n} + 1 ="), assistant("two three"[: 3 + i])],
                split="train",
            )
            for i, n in enumerate(names)
        ]
        replay = Replay(samples, lambda _: online.RED, processor, pictures, section, Cursor(names, 0))
    optimizer = training.adamw(model, RATE)
    return [updater.apply(updater.prepare(groups()), optimizer, RATE, replay).figures() for _ in range(2)]


def preference_pairs() -> list[Sample]:
    words = ["red", "green", "blue one", "yellow", "one two three", "two", "3 + 4 = 7", "left right"]
    return [
        Sample(
            id=f"p{number}",
            source="t",
            task="t",
            images=[f"i{number}"] if number % 3 else [],
            messages=[user(f"What colour {number}?", images=int(number % 3 > 0)), assistant(words[number % 8])],
            rejected=[assistant(words[(number * 3 + 1) % 8])],
        )
        for number in range(10)
    ]


def _dpo(model: Any, processor: Processor, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Two steps."""
    pairs = preference_pairs()
    section = DpoSection.model_validate(
        {"epochs": 1, "batch": 5, "learning_rate": RATE, "precision": "fp32", **options}
    )
    shown = {f"i{n}": Image.new("RGB", (64, 32 + 32 * (n % 2)), (20 * n, 30, 30)) for n in range(10)}
    return train(model, processor, pairs, shown.__getitem__, section, 0).curve


def all_computed(directory: Path, cases: list[Case]) -> list[Outcome]:
    return [computed(directory, case) for case in cases]


def online_run(
    directory: Path, sizes: dict[str, int] | None, folder: Path | None, stop_after: int | None, **options: Any
) -> tuple[list[dict[str, Any]], dict[str, Tensor], dict[str, Any]]:
    """Curve, weights and summary of a training of two steps."""
    processor = Processor.from_pretrained(directory)
    model = model_of(processor, "dense", sizes)
    arguments = {"checkpoints": folder, "stop_after": stop_after}
    told = {"steps": 2, "reward": "online:odd", "checkpoint_every": 1, "learning_rate": RATE, **options}
    with recorded({}):
        _, fit = online.train(directory, model=model, arguments=arguments, **told)
    torch.set_flush_denormal(False)
    return fit.curve, {n: whole(p.detach()).clone() for n, p in model.named_parameters()}, fit.summary


def all_online(directory: Path, folder: Path, sizes: list[dict[str, int]]) -> list[Any]:
    found: list[Any] = [online_run(directory, own, None, None) for own in sizes]
    online_run(directory, sizes[0], folder, 1)
    dist.barrier()
    return [*found, online_run(directory, sizes[0], folder, None)]


def torn(directory: Path, values: list[float]) -> list[str]:
    """What each process says where old log-probabilities of the last one have such a value among them; that nothing has
    changed; the loss of an update after it, which all do; and what each says after one that breaks the weights."""
    processor = Processor.from_pretrained(directory)
    model = model_of(processor, "dense", {"dp_shard": 2})
    section = online.section(group=4, prompts=5, minibatches=1, learning_rate=RATE)
    updater = Updater(model, processor, VisionCache(spread.seeing(model), processor), section, weighed=True)
    optimizer, before = training.adamw(model, RATE), model.full_state(everywhere=True)
    said: list[str] = []
    for value in values:
        batch = updater.prepare(groups())
        if dist.get_rank() == dist.get_world_size() - 1:
            part = batch.minibatches[0][0]
            part.old_logp = part.rollout_logp.clone()
            part.old_logp[0] = value
        try:
            updater.apply(batch, optimizer, RATE)
        except Broken as error:
            said.append(str(error))
        assert all(torch.equal(own, before[name]) for name, own in model.full_state(everywhere=True).items())
    said.append(str(updater.apply(updater.prepare(groups()), optimizer, RATE).figures()["loss"]))
    updater.check(groups())
    updater.apply(updater.prepare(groups()), optimizer, 1e30)
    try:
        updater.check(groups())
    except Broken as error:
        said.append(str(error))
    torch.set_flush_denormal(False)
    return said


def perturbed(directory: Path) -> str:
    """What is said where a copy's weights are a little off."""
    plain = spread.copied

    def copied(*arguments: Any) -> Qwen3VL | None:
        twin = plain(*arguments)
        assert twin is not None
        if dist.get_rank() == 1:
            with torch.no_grad():
                twin.text.norm.weight.mul_(1.2)
        return twin

    spread.copied = copied
    try:
        online_run(directory, {"dp_shard": 2}, None, None)
    except RuntimeError as error:
        return str(error)
    finally:
        spread.copied = plain
    return ""


def in_half(directory: Path) -> list[Any]:
    """Curves and weights of a training in bf16: by copies whose products' weights are bf16, and by float32 ones. What
    the copies have, too."""
    plain, held = spread.products, list[set[torch.dtype]]()
    copied = spread.copied

    def seen(*arguments: Any) -> Qwen3VL | None:
        twin = copied(*arguments)
        assert twin is not None
        held.append({p.dtype for p in twin.parameters()})
        return twin

    spread.copied = seen
    found: list[Any] = []
    try:
        for names in (plain, lambda _: []):
            spread.products = names
            found.append(online_run(directory, {"dp_shard": 2}, None, None, precision="bf16")[:2])
    finally:
        spread.products, spread.copied = plain, copied
    return [*found, held]


def stage_run(root: Path, stage: str, crew: Crew | None = None, **sections: Any) -> StageRun:
    """On a pool, a model and general samples that lie in `root`."""
    inputs = {"sft_preference": root / "sft", "data": root / "data", "rl_pool": root / "pool"}
    out, scratch = (root / f"{stage}{'' if crew else '-alone'}{end}" for end in ("", ".scratch"))
    for folder in (out, scratch):
        folder.mkdir()
    store = ImageStore(root / "image-store")
    return StageRun(Recipe(name="t", **sections), out, scratch, inputs, store, 0, stage, Quiet(), crew)


def stages(root: Path, sections: dict[str, Any]) -> None:
    """The stage `rl`, and the training of `dpo`, as rank 0 has them and the others follow."""
    rank = dist.get_rank()
    store = PrefixStore("stages", dist.distributed_c10d._get_default_store())
    own = World(rank, dist.get_world_size(), rank, torch.device("cpu"), store)
    if rank:
        held: dict[str, Any] = {}
        follow(
            own,
            lambda work: getattr(spread_stages, work["function"].split(":")[1])(
                own, Recipe(name="t", **sections), held, **work["arguments"]
            ),
        )
        return
    with leading(own) as crew:
        rl.run(stage_run(root, "rl", crew, **sections))
        run, start = stage_run(root, "dpo", crew, **sections), root / "sft" / "model"
        pairs = read_samples(root / "pairs.parquet")
        fit, model = spread_stages.preferences(run, start, Processor.from_pretrained(start), pairs)
        model.save_pretrained(run.out / "model")
        write_json(run.out / "curve.json", fit.curve)
    torch.set_flush_denormal(False)
