"""What a claims file may say, what is told of one that says something else, and the shipped one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from open4ov.ablate import choices
from open4ov.ablate.arms import Arm, Options, arm, check_extra
from open4ov.ablate.claims import Claims, read
from open4ov.errors import UserError
from open4ov.recipe import RlSection
from open4ov.rl.pool import admit
from open4ov.rl.rewards import combine, exact
from open4ov.sample import Sample
from open4ov.store import read_samples

SHIPPED = Path(__file__).parents[2] / "recipes" / "claims.yaml"
GOOD = """name: small
recipe: base.yaml
set: {evaluate.items: 5}
arms:
  plain: {model: sft_preference}
  mixed:
    model: sft_knowledge
    set: {sft.schedule: random_mix}
claims:
  order:
    claim: An order helps
    section: §3
    arm: plain
    control: mixed
    better: [general]
    kept: {vertical: 2}
    equal: [tokens]
  trees:
    claim: Trees help
    section: §2
    not_run: no trees here
"""


def written(folder: Path, text: str = GOOD) -> Path:
    (folder / "base.yaml").write_text("name: base\n")
    (folder / "claims.yaml").write_text(text)
    return folder / "claims.yaml"


def test_a_file_says_what_is_compared(tmp_path: Path) -> None:
    found = read(written(tmp_path))
    assert found.told.seeds == [0, 1, 2]
    assert found.told.claims["order"].arms == ["plain"]
    assert found.told.claims["order"].kept == {"vertical": 2.0}
    assert found.recipe == tmp_path / "base.yaml"
    assert list(found.chosen([])) == ["order", "trees"]
    with pytest.raises(UserError, match=r"--only ordr.*did you mean 'order'"):
        found.chosen(["ordr"])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("arm: plain", "arm: plane", r"line 13: claims.order.arm: no arm is called 'plane'; did you mean 'plain'"),
        ("model: sft_knowledge", "model: sft", r"line 7: arms.mixed.model: there is no model 'sft'"),
        ("better: [general]", "better: [genral]", r"line 15: claims.order.better: no row or figure is called 'genral'"),
        (
            "kept: {vertical: 2}",
            "kept: {false_refusals: 2}",
            r"claims.order.kept: no row or figure is called 'false_refusals' any more; it is 'refused_answerable' now",
        ),
        ("    better: [general]\n    kept: {vertical: 2}\n", "", r"line 10: claims.order: says nothing that could be"),
        ("kept: {vertical: 2}", "kept: {vertical: 0}", r"line 16: claims.order.kept.vertical: by how much may it be"),
        ("kept: {vertical: 2}", "kept: {general: 2}", r"claims.order.kept.general: `better` asks more"),
        ("    equal: [tokens]\n", "", r"line 10: claims.order: say which budgets are alike"),
        ("equal: [tokens]", "equal: [token]", r"line 17: claims.order.equal.0: expected 'tokens', 'responses'"),
        ("    control: mixed\n", "", r"line 10: claims.order: `control` is missing"),
        ("section: §3\n", "sektion: §3\n", r"line 12: claims.order.sektion: unknown key 'sektion'; did you mean"),
        ("    section: §2\n", "", r"line 18: claims.trees.section: is missing; add it"),
        (
            "not_run: no trees here",
            "not_run: none\n    arm: plain",
            r"claims.trees.arm: has no effect: the claim is not",
        ),
        ("set: {evaluate.items: 5}", "set: {seed: 5}", r"line 3: set.seed: the seeds are those of `seeds`"),
        ("recipe: base.yaml", "recipe: bare.yaml", r"line 2: recipe: no such file"),
        (
            "  plain: {model: sft_preference}",
            "  plain: {model: sft_preference, like: mixd}",
            r"arms.plain.like: no arm",
        ),
        ("name: small", "name: small\nseeds: [1, 1]", r"line 2: seeds: a seed is there twice"),
        ("  plain:", "  pl/ain:", r"line 5: arms.pl/ain: an arm's name is a folder's"),
        ("arm: plain", "arm: [plain, mixed]", r"claims.order.arm: several arms are for `sooner`"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=told) as caught:
        read(written(tmp_path, GOOD.replace(old, new)))
    assert str(caught.value).startswith(str(tmp_path / "claims.yaml"))


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """A misspelt key, a wrong type, a value that is none, and none that follow from another one."""
    text = GOOD.replace("section: §3", "sektion: §3").replace("better: [general]", "better: [genral]")
    text = text.replace("model: sft_preference}", "model: [1], lik: mixed}").replace("name: small", "name: a/b")
    text = text.replace(
        "  trees:", "  more: {claim: x, section: y, arm: plane, control: plain, better: [text]}\n  trees:"
    )
    text = text.replace("set: {evaluate.items: 5}", "seeds: many").replace("base.yaml", "bare.yaml")
    with pytest.raises(UserError) as caught:
        read(written(tmp_path, text))
    found = [line.removeprefix(f"{tmp_path / 'claims.yaml'}, line ") for line in str(caught.value).splitlines()]
    assert [line.partition("; did you")[0] for line in found] == [
        "5: arms.plain.lik: unknown key 'lik'",
        "12: claims.order.sektion: unknown key 'sektion'",
        '3: seeds: expected array, got "many" (text)',
        "5: arms.plain.model: expected string, got [1] (list)",
        "1: name: is a folder's name, too: letters, digits, - and _ only",
        "15: claims.order.better: no row or figure is called 'genral'",
        "18: claims.more.arm: no arm is called 'plane'",
        "18: claims.more: say which budgets are alike (`equal`: of tokens, responses, rl_steps, dpo_pairs), or why "
        "they are not (`unequal`)",
        f"2: recipe: no such file: {tmp_path / 'bare.yaml'}",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "arms: {a: {model: base}}\nclaims: {}\n",
            ["name: is missing", "recipe: is missing", "line 2: claims: expected"],
        ),
        (
            "name: a\nrecipe: base.yaml\narms: 3\nclaims: {a: 4}\n",
            ["line 3: arms: expected", "line 4: claims.a: expected"],
        ),
        ("nam: a\nrecipe: base.yaml\n", ["line 1: nam: unknown key", "arms: is missing", "claims: is missing"]),
    ],
)
def test_what_is_hardly_a_claims_file(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read(written(tmp_path, text))
    lines = str(caught.value).splitlines()
    assert len(lines) == len(told)
    assert all(part in line for part, line in zip(told, lines, strict=True))


def test_arms_that_are_like_one_another_in_a_circle(tmp_path: Path) -> None:
    text = GOOD.replace("{model: sft_preference}", "{model: sft_preference, like: mixed}")
    with pytest.raises(UserError, match="like one another in a circle"):
        read(
            written(tmp_path, text.replace("    model: sft_knowledge\n", "    model: sft_knowledge\n    like: plain\n"))
        )


def test_a_later_override_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    """All arms', then those of the arm that one is like, its own, the seed, the scale, and the command's at last."""
    text = GOOD.replace(
        "{evaluate.items: 5}", "{evaluate.items: 5, dpo.most: 900, rl.steps: 9, sft.knowledge.replay: 0.4}"
    )
    text = text.replace("  mixed:\n", "  more:\n    model: rl\n    like: plain\n    set: {rl.steps: 30}\n  mixed:\n")
    text = text.replace("{model: sft_preference}", "{model: sft_preference, set: {sft.knowledge: {tokens: 50000}}}")
    claims = read(written(tmp_path, text))
    found = arm(claims, "more", 3, Options(scale=0.1, extra=("evaluate.items=7",)))
    assert found.until == "evaluate_rl"
    recipe = found.recipe
    assert (recipe.seed, recipe.evaluate.items, recipe.rl.steps) == (3, 7, 3)
    assert (recipe.sft.knowledge.tokens, recipe.sft.knowledge.replay) == (5000, 0.0), "a section as a whole goes first"
    assert recipe.sft.ability.tokens == 60_000, "the recipe's own budgets are scaled too"
    assert (recipe.dpo.pairs, recipe.dpo.most) == (150, 90)
    recipe = arm(claims, "more", 3, Options(scale=0.1, extra=("dpo.pairs=1000",))).recipe
    assert (recipe.dpo.pairs, recipe.dpo.most) == (1000, 900)
    assert arm(claims, "plain", 3).recipe.rl.steps == 9


def test_an_arm_that_makes_no_recipe_is_told_with_its_line(tmp_path: Path) -> None:
    claims = read(written(tmp_path, GOOD.replace("sft.schedule: random_mix", "sft.schedul: random_mix")))
    with pytest.raises(UserError, match=r"line 6: arms.mixed: makes no recipe(.|\n)*unknown key 'schedul'"):
        arm(claims, "mixed", 0)
    with pytest.raises(UserError, match=r"--set evaluate.items: expected key.sub=value"):
        check_extra(["evaluate.items"])
    with pytest.raises(UserError, match="--set seed=4: the seeds are those of --seeds"):
        arm(read(written(tmp_path)), "plain", 0, Options(extra=("seed=4",)))


# ------------------------------------------------------------------------------------------- the shipped file


@pytest.fixture(scope="module")
def shipped() -> Claims:
    return read(SHIPPED)


def made(claims: Claims, name: str, sets: Path = Path("sets")) -> Arm:
    return arm(claims, name, 0, Options(folders={"choices": sets}))


def test_every_arm_of_the_shipped_file_makes_a_recipe_and_is_used(shipped: Claims) -> None:
    used = {name for claim in shipped.told.claims.values() for name in (*claim.arms, *claim.controls)}
    assert used == set(shipped.told.arms)
    for name in shipped.told.arms:
        assert made(shipped, name).recipe.threads == 1


def test_every_claim_of_the_issue_is_there_or_says_why_not(shipped: Claims) -> None:
    wanted = {
        *("topic_tree", "density", "judge_vote", "balance", "curriculum", "blend", "mastery", "gate", "rationing"),
        *("spurious", "cloze", "text_share", "leakage", "filter", "pass_k", "diversity", "length", "tis", "ratio_ema"),
        *("adversarial", "tower", "int8_inference", "cost"),
    }
    assert wanted <= shipped.told.claims.keys()
    assert all(claim.section for claim in shipped.told.claims.values())


def test_arms_of_a_claim_differ_in_what_it_is_named_for(shipped: Claims) -> None:
    """Diversity and cloze by one option each; without weights, every right response counts alike."""
    diverse, uniform = (made(shipped, name).recipe.rl for name in ("diverse", "uniform"))
    assert apart(diverse, uniform) == {"diversity"}
    assert apart(*(made(shipped, name).recipe.rl for name in ("cloze", "letters"))) == {"pool"}
    assert (diverse.diversity.floor, uniform.diversity.floor) == (0.1, 1)
    correct, distances = torch.tensor([[1.0, 1, 0, 0], [0.2, 0.9, 0.4, 0.7]], dtype=torch.float64)
    weighed = [
        combine(correct, torch.zeros(4), length_weight=rl.length_weight, diversity=distances, floor=rl.diversity.floor)
        for rl in (diverse, uniform)
    ]
    torch.testing.assert_close(weighed[1], correct - correct.mean())
    assert not torch.equal(weighed[0], weighed[1])


def apart(one: RlSection, other: RlSection) -> set[str]:
    """The options of `rl` that are not the same."""
    mine, theirs = one.model_dump(), other.model_dump()
    return {name for name in mine if mine[name] != theirs[name]}


def test_multiple_choice_is_opened_by_one_arm_and_kept_by_the_other(shipped: Claims, tmp_path: Path) -> None:
    """What the source's validation makes of the set that both arms name, with the options of each."""
    folder = tmp_path / "sets"
    choices.write(folder, 40)
    given = read_samples(folder / "samples.parquet")
    assert len(given) >= 30
    nothing = admit.Tools(exact, lambda kept: (kept, []), lambda kept: (kept, []), None, lambda sample: None)
    found: dict[str, list[Sample]] = {}
    for name in ("cloze", "letters"):
        section = made(shipped, name, folder).recipe.rl.pool
        assert section.sources[0].path == str(folder)
        admitted = admit.admit(admit.Given(section.sources[0], given, lambda sha: None), section, nothing, 0, set())
        assert admitted.refused == ""
        found[name] = admitted.samples
        assert all(("\nA. " in sample.messages[0].text) == (name == "letters") for sample in found[name])
    assert len(found["cloze"]) == len(found["letters"]) == len(given)
    assert all((one.answer or "").isdigit() for one in found["cloze"])
    assert all((one.answer or "") in "ABCD" for one in found["letters"])
    before = (folder / "samples.parquet").read_bytes()
    choices.write(folder, 40)
    assert (folder / "samples.parquet").read_bytes() == before
