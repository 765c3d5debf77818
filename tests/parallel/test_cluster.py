"""The files that start a recipe on a cluster: they parse, and their nodes and GPUs are those of the mesh."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from open4ov.cli import app
from open4ov.errors import UserError
from open4ov.parallel import cluster
from open4ov.recipe import load

RECIPES = Path(__file__).parents[2] / "recipes"
SIZES = {"qwen3-vl-8b": (1, 8), "qwen3-vl-30b-a3b": (8, 8)}
"""Nodes and GPUs of each, of the recipes that ship"""


def recipe(folder: Path, parallel: str, rest: str = "") -> Path:
    path = folder / "r.yaml"
    path.write_text(f"name: My run_1\nparallel: {{{parallel}}}\n{rest}")
    return path


def made(path: Path, out: Path, kind: str, **options: Any) -> str:
    (file,) = cluster.render(path, (), out, kind, **options)
    return file.read_text()


@pytest.mark.parametrize("name", SIZES)
def test_slurm(name: str, tmp_path: Path) -> None:
    text = made(RECIPES / f"{name}.yaml", tmp_path, "slurm")
    nodes, gpus = SIZES[name]
    assert f"#SBATCH --nodes={nodes}\n" in text
    assert f"#SBATCH --gpus-per-node={gpus}\n" in text
    assert text.count(f"--nnodes={nodes} --nproc-per-node={gpus}") == 3  # sft, rl, dpo
    assert subprocess.run(["bash", "-n", tmp_path / "slurm.sh"], check=False).returncode == 0


def test_the_script_starts_what_it_should(tmp_path: Path) -> None:
    """Run with commands that only print: each training in its order, with the recipe and the head node."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, body in {"srun": 'echo "srun $*"', "scontrol": "printf 'node7\\nnode8\\n'"}.items():
        (bin_ / name).write_text(f"#!{shutil.which('bash')}\n{body}\n")
        (bin_ / name).chmod(0o755)
    path = recipe(tmp_path, "dp_shard: 16", "rl: {steps: 0}\n")
    cluster.render(path, ["name=It is"], tmp_path, "slurm", run_dir="a run")
    environment = {"PATH": f"{bin_}:/usr/bin:/bin", "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "node[7-8]"}
    done = subprocess.run(["bash", tmp_path / "slurm.sh"], env=environment, capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    assert last == f"trained; evaluation and report, with one GPU: open4ov run {path} --out a run --set 'name=It is'"
    assert [line.split("-m open4ov ")[1].split()[0] for line in lines] == ["sft", "dpo"]
    assert all("--rdzv-endpoint=node7:29500" in line and f"--recipe {path} --out a run" in line for line in lines)


SERVED = """rl:
  rollout: {backend: served, url: ["http://a:1", "http://b:1", "http://c:1"], folder: FOLDER, key_env: ROLLOUT_KEY}
"""


def test_the_script_starts_servers_of_rollouts(tmp_path: Path) -> None:
    """Run with commands that only print: three servers on two nodes of two GPUs behind the two that train, and RL asks
    these, not the addresses of the recipe."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    told = 'echo "srun $* KEY=${OPEN4OV_API_KEYS:-} GPU=${CUDA_VISIBLE_DEVICES:-}"'
    commands = {"srun": told, "scontrol": "printf 'node%s\\n' 1 2 3 4", "python3": 'echo "waits for $3"'}
    for name, body in commands.items():
        (bin_ / name).write_text(f"#!{shutil.which('bash')}\n{body}\n")
        (bin_ / name).chmod(0o755)
    weights = tmp_path / "my weights"
    path = recipe(tmp_path, "dp_shard: 4", SERVED.replace("FOLDER", str(weights)))
    text = made(path, tmp_path, "slurm", per_node=2)
    assert "#SBATCH --nodes=4\n" in text
    environment = {"PATH": f"{bin_}:/usr/bin:/bin", "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "node[1-4]"}
    command = ["bash", str(tmp_path / "slurm.sh")]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode
    assert "ROLLOUT_KEY: set it to a key of your own" in refused.stderr
    assert not refused.stdout
    done = subprocess.run(
        command, env={**environment, "ROLLOUT_KEY": "secret"}, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    servers = [line for line in lines if "open4ov rollout nano" in line]
    for number, (at, port, card) in enumerate([(2, 8100, 0), (2, 8101, 1), (3, 8100, 0)]):
        line = next(own for own in servers if f"--relative={at} " in own and f"--port {port} " in own)
        assert line.endswith(f"KEY=secret GPU={card}"), number
        assert f"--folder {weights} --host 0.0.0.0" in line
    urls = ["http://node3:8100", "http://node3:8101", "http://node4:8100"]
    assert [line for line in lines if line.startswith("waits")] == [f"waits for {url}" for url in urls]
    trainings = [line for line in lines if "torchrun" in line]
    assert [line.split("-m open4ov ")[1].split()[0] for line in trainings] == ["sft", "rl", "dpo"]
    assert all("--nodes=2 --ntasks=2 --relative=0" in line for line in trainings)
    assert [f"--set rl.rollout.url=[{','.join(urls)}]" in line for line in trainings] == [False, True, False]
    assert not any("secret" in line for line in trainings)
    assert weights.is_dir()


def test_the_url_that_the_script_gives_is_one(tmp_path: Path) -> None:
    path = recipe(tmp_path, "dp_shard: 4", SERVED)
    found = load(path, ["rl.rollout.url=[http://node3:8100,http://node4:8100]"])
    assert found.rl.rollout.urls == ["http://node3:8100", "http://node4:8100"]


def test_a_jobset_starts_servers_of_rollouts(tmp_path: Path) -> None:
    path = recipe(tmp_path, "dp_shard: 16", SERVED)
    found = yaml.safe_load(made(path, tmp_path, "jobset"))
    assert found["spec"]["successPolicy"] == {"operator": "All", "targetReplicatedJobs": ["train"]}
    train, servers = (one["template"]["spec"] for one in found["spec"]["replicatedJobs"])
    assert (train["completions"], servers["completions"]) == (2, 3)
    container = servers["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    secret = {"secretKeyRef": {"name": "my-run-1-rollouts", "key": "key"}}
    assert container["env"] == [{"name": "OPEN4OV_API_KEYS", "valueFrom": secret}]
    trainer = train["template"]["spec"]["containers"][0]
    assert {"name": "ROLLOUT_KEY", "valueFrom": secret} in trainer["env"]
    assert trainer["args"][0].endswith(f"with one GPU: open4ov run {path} --out out'\n")
    for script in (container["args"][0], trainer["args"][0]):
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "http://my-run-1-rollouts-0-$i.my-run-1:8100" in trainer["args"][0]
    assert trainer["args"][0].count('--set "rl.rollout.url=[$URLS]"') == 1


def test_servers_without_a_key_are_refused_and_vllm_is_left_to_the_reader(tmp_path: Path) -> None:
    path = recipe(tmp_path, "dp_shard: 8", SERVED.replace(", key_env: ROLLOUT_KEY", ""))
    with pytest.raises(UserError, match=r"rl\.rollout\.key_env: is missing"):
        made(path, tmp_path, "slurm")
    path = recipe(tmp_path, "dp_shard: 8", SERVED.replace("served", "vllm"))
    told = CliRunner().invoke(app, ["cluster", "--recipe", str(path), "--out", str(tmp_path)])
    assert "note: start vLLM at http://a:1, http://b:1, http://c:1 before RL begins" in told.stderr
    assert "# By hand: start vLLM at http://a:1" in (tmp_path / "slurm.sh").read_text()
    assert "open4ov rollout" not in (tmp_path / "slurm.sh").read_text()


@pytest.mark.parametrize("name", SIZES)
def test_jobset(name: str, tmp_path: Path) -> None:
    found = yaml.safe_load(made(RECIPES / f"{name}.yaml", tmp_path, "jobset", image="registry/open4ov:1"))
    nodes, gpus = SIZES[name]
    job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"]) == (nodes, nodes)
    container = job["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    assert container["image"] == "registry/open4ov:1"
    script = container["args"][0]
    assert script.count(f"--nnodes={nodes} --nproc-per-node={gpus}") == 3
    assert f"{name}-train-0-0.{name}:29500" in script  # the first pod, as JobSet names it
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_host_memory_is_asked_for(tmp_path: Path) -> None:
    """8B on eight GPUs of one node: weights and both moments once for checkpoints, both moments aside while RL
    generates, the whole model on the first process, 8 GB for each process; float32."""
    parameters, tower = 8_767_123_696, 576_388_336
    least = 12 * (parameters - tower) + 8 * (parameters - tower) + 4 * parameters + 8 * 8e9
    text = made(RECIPES / "qwen3-vl-8b.yaml", tmp_path, "slurm")
    assert "\n#SBATCH --mem=0\n" in text
    assert "\n##SBATCH --time=" in text
    (said,) = re.findall(r"by plan (\d+) GiB are needed", text)
    assert least / 2**30 < int(said) < 1.1 * least / 2**30
    pod = yaml.safe_load(made(RECIPES / "qwen3-vl-8b.yaml", tmp_path, "jobset"))
    container = pod["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["requests"] == {"cpu": "64", "memory": f"{said}Gi"}
    # spread over 64 the copies are an eighth, but the first process has the whole 30B-A3B
    (said,) = re.findall(r"by plan (\d+) GiB", made(RECIPES / "qwen3-vl-30b-a3b.yaml", tmp_path, "slurm"))
    assert int(said) > (124e9 + 8 * 8e9) / 2**30


def test_host_memory_that_is_not_known_is_not_made_up(tmp_path: Path) -> None:
    path = recipe(tmp_path, "dp_shard: 8", "model: models/mine\n")
    assert "how much is needed is not known, for models/mine is not here" in made(path, tmp_path, "slurm")
    pod = yaml.safe_load(made(path, tmp_path, "jobset"))
    container = pod["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["requests"] == {"cpu": "64"}


def test_adapters_are_counted_as_whole_weights(tmp_path: Path) -> None:
    found = [
        re.findall(r"by plan (\d+) GiB", made(recipe(tmp_path, "dp_shard: 8", rest), tmp_path, "slurm"))
        for rest in ("sft: {lora_rank: 8}\n", "")
    ]
    assert found[0] == found[1]


RAY = """data:
  executor: {kind: ray, workers: 40, cpus: 1}
  providers: {default: {kind: openai, model: m, base_url: "http://a:1/v1", api_key_env: MY_KEY, concurrency: 64}}
"""


def test_raycluster_has_the_processors_of_its_workers_and_no_gpu(tmp_path: Path) -> None:
    """40 workers of a processor each, in pods of at most 16."""
    text = made(recipe(tmp_path, "dp_shard: -1", RAY), tmp_path, "raycluster")
    found = yaml.safe_load(text)
    (group,) = found["spec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 3
    assert group["rayStartParams"] == {"num-cpus": "14", "num-gpus": "0"}
    assert found["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    resources = group["template"]["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"cpu": "14", "memory": "60Gi"}, "limits": {"memory": "60Gi"}}
    assert "gpu:" not in text
    for one in (group, found["spec"]["headGroupSpec"]):  # workers read keys from their environment
        container = one["template"]["spec"]["containers"][0]
        assert container["envFrom"] == [{"secretRef": {"name": "my-run-1-keys"}}]
    assert "kubectl create secret generic my-run-1-keys --from-literal=MY_KEY=...\n" in text


def test_raycluster_has_the_ray_of_the_extra(tmp_path: Path) -> None:
    import tomllib

    project = tomllib.loads((RECIPES.parent / "pyproject.toml").read_text())["project"]
    found = yaml.safe_load(made(recipe(tmp_path, "dp_shard: 1", RAY), tmp_path, "raycluster"))
    assert project["optional-dependencies"]["ray"] == [f"ray[data]=={found['spec']['rayVersion']}"]


def test_the_run_is_started_on_the_head_with_the_same_overrides(tmp_path: Path) -> None:
    path = tmp_path / "my recipe.yaml"
    recipe(tmp_path, "dp_shard: 1", RAY).rename(path)
    (file,) = cluster.render(path, ["data.executor.workers=8"], tmp_path, "raycluster")
    (line,) = [line for line in file.read_text().splitlines() if "kubectl exec" in line]
    words = shlex.split(shlex.split(line.partition("-- ")[2])[2])
    assert words[:2] == ["cd", "/work"]
    assert words[3:] == [
        "open4ov", "run", str(path), "--out", "out", "--until", "sets", "--set", "data.executor.workers=8",
        "--set", "data.executor.address=127.0.0.1:6379",
    ]  # fmt: skip
    started = load(path, ["data.executor.workers=8", "data.executor.address=127.0.0.1:6379"])
    assert started.data.executor.workers == 8


def test_a_raycluster_that_nothing_would_use_is_refused(tmp_path: Path) -> None:
    path = recipe(tmp_path, "dp_shard: 8")
    with pytest.raises(UserError, match=r"data\.executor: is local, which uses no RayCluster; set it to ray"):
        made(path, tmp_path, "raycluster")
    (file,) = cluster.render(path, ["data.executor.kind=ray"], tmp_path, "raycluster")
    assert yaml.safe_load(file.read_text())["kind"] == "RayCluster"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kind", "raycluster", "--gpus", "8"], "--gpus: data construction uses no GPU"),
        (["--kind", "raycluster", "--node", "8"], "--node: data construction uses no GPU"),
        (["--image", "a"], "--image: Slurm starts what is installed on its nodes"),
    ],
)
def test_options_that_do_nothing_are_refused(options: list[str], said: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, "dp_shard: 8", RAY)
    told = CliRunner().invoke(app, ["cluster", "--recipe", str(path), "--out", str(tmp_path), *options])
    assert said in str(told.exception)


def test_fewer_than_a_node(tmp_path: Path) -> None:
    text = made(recipe(tmp_path, "dp_shard: -1, tp: 2"), tmp_path, "slurm", gpus=4)
    assert "#SBATCH --gpus-per-node=4\n" in text
    assert "--job-name=my-run-1\n" in text


@pytest.mark.parametrize(
    ("parallel", "gpus", "message"),
    [
        ("dp_shard: 12", None, "12 processes .* do not fill nodes of 8"),
        ("tp: 16, dp_shard: 1", None, "16 is more than the 8 devices of a node"),
        ("tp: 2", None, "say with --gpus how many"),
        ("tp: 3", 16, "does not divide 16"),
        ("tp: 3, dp_shard: 8", None, r"parallel\.tp: the model's 32 attention heads cannot be shared out to 3"),
        ("dp_shard: 8, ep: 8", None, r"parallel\.ep: 8, but this model has no experts"),
        ("dp_shard: 4, pp: 2, borders: [36]", None, r"parallel\.borders: .* layer 36, but the model has 36"),
    ],
)
def test_refusals(parallel: str, gpus: int | None, message: str, tmp_path: Path) -> None:
    """The model is not here: its shapes are those of its name."""
    with pytest.raises(UserError, match=message):
        made(recipe(tmp_path, parallel, "model: models/Qwen3-VL-8B-Instruct\n"), tmp_path, "slurm", gpus=gpus)


def test_a_schedule_that_sft_cannot_recompute_under_is_refused(tmp_path: Path) -> None:
    path = recipe(tmp_path, "dp_shard: 4, pp: 2, schedule: zbv", "sft: {recompute: op}\n")
    with pytest.raises(UserError, match=r"zbv .* recompute 'op'"):
        made(path, tmp_path, "slurm")


def test_a_model_that_is_not_known_is_told(tmp_path: Path) -> None:
    path = recipe(tmp_path, "dp_shard: 8, ep: 8", "model: models/mine\n")
    told = CliRunner().invoke(app, ["cluster", "--recipe", str(path), "--out", str(tmp_path)])
    assert told.exit_code == 0, told.exception
    assert "note: models/mine is not here, and its name says no size" in told.stderr
    path = recipe(tmp_path, "dp_shard: 8", "model: models/Qwen3-VL-8B-Instruct\n")
    assert not CliRunner().invoke(app, ["cluster", "--recipe", str(path), "--out", str(tmp_path)]).stderr


def test_the_container_file_names_what_is_there() -> None:
    """It has not been built here: what it copies is there, and the extras that it installs are."""
    import re
    import tomllib

    root = RECIPES.parent
    text = (root / "Containerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()]
    assert {"pyproject.toml", "requirements.lock", "src", "recipes"} <= set(copied)
    assert all((root / name).exists() for name in copied)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"'\.\[(.+)\]'", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert "python:3.11" in text
    assert project["requires-python"].startswith(">=3.11")
