"""The files that start a recipe on a cluster: a Slurm script, a Kubernetes JobSet, a RayCluster.

Nodes and GPUs are counted from the recipe's mesh, so that the three cannot disagree with it. Where the recipe has
rollouts of our servers by address, Slurm script and JobSet start as many as it has addresses, each on a GPU of its own
on nodes of their own, and put their true addresses in the place of the recipe's. Host memory is asked for by plan.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from open4ov.errors import UserError
from open4ov.recipe import Recipe, load
from open4ov.store import atomic

from . import node_memory
from .plan_ask import world_of
from .suits import config_of, mesh_of, recomputes

TEMPLATES = Path(__file__).with_name("templates")
KINDS = {"slurm": "slurm.sh", "jobset": "jobset.yaml", "raycluster": "raycluster.yaml"}
"""Kind -> the file that it is"""
CPUS = 8
"""Cores for each GPU, data threads among them: an assumption"""
RESTARTS = 3
"""Of all processes, after one has died; each goes on from the last checkpoint"""

RAY = "2.60.0"
"""Of the extra `ray`, which the image has"""
HEAD = "127.0.0.1:6379"
"""Where Ray answers on the head, on which the run is started"""
POD, WORKER_GIB, OBJECTS_GIB = 16, 4, 4
"""Of RayCluster, assumed: most processors of a pod, GiB of memory for each worker, and for Ray's object store"""
GIB = 2**30
STEP = 8
"""Memory is asked for in multiples of so many GiB"""

ROLLOUT_PORT = 8100
"""Of the first server of rollouts on a node; the next ones have the ports behind it"""


@dataclass(frozen=True)
class Servers:
    """Of rollouts. key: the environment variable that the trainer has their key in; folder: of the trainer's weights,
    served: as the servers name it. Texts are quoted for a shell."""

    count: int
    nodes: int
    model: str
    key: str
    folder: str
    served: str


def render(
    recipe: Path,
    overrides: Sequence[str],
    out: Path,
    kind: str,
    gpus: int | None = None,
    per_node: int = 8,
    image: str = "open4ov:latest",
    run_dir: str = "out",
) -> list[Path]:
    """Writes the files of a kind into the folder `out` and gives their paths. gpus: in all, where the recipe's mesh
    leaves that open. A RayCluster has no GPUs, and neither `gpus` nor `per_node` matter to it.

    Raises UserError as `recipe.load`, for a mesh that the model cannot be cut into, for one that does not fill its
    nodes, and for a RayCluster that nothing would use.
    """
    chosen = load(recipe, overrides)
    shared = {
        "name": label(chosen.name),
        "recipe": shlex.quote(str(recipe)),
        "run_dir": shlex.quote(run_dir),
        "image": image,
        "overrides": "".join(f" --set {shlex.quote(one)}" for one in overrides),
    }
    filled = workers(chosen) if kind == "raycluster" else trainers(chosen, str(recipe), gpus, per_node)
    if kind == "raycluster":
        command = f"cd /work && open4ov run {shared['recipe']} --out {shared['run_dir']} --until sets"
        command += f"{shared['overrides']} --set data.executor.address={HEAD}"
        filled["start"] = shlex.quote(command)
    else:
        told = f"trained; evaluation and report, with one GPU: open4ov run {shared['recipe']} --out {shared['run_dir']}"
        filled["told_overrides"] = shlex.quote(shared["overrides"]) if overrides else ""
        filled["finish"] = shlex.quote(told + shared["overrides"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(KINDS[kind] + ".jinja").render(**shared, **filled)
    out.mkdir(parents=True, exist_ok=True)
    path = out / KINDS[kind]
    with atomic(path) as place:
        place.write_text(text)
    if path.suffix == ".sh":
        path.chmod(0o755)
    return [path]


def trainers(chosen: Recipe, recipe: str, gpus: int | None, per_node: int) -> dict[str, Any]:
    """What the files say that start trainings."""
    world = gpus or world_of(chosen.parallel, str(recipe))
    mesh = mesh_of(chosen, world)
    recomputes(chosen)
    if world > per_node and world % per_node:
        raise UserError(
            f"{recipe}: {world} processes ({mesh}) do not fill nodes of {per_node}; change the section parallel, or "
            "--node"
        )
    if mesh.tp > per_node:
        raise UserError(
            f"parallel.tp: {mesh.tp} is more than the {per_node} devices of a node; lower it, or raise --node"
        )
    here = min(world, per_node)
    config = config_of(chosen)
    memory = None if config is None else -(-node_memory.needed(chosen, config, mesh, per_node) // (STEP * GIB)) * STEP
    return {
        "mesh": str(mesh),
        "world": world,
        "nodes": -(-world // per_node),
        "per_node": here,
        "cpus": CPUS * here,
        "memory": memory,
        "model": chosen.model,
        "threads": CPUS,
        "restarts": RESTARTS,
        "commands": commands(chosen),
        "servers": servers_of(chosen, per_node),
        "rollout_port": ROLLOUT_PORT,
        "devices": per_node,
        "by_hand": by_hand(chosen),
    }


def workers(recipe: Recipe) -> dict[str, Any]:
    """What the file says of Ray's workers: as many processors as `data.executor` takes, in pods of at most `POD`. Data
    construction uses no GPU: who answers is an endpoint, or a model on the worker's processor. Raises UserError where
    the recipe does not use Ray."""
    executor = recipe.data.executor
    if executor.kind != "ray":
        raise UserError(
            f"data.executor: is {executor.kind}, which uses no RayCluster; set it to ray in the recipe, or give --set "
            "data.executor.kind=ray and --set data.executor.workers=N"
        )
    most = max(1, int(POD / executor.cpus))
    pods = -(-executor.workers // most)
    each = -(-executor.workers // pods)
    keys = sorted({one.api_key_env for one in recipe.data.providers.values() if one.kind == "openai"})
    endpoint = recipe.data.embedder.endpoint
    if endpoint is not None:
        keys = sorted({*keys, endpoint.api_key_env})
    return {
        "workers": executor.workers,
        "pods": pods,
        "cpus": math.ceil(each * executor.cpus),
        "memory": each * WORKER_GIB + OBJECTS_GIB,
        "ray": RAY,
        "keys": keys,
    }


def commands(recipe: Recipe) -> list[str]:
    """The trainings of a recipe, in their order: each is a torchrun of its own."""
    return ["sft", *(["rl"] if recipe.rl.steps else []), *(["dpo"] if recipe.dpo.pairs else [])]


def servers_of(recipe: Recipe, per_node: int) -> Servers | None:
    """The servers of our engine that the recipe's RL asks; None where it asks none. Raises UserError where they would
    answer everybody."""
    rollout = recipe.rl.rollout
    if not recipe.rl.steps or rollout.backend != "served":
        return None
    if rollout.key_env is None:
        raise UserError(
            "rl.rollout.key_env: is missing: servers on other nodes are open to who can reach them, and whoever asks "
            "can change their weights; name the environment variable that holds their key"
        )
    count, folder = len(rollout.urls), rollout.folder or ""
    return Servers(
        count,
        -(-count // per_node),
        shlex.quote(str(recipe.model)),
        rollout.key_env,
        shlex.quote(folder),
        shlex.quote(rollout.served_folder or folder),
    )


def unknown(recipe: Recipe) -> str:
    """That the mesh was not held against the model; "" where it was."""
    if config_of(recipe) is not None:
        return ""
    return (
        f"{recipe.model} is not here, and its name says no size: whether the mesh suits it will be seen at the start "
        "of the job"
    )


def by_hand(recipe: Recipe) -> str:
    """What somebody has to start before the training comes to RL; "" where it is nothing."""
    rollout = recipe.rl.rollout
    if not recipe.rl.steps or rollout.backend != "vllm" or not rollout.urls:
        return ""
    return (
        f"start vLLM at {', '.join(rollout.urls)} before RL begins (`open4ov vllm-plan DIR --rollout` prints the "
        "command; it has an environment of its own): these files do not"
    )


def label(name: str) -> str:
    """A name that Kubernetes takes."""
    found = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:50].strip("-")
    if not found:
        raise UserError(f"name: {name!r} has no letter or digit of which a job's name could be made; rename the recipe")
    return found if found[0].isalpha() else f"run-{found}"
