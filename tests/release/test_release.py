"""A release as a whole: its parts, its cards, and what becomes of a second export, a damaged run, an unfinished one."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard
from made_run import made, record
from transformers import Qwen3VLForConditionalGeneration

from open4ov import cli
from open4ov.errors import UserError
from open4ov.formats.convert import import_set
from open4ov.model import Qwen3VL
from open4ov.release.export import export, without_places
from open4ov.release.model_card import Told
from open4ov.store import read_samples

TOLD = Told("made-up", "bf16")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    return made(tmp_path_factory.mktemp("runs") / "run", tiny_dir)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    out = tmp_path_factory.mktemp("releases") / "release"
    go(run, out)
    return out


def go(run: Path, out: Path, told: Told = TOLD, **more: Any) -> dict[str, Any]:
    return export(run, out, told, **{"model": None, "with_data": True, "tell": lambda text: None, **more})


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_model_is_the_runs_last(released: Path, run: Path) -> None:
    theirs = Qwen3VLForConditionalGeneration.from_pretrained(released / "model", dtype=torch.float32)
    last = Qwen3VL.from_pretrained(run / "dpo" / "model")
    assert torch.equal(theirs.model.language_model.embed_tokens.weight, last.text.embed.weight.bfloat16().float())
    for name in ("tokenizer.json", "preprocessor_config.json"):
        assert (released / "model" / name).read_bytes() == (run / "dpo" / "model" / name).read_bytes()


def test_checksums_name_every_file(released: Path) -> None:
    lines = dict(line.split("  ")[::-1] for line in (released / "SHA256SUMS").read_text().splitlines())
    found = {name: hashlib.sha256(data).hexdigest() for name, data in contents(released).items()}
    found.pop("SHA256SUMS")
    assert lines == found


def test_the_hub_reads_the_model_card(released: Path) -> None:
    card = ModelCard.load(released / "model" / "README.md")
    assert card.data.license == "unknown"  # the tiny base states none
    assert card.data.library_name == "transformers"
    assert card.data.model_name == "made-up"
    metrics = {one.dataset_name: (one.metric_type, one.metric_value) for one in card.data.eval_results or ()}
    assert metrics["open4ov naming"] == ("accuracy", 100.0)
    assert metrics["open4ov counting"] == ("accuracy", 0.0)
    assert set(metrics) == {
        "open4ov naming",
        "open4ov counting",
        "open4ov arithmetic",
    }  # false refusals are no accuracy
    assert "| false refusals | 24 |" in card.text
    text = card.text
    assert "| naming | 12 | 0.0 (0.0 to 24.2) | 100.0 (75.8 to 100.0) | **+100.0 (100.0 to 100.0)** |" in text
    assert "Clearly worse than the base at: counting." in text
    assert "states no licence" in text
    assert (
        "offline RL (DPO) | 1 pairs (up to 32 of them kept apart for validation), 2 steps | pairs asked for 1500"
        in text
    )
    assert "mix (missing_image 0.3, context 0.05, " in text
    assert "nll_weight 0.1, learning_rate 5e-05, interpolation 1.0" in text


def test_the_model_card_tells_which_samples_of_stage_3_are_of_the_sets_before(tmp_path: Path, tiny_dir: Path) -> None:
    root = made(tmp_path / "run", tiny_dir, ("sets", "preference_set", "sft_preference"))
    go(root, tmp_path / "out", model="sft_preference", with_data=False)
    text = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "420 samples (400 of its set, 20 of the sets before that the model failed at), 80,000 tokens" in text


def test_sets_come_back_as_they_were(released: Path, run: Path, tmp_path: Path) -> None:
    for name, format, source in (
        ("sft_knowledge", "parquet", "sets/knowledge/samples.parquet"),
        ("sft_ability", "parquet", "sets/ability/samples.parquet"),
        ("rl_pool", "parquet", "rl_pool/pool.parquet"),
        ("dpo_pairs", "trl", "dpo/pairs.parquet"),
    ):
        import_set(released / "data" / name, tmp_path / name, format)
        again = {one.id: one for one in read_samples(tmp_path / name / "samples.parquet")}
        for one in read_samples(run / source):
            back = again[one.id]
            assert (back.images, back.answer, back.labels, back.source) == (
                one.images,
                one.answer,
                one.labels,
                one.source,
            )
            assert [(m.role, m.text) for m in back.messages] == [(m.role, m.text) for m in one.messages]
            assert [m.text for m in back.rejected or ()] == [m.text for m in one.rejected or ()]
    splits = {one.id: one.split for one in read_samples(tmp_path / "sft_knowledge" / "samples.parquet")}
    assert splits["s9"] == "val"


def test_the_data_card_names_sets_and_licences(released: Path) -> None:
    card = DatasetCard.load(released / "data" / "README.md")
    configs = {one["config_name"]: one["data_files"] for one in card.data.configs}
    assert list(configs) == ["sft_knowledge", "sft_ability", "rl_pool", "dpo_pairs"]  # one is empty
    for name, files in configs.items():
        assert name.startswith(("sft", "rl", "dpo"))
        for one in files:
            assert list((released / "data").glob(one["path"])), one
    assert [one["split"] for one in configs["sft_knowledge"]] == ["train", "validation"]
    assert "stated by 1 samples: cc-by-4.0" in card.text
    assert "Material Design Icons" in card.text
    assert "SFT-Preference: is empty" in card.text
    assert DatasetCard.load(released / "data" / "sft_ability" / "README.md").data.license == "cc-by-4.0"
    assert DatasetCard.load(released / "data" / "sft_knowledge" / "README.md").data.license == "other"
    short = {"Apache-2.0 and public domain (open4ov's corpus in_car)": 5}
    assert record(released)["sets"]["sft_knowledge"]["licences"] == short
    assert next(iter(short)) in (released / "data" / "sft_knowledge" / "README.md").read_text()
    assert next(iter(short)) not in card.text, "there it is told what the corpus is made of"
    assert record(released)["missing"] == ["SFT-Preference: is empty"]


def test_nothing_tells_where_the_run_lies(released: Path, run: Path, tiny_dir: Path) -> None:
    for name, data in contents(released).items():
        assert str(run).encode() not in data, name
        assert str(tiny_dir.parent).encode() not in data, name
    assert f".../{tiny_dir.name}" in (released / "recipe.yaml").read_text()


def test_addresses_and_folders_are_cut_from_a_recipe() -> None:
    given = {"a": "https://host/v1", "b": ["/home/me/pictures/", "~/x", "C:\\set\\one"], "c": {"d": 1, "e": "nano"},
             "local_hosts": ["10.0.0.1"], "f": "package.module:function", "g": "out of/it"}  # fmt: skip
    told = {"a": "...", "b": [".../pictures", ".../x", ".../one"], "c": {"d": 1, "e": "nano"}}
    assert without_places(given) == {**told, "f": "package.module:function", "g": "out of/it"}


def test_the_same_again_writes_nothing_and_gives_the_same_elsewhere(released: Path, run: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in released.rglob("*")}
    assert go(run, released)["made"] is False
    assert {path: path.stat().st_mtime_ns for path in released.rglob("*")} == before
    assert go(run, tmp_path / "again")["made"] is True
    assert contents(tmp_path / "again") == contents(released)


def test_another_release_or_another_folder_is_left_alone(released: Path, run: Path, tmp_path: Path) -> None:
    before = contents(released)
    with pytest.raises(UserError, match=r"holds another release .*precision.*another --out"):
        go(run, released, Told("made-up", "fp32"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="no release of open4ov"):
        go(run, tmp_path / "mine")
    assert contents(released) == before
    assert contents(tmp_path / "mine") == {"letter.txt": b"dear"}


def test_a_damaged_release_is_told(released: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(released, copy)
    (copy / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json: is missing, or not as it was released"):
        go(run, copy)


def test_what_is_interrupted_leaves_nothing_and_the_next_try_is_whole(
    released: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("open4ov.release.export._sums", stopped)
        with pytest.raises(KeyboardInterrupt):
            go(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / ".part-out").mkdir()  # what a killed process leaves
    (tmp_path / ".part-out" / "half").write_text("x")
    go(run, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(released)


def test_an_unfinished_run_says_what_is_missing(tiny_dir: Path, tmp_path: Path) -> None:
    root = made(tmp_path / "run", tiny_dir, ("sets", "sft_knowledge", "evaluate_base"))
    with pytest.raises(UserError, match=r"no 'dpo' yet .*--model sft_knowledge"):
        go(root, tmp_path / "out")
    done = go(root, tmp_path / "out", model="sft_knowledge")
    assert done["missing"] == ["results: the stage 'evaluate_sft_knowledge' is not finished"]
    assert list(done["sets"]) == ["sft_knowledge", "sft_ability"]
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "was not evaluated" in card
    assert "model-index" not in card
    with pytest.raises(UserError, match="did you mean 'dpo'"):
        go(root, tmp_path / "other", model="dpoo")


def test_weights_that_changed_since_their_stage_are_refused(tiny_dir: Path, tmp_path: Path) -> None:
    root = made(tmp_path / "run", tiny_dir, ("sets", "dpo"))
    path = root / "dpo" / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="its bytes are not those that the stage left"):
        go(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_picture_is_told(tiny_dir: Path, tmp_path: Path) -> None:
    root = made(tmp_path / "run", tiny_dir, ("sets", "dpo"))
    for path in (root / "image-store").rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="is missing; the set is incomplete"):
        go(root, tmp_path / "out")
    assert go(root, tmp_path / "out", with_data=False)["sets"] == {}


@pytest.mark.parametrize(("file", "said"), [("run.json", "run.json is damaged"), ("sets/stage.json", "damaged")])
def test_a_damaged_record_is_told(tiny_dir: Path, tmp_path: Path, file: str, said: str) -> None:
    root = made(tmp_path / "run", tiny_dir, ("sets", "dpo"))
    (root / file).write_text("{")
    with pytest.raises(UserError, match=said):
        go(root, tmp_path / "out")


def test_results_of_another_schema_are_told(tiny_dir: Path, tmp_path: Path) -> None:
    root = made(tmp_path / "run", tiny_dir)
    path = root / "evaluate_dpo" / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    with pytest.raises(UserError, match="schema 2"):
        go(root, tmp_path / "out")


def command(*arguments: object) -> int:
    arguments_before = sys.argv
    sys.argv = ["open4ov", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = arguments_before
    return int(ended.value.code or 0)


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert command("export", run, "--out", out, "--precision", "int8", "--json", "--no-data") == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["precision"], told["weights"]["quantised"], told["name"]) == ("int8", 21, "open4ov-made")
    assert said.err == ""
    card = (out / "model" / "README.md").read_text()
    assert "open4ov does not" in card
    assert re.search(r"- compressed-tensors\n", card)
    assert not (out / "data").exists()
    for wrong, message in (
        (("--precision", "int4"), "did you mean 'int8'"),
        (("--base-model", "nano"), "OWNER/NAME"),
        (("--licence", "My Own"), "apache-2.0"),
    ):
        assert command("export", run, "--out", tmp_path / "x", *wrong) == 2
        assert message in capsys.readouterr().err
    assert command("export", tmp_path, "--out", tmp_path / "x") == 2
    assert "is no run directory" in capsys.readouterr().err
