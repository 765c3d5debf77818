"""`data.embedder` and providers of kind `embedder` in a recipe: what they take, and what is wrong with the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from open4ov import keys
from open4ov.errors import UserError
from open4ov.recipe import Recipe, load

SHIPPED = "open4ov.mllm.embedding:embed_texts"


def recipe(tmp_path: Path, data: str) -> Recipe:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"name: x\ndata:\n  {data}\n")
    return load(file)


def told(tmp_path: Path, data: str) -> str:
    with pytest.raises(UserError) as error:
        recipe(tmp_path, data)
    return str(error.value).replace(str(tmp_path), "")


def test_a_name_a_folder_and_an_endpoint_are_read(tmp_path: Path) -> None:
    assert recipe(tmp_path, "top_l1: 3").data.embedder.name == SHIPPED
    assert recipe(tmp_path, "embedder: open4ov").data.embedder.sees is True
    assert recipe(tmp_path, f"embedder: {SHIPPED}").data.embedder.sees is False
    folder = recipe(tmp_path, "embedder: {directory: clip, batch: 8}").data.embedder
    assert (folder.directory, folder.batch, folder.sees) == ("clip", 8, None)
    there = recipe(tmp_path, "embedder: {endpoint: {base_url: 'http://h/v1', model: m, images: true}}").data.embedder
    assert there.endpoint
    assert (there.endpoint.image_form, there.sees) == ("messages", True)


@pytest.mark.parametrize(
    "data",
    ["embedder: open4ov", "embedder: {directory: clip, batch: 8}", "embedder: {endpoint: {model: m, dimensions: 9}}"],
)
def test_a_recipe_written_out_is_read_again(tmp_path: Path, data: str) -> None:
    first = recipe(tmp_path, data)
    dumped = first.model_dump(mode="json")
    assert Recipe.model_validate_json(json.dumps(dumped)) == first
    if data == "embedder: open4ov":
        assert dumped["data"]["embedder"] == "open4ov"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("embedder: clip", "line 3: data.embedder: 'clip' is neither open4ov nor package.module:function"),
        ("embedder: {directory: a, name: b:c}", "has name and directory; give one"),
        ("embedder: {batch: 3}", "names none; give one"),
        ("embedder: 7", "data.embedder: expected mapping"),
        ("embedder: {endpoint: {modle: m}}", "data.embedder.endpoint.modle: unknown key 'modle'; did you mean 'model'"),
        ("embedder: {endpoint: {base_url: 'http://h/v1'}}", "data.embedder.endpoint.model: is missing"),
        ("embedder: {endpoint: {model: m, base_url: 'http://me:secret@h/v1'}}", "holds a user, a password or a query"),
        ("embedder: {endpoint: {model: m, api_key_env: sk-1}}", "api_key_env: is no name of an environment variable"),
        ("embedder: {endpoint: {model: m, image_tokens: -1}}", "image_tokens: -1 is negative"),
        ("embedder: {endpoint: {model: m, image_form: input}}", "image_form: has no effect: images is false"),
        ("embedder: {endpoint: {model: m}, batch: 4}", "data.embedder.batch: has no effect"),
        ("embedder: {endpoint: {model: m}}\n  budget: {money: 3}", "price: data.budget.money needs it"),
        ("providers: {r: {kind: embedder}}\n  roles: {rank: r}", f"sees images, and {SHIPPED} embeds texts only"),
        (
            "embedder: {endpoint: {model: m}}\n  providers: {r: {kind: embedder, others: 0.2}}\n  roles: {rank: r}",
            "an endpoint without `images: true` embeds texts only",
        ),
        (
            "embedder: {directory: d}\n  providers: {default: {}, r: {kind: embedder}}\n  roles: {rank: r}",
            "data.providers.r: kind `embedder` needs `others`",
        ),
        (
            "embedder: open4ov\n  providers: {default: {kind: embedder}}",
            "data.providers.default: kind `embedder` plays the role rank only",
        ),
        (
            "embedder: open4ov\n  providers: {default: {}, r: {kind: embedder}}\n  roles: {rank: r, judge_1: r}",
            "data.roles.judge_1: provider 'r' is of kind `embedder`, which plays the role rank only; name another",
        ),
        (
            "embedder: open4ov\n  providers: {default: {}, r: {kind: embedder, model: m}}\n  roles: {rank: r}",
            "data.providers.r.model: has no effect",
        ),
        ("providers: {default: {others: 0.2}}", "data.providers.default.others: has no effect"),
        (
            "providers: {default: {kind: openai, model: m, others: 0.2}}",
            "data.providers.default.others: has no effect: provider 'default' asks a model",
        ),
    ],
)
def test_faults_are_named(tmp_path: Path, data: str, reason: str) -> None:
    said = told(tmp_path, data)
    assert reason in said
    assert "secret" not in said


def test_cache_and_budget_have_an_effect_with_an_embeddings_endpoint(tmp_path: Path) -> None:
    assert recipe(tmp_path, "embedder: {endpoint: {model: m}}\n  cache: kept\n  budget: {tokens: 9}").data.cache
    assert "data.cache: has no effect" in told(tmp_path, "embedder: open4ov\n  cache: kept")


def test_a_stage_is_made_anew_by_another_embedder_and_not_by_how_fast_it_answers(tmp_path: Path) -> None:
    def key(embedder: str) -> str:
        return json.dumps(keys.data(recipe(tmp_path, f"embedder: {embedder}")), sort_keys=True)

    assert key(SHIPPED) == json.dumps(keys.data(recipe(tmp_path, "top_l1: 3")), sort_keys=True)
    assert len({key(SHIPPED), key("open4ov"), key("{endpoint: {model: m}}"), key("{endpoint: {model: n}}")}) == 4
    assert key("{endpoint: {model: m}}") == key("{endpoint: {model: m, retries: 9, batch: 3, timeout: 5, price: 1}}")
    assert key("{endpoint: {model: m}}") != key("{endpoint: {model: m, dimensions: 64}}")
    with pytest.raises(UserError, match=r"data\.embedder\.directory: .*is no folder"):
        key(f"{{directory: {tmp_path}/none}}")
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.CLIPModel"}]')
    (folder / "model.safetensors").write_bytes(b"one")
    first = key(f"{{directory: {folder}, batch: 3}}")
    assert first == key(f"{{directory: {folder}}}")
    (folder / "model.safetensors").write_bytes(b"two")
    assert key(f"{{directory: {folder}}}") != first
