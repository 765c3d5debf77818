"""What a recipe may say, and how it is told that it may not."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.cli_admit_mastery import mastery
from open4ov.recipe import Recipe, UserError, load

SHIPPED = Path(__file__).parents[1] / "recipes"


def written(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def faults(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(written(folder, text), overrides)
    return [line.replace(f"{folder}/", "") for line in str(caught.value).splitlines()]


RECIPES = sorted(path for path in SHIPPED.glob("*.yaml") if path.stem != "claims")  # which is no recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_shipped_recipes_load(path: Path) -> None:
    assert load(path).name == path.stem


def test_values_and_overrides_arrive(tmp_path: Path) -> None:
    text = "name: a\nsft:\n  knowledge: {learning_rate: 1e-3, tokens: 600_000}\nrl: {steps: 5}\n"
    recipe = load(
        written(tmp_path, text), ["rl.steps=7", "sft.ability.replay=0.25", "dpo.beta=5e-2", "images.general=x"]
    )
    assert recipe.sft.knowledge.learning_rate == 0.001
    assert recipe.sft.knowledge.tokens == 600_000
    assert (recipe.rl.steps, recipe.sft.ability.replay, recipe.dpo.beta) == (7, 0.25, 0.05)
    assert recipe.images.general == "x"
    assert recipe.rl.group == Recipe(name="a").rl.group


def test_sft_and_admission_name_no_function_of_rl() -> None:
    named = [Recipe(name="a").sft.verifier, inspect.signature(mastery).parameters["verifier"].default]
    assert named == ["open4ov.answers:agrees"] * 2


def test_an_unknown_key_is_named_with_its_line_and_the_nearest(tmp_path: Path) -> None:
    assert faults(tmp_path, "name: a\nsft:\n  knowledge:\n    learning_rat: 1e-3\n") == [
        "r.yaml, line 4: sft.knowledge.learning_rat: unknown key 'learning_rat'; did you mean 'learning_rate'?"
    ]
    assert faults(tmp_path, "name: a\ndata:\n  providers:\n    x: {modle: b}\n") == [
        "r.yaml, line 4: data.providers.x.modle: unknown key 'modle'; did you mean 'model'?"
    ]


def test_every_unknown_key_is_told_at_once(tmp_path: Path) -> None:
    found = faults(tmp_path, "name: a\nsfft: 1\nrl: {stepz: 1}\n", "rl.grup=8")
    assert [line.split(": ")[0] for line in found] == ["r.yaml, line 2", "r.yaml, line 3", "--set rl.grup"]
    assert found[2] == "--set rl.grup: unknown key 'grup'; did you mean 'group'?"


def test_a_far_off_key_gets_the_known_ones(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "name: a\ndpo: {qqqq: 1}\n")
    assert "known: attributes, batch, beta" in fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rl: {steps: '60'}", 'line 2: rl.steps: expected integer, got "60" (text)'),
        ("rl: {steps: 1.5}", "line 2: rl.steps: expected integer, got 1.5 (number)"),
        ("rl: {steps: true}", "line 2: rl.steps: expected integer, got true (true/false)"),
        ("rl:\n  steps: -1", "line 3: rl.steps: expected greater than or equal to 0, got -1 (whole number)"),
        ("rl: {temperature: .nan}", "line 2: rl.temperature: expected a finite number, got NaN (number)"),
        ("rl: {temperature: .inf}", "line 2: rl.temperature: expected a finite number, got Infinity (number)"),
        ("rl: [1]", "line 2: rl: expected mapping (`key: value` lines), got [1] (list)"),
        ("rl:", "line 2: rl: expected mapping (`key: value` lines), got nothing"),
        ("model: 3", "line 2: model: expected string, got 3 (whole number)"),
        (
            "sft: {schedule: mixed}",
            "line 2: sft.schedule: expected 'curriculum', 'random_mix' or 'single_stage', got \"mixed\" (text)",
        ),
        ("data: {labels: 2024-01-01}", None),
        (
            "sft: {ability: {freeze_vision: 'no'}}",
            'line 2: sft.ability.freeze_vision: expected boolean, got "no" (text)',
        ),
    ],
)
def test_a_wrong_type_or_range_names_key_line_expected_and_got(tmp_path: Path, text: str, fault: str | None) -> None:
    if fault is None:  # YAML reads a date; as text it is still a (strange) file name, not a fault of type
        assert load(written(tmp_path, f"name: a\n{text}\n")).data.labels == "2024-01-01"
    else:
        assert faults(tmp_path, f"name: a\n{text}\n") == [f"r.yaml, {fault}"]


def test_wrong_types_of_overrides_name_the_override(tmp_path: Path) -> None:
    assert faults(tmp_path, "name: a\nrl: {steps: 3}\n", "rl.steps=many") == [
        '--set rl.steps: expected integer, got "many" (text)'
    ]
    assert faults(tmp_path, "name: a\n", "rl.steps.more=1") == [
        '--set rl.steps: expected integer, got {"more": 1} (mapping)'
    ]
    assert "single value and has no keys below it" in faults(tmp_path, "name: a\nseed: 3\n", "seed.x=1")[0]
    assert "expected key.sub=value" in faults(tmp_path, "name: a\n", "rl.steps")[0]
    assert "not valid YAML" in faults(tmp_path, "name: a\n", "rl.steps=[1")[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "r.yaml: the file is empty; expected `key: value` lines (a mapping)"),
        ("- a\n", "r.yaml: the file is a single value or a list; expected `key: value` lines (a mapping)"),
        ("just words\n", "r.yaml: the file is a single value or a list; expected `key: value` lines (a mapping)"),
        ("name: a\nname: b\n", "r.yaml, line 2: 'name' is given twice (first in line 1)"),
        ("name: a\nrl: {steps: 1, steps: 2}\n", "r.yaml, line 2: 'rl.steps' is given twice (first in line 2)"),
        ("name: a\n1: b\n", "r.yaml, line 2: a key must be a word; got '1' (write it in quotes)"),
        ("name: a\nrl: &x\n  steps: *x\n", "r.yaml, line 3: more than 32 levels deep (an alias that contains itself?)"),
        ("seed: 1\n", "r.yaml: name: is missing; add it"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text) == [fault]


def test_broken_yaml_names_line_and_column(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "name: a\nrl: {steps: 1\nsft: 2\n")
    assert fault.startswith("r.yaml, line 3, column 4: not valid YAML: ")
    (fault,) = faults(tmp_path, "name: a\n\trl: 1\n")
    assert fault.startswith("r.yaml, line 2, column 1: not valid YAML: ")


def test_no_code_is_run_by_a_recipe(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"name: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    assert "not valid YAML" in fault
    assert not (tmp_path / "made").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: no such file"):
        load(tmp_path / "nothing.yaml")
    with pytest.raises(UserError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "latin").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 9\)"):
        load(tmp_path / "latin")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rl: {length_soft: 50, length_max: 40}", "rl.length_soft: 50 must be below rl.length_max = 40"),
        ("rl: {length_max: 65}", "rl.length_max: 65 can never be reached: responses end at rl.max_tokens = 64"),
        ("rl: {pass_k: 9}", "rl.pass_k: 9 responses cannot be drawn from a group of 8 (rl.group)"),
        ("rl: {group: 3, pass_k_share: 0}", "rl.pass_k: 4 responses cannot be drawn from a group of 3 (rl.group)"),
        ("rl: {prompts: 2}", "rl.minibatches: 4 minibatches need as many groups; there are 2 (rl.prompts)"),
        ("data: {min_pairs: 9}", "data.min_pairs: 9 is more than data.max_pairs = 8"),
        ("data: {quorum: 4}", "data.quorum: 4 votes of three judges cannot be had; use 1, 2 or 3"),
        ("data: {density_weights: {ocr: -1}}", "data.density_weights.ocr: -1.0 is negative"),
        ("data: {density_weights: {orc: 1}}", "data.density_weights.orc: unknown dimension 'orc'; did you mean 'ocr'?"),
        (
            "data: {density_weights: {ocr: 0}}",
            "data.density_weights: the weights sum to zero; at least one must be above",
        ),
        (
            "data: {density_scenarios: {Nature: {ocr: 1, orc: 1}}}",
            "data.density_scenarios.Nature.orc: unknown dimension 'orc'; did you mean 'ocr'?",
        ),
        (
            "data: {density_scenarios: {Nature: {}}}",
            "data.density_scenarios.Nature: the weights sum to zero; at least one must be above",
        ),
        ("data: {roles: {judge: big}}", "data.roles.judge: no provider is called 'big'; known: default"),
        (
            "sft: {compile: true, recompute: op}",
            "sft.compile: sft.recompute and sft.recompute_vision do not go with compiled blocks; choose one",
        ),
        ("sft: {ability: {tokens: 100}}", "sft.ability.tokens: 100 is less than one pack (sft.pack_tokens = 4096)"),
    ],
)
def test_contradictions(tmp_path: Path, text: str, fault: str) -> None:
    found = faults(tmp_path, f"name: a\n{text}\n")
    assert any(line.endswith(fault) and line.startswith("r.yaml") for line in found), found


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("data: {languages: [en], language_per_image: true}", "data.language_per_image"),
        ("rl: {diversity_threshold: 0.3, pass_k_share: 1}", "rl.diversity_threshold"),
        ("rl: {length_max: 40, length_weight: 0}", "rl.length_max"),
        ("rl: {steps: 0, group: 4}", "rl.group"),
        ("dpo: {pairs: 0, beta: 0.2}", "dpo.beta"),
        ("data: {providers: {default: {base_url: 'http://localhost'}}}", "data.providers.default.base_url"),
        ("data: {providers: {default: {}, other: {}}}", "data.providers.other"),
        ("images: {vertical: photos, per_symbol: 3}", "images.per_symbol"),
        ("images: {max_pixels: 100}", "images.max_pixels"),
        ("images: {general_count: 0, general: photos}", "images.general"),
        ("images: {general: photos, general_questions: 2}", "images.general_questions"),
        ("sft: {schedule: random_mix, ability: {learning_rate: 1e-4}}", "sft.ability.learning_rate"),
        ("admission: {mastery: {rollouts: 2}}\nsft: {schedule: random_mix}", "admission.mastery.rollouts"),
        ("sft: {difficulty_noise: 0.5}\nadmission: {mastery: {rollouts: 0}}", "sft.difficulty_noise"),
        ("sft: {lora_rank: 4, ability: {freeze_vision: true}}", "sft.ability.freeze_vision"),
        ("sft: {lora_rank: 4, recompute_vision: op}", "sft.recompute_vision"),
        ("sft: {vision_cache_gib: 2}", "sft.vision_cache_gib"),
        ("sft: {share_prefix: false, gather_pictures: true}", "sft.gather_pictures"),
        (
            "sft: {schedule: random_mix, recompute_vision: op, knowledge: {freeze_vision: true}}",
            "sft.recompute_vision",
        ),
    ],
)
def test_an_option_without_effect_is_an_error(tmp_path: Path, text: str, place: str) -> None:
    (fault,) = faults(tmp_path, f"name: a\n{text}\n")
    assert fault.startswith(f"r.yaml, line 2: {place}: has no effect: ")


def test_what_an_override_switches_off_is_no_fault_but_what_it_sets_in_vain_is(tmp_path: Path) -> None:
    text = "name: a\nrl: {steps: 9, group: 4, pass_k: 2}\n"
    assert load(written(tmp_path, text), ["rl.steps=0"]).rl.steps == 0
    assert faults(tmp_path, text, "rl.steps=0", "rl.group=8") == [
        "--set rl.group: has no effect: rl.steps is 0; remove it"
    ]


def test_defaults_hold_together(tmp_path: Path) -> None:
    assert load(written(tmp_path, "name: a\n")) == Recipe(name="a")


@given(st.text(max_size=40))
def test_any_text_gives_a_recipe_or_one_message(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    fault: UserError | None = None
    try:
        load(path)
    except UserError as error:
        fault = error
    assert fault is None or str(fault).startswith(str(path))
