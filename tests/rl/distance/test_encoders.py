"""What tells responses apart: the labelled pairs, the threshold they set, and encoders by name and by folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from open4ov.assets import base_dir
from open4ov.errors import UserError
from open4ov.recipe_rl_encoder import SHIPPED, SHIPPED_THRESHOLD, EncoderSection
from open4ov.rl.distance import encoders, labelled
from open4ov.rl.distance.encoders import ngram_embedding


def test_there_are_enough_labelled_pairs_of_both_kinds_halves_and_languages() -> None:
    found = labelled.pairs()
    assert len(found) >= 200
    for half in ("calibration", "held_out"):
        for language in ("en", "zh"):
            some = [pair for pair in found if (pair.half, pair.language) == (half, language)]
            assert sum(pair.same for pair in some) == sum(not pair.same for pair in some) >= 50
    sides = [{pair.family for pair in found if pair.half == half} for half in ("calibration", "held_out")]
    assert not sides[0] & sides[1], "no question is on both sides"
    assert len({(pair.left, pair.right) for pair in found}) == len(found)
    assert all("\\boxed{" in text for pair in found for text in (pair.left, pair.right))


def test_the_shipped_threshold_is_the_calibrated_one() -> None:
    found = labelled.calibrate(encoders.steps)
    assert round(found.threshold, 2) == SHIPPED_THRESHOLD
    assert found.held_out > labelled.calibrate(ngram_embedding).held_out + 0.05
    assert found.held_out > 0.75


def test_the_best_threshold_by_hand() -> None:
    """Same at .1, .2, .5; different at .4, .6, .9: both cuts have 5/6; the wider gap wins."""
    found, same = [0.1, 0.2, 0.5, 0.4, 0.6, 0.9], [True, True, True, False, False, False]
    assert labelled.threshold(found, same) == pytest.approx(0.3)
    assert labelled.balanced_accuracy(found, same, 0.3) == pytest.approx(5 / 6)
    assert labelled.balanced_accuracy([0.0, 1.0, 1.0], [True, False, False], 0.5) == 1
    with pytest.raises(ValueError, match="both kinds"):
        labelled.threshold([0.1, 0.2], [True, True])


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ("There are 3 red and 4 blue. 3+4=7.", "Red: 3, blue: 4, and 3+4=7 together.", True),
        ("There are 3 red and 4 blue. 3+4=7.", "I count them: 1, 2, 3, 4, 5, 6, 7.", False),
        ("红色3个，蓝色4个，3+4=7。", "先数红的有3，再数蓝的有4，相加：3+4=7。", True),
        ("红色3个，蓝色4个，3+4=7。", "共9个，去掉2个绿的，9-2=7。", False),
        ("3+4=7. \\boxed{7}", "3+4=7. \\boxed{seven}", True),
        ("", "", True),
        ("", "3+4=7", False),
    ],
)
def test_steps_see_the_way_and_not_the_wording(a: str, b: str, alike: bool) -> None:
    rows = encoders.steps([a, b])
    assert rows.norm(dim=-1).tolist() == pytest.approx([1, 1])
    assert (float(1 - rows[0] @ rows[1]) <= SHIPPED_THRESHOLD) is alike


def rows_of_two(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[2.0, 0.0] if "+" in text else [0.0, 3.0] for text in texts])


def nothing(texts: list[str]) -> torch.Tensor:
    return torch.ones(len(texts), 3)


def misshapen(texts: list[str]) -> torch.Tensor:
    return torch.ones(len(texts) + 1, 3)


def not_finite(texts: list[str]) -> list[list[float]]:
    return [[float("nan")]] * len(texts)


def named(function: str) -> EncoderSection:
    return EncoderSection(name=f"{__name__}:{function}")


def test_auto_is_set_once_and_kept_for_that_encoder(tmp_path: Path) -> None:
    section = named("rows_of_two")
    encoder = encoders.build(section)
    assert encoder(["1 + 1"]).tolist() == [[1, 0]], "rows are brought to length 1"
    found, told = encoders.threshold(section, "auto", encoder, tmp_path / "kept")
    assert 0 < found < 1
    assert told["pairs"] == 432
    (file,) = (tmp_path / "kept").iterdir()
    file.write_text(json.dumps({"threshold": 0.25}))
    assert encoders.threshold(section, "auto", encoder, tmp_path / "kept")[0] == 0.25, "read, not set anew"
    assert encoders.threshold(section, 0.3, encoder, tmp_path / "kept") == (0.3, {"threshold": 0.3})
    other = EncoderSection(name=SHIPPED)
    assert encoders.threshold(other, "auto", encoders.build(other), tmp_path / "kept")[0] == pytest.approx(0.465238)
    assert encoders.threshold(other, "auto", encoders.build(other), None)[0] == pytest.approx(0.465238)


def test_an_encoder_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"rl\.embedder: cannot find"):
        encoders.build(named("missing"))
    with pytest.raises(UserError, match=r"shape \[2, 3\] for 1 texts"):
        encoders.build(named("misshapen"))
    with pytest.raises(UserError, match="not finite"):
        encoders.build(named("not_finite"))
    with pytest.raises(UserError, match=r"auto cannot be set for .*:nothing"):
        encoders.threshold(named("nothing"), "auto", encoders.build(named("nothing")), None)


def test_identity_follows_what_the_rows_depend_on(tmp_path: Path) -> None:
    assert encoders.identity(EncoderSection(name=SHIPPED)) == ""
    assert encoders.identity(named("nothing")) != ""
    assert encoders.digest(named("nothing")) != encoders.digest(named("rows_of_two"))


# models in a folder


@pytest.fixture(scope="module")
def deberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DeBERTa with random weights, as transformers saves one."""
    transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("deberta")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{word: i for i, word in enumerate("abcdefgh", start=2)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.DebertaV2Config(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    transformers.DebertaV2Model(config).save_pretrained(folder)
    return folder


def test_a_deberta_is_averaged_over_its_own_tokens(deberta: Path) -> None:
    import transformers

    section = EncoderSection(directory=str(deberta), batch=2)
    encoder = encoders.build(section)
    texts = ["a b c", "d", "a b c d e f g h", "a b c"]
    rows = encoder(texts)
    assert rows.shape == (4, 16)
    torch.testing.assert_close(rows[0], rows[3], atol=1e-6, rtol=0)
    model = transformers.AutoModel.from_pretrained(str(deberta)).eval()
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([[2, 3, 4]])).last_hidden_state[0].mean(0).double()
    torch.testing.assert_close(rows[0], alone / alone.norm(), atol=1e-5, rtol=0)
    long = encoder([" ".join("abcdefgh" * 50)])
    assert torch.isfinite(long).all(), "cut at what the model has positions for"
    before = encoders.identity(section)
    (deberta / "config.json").write_text((deberta / "config.json").read_text() + " ")
    assert encoders.identity(section) != before


def test_sentence_transformers_gives_the_same_rows(deberta: Path, tmp_path: Path) -> None:
    """Its own default for such a model is the mean of the tokens, too."""
    library = pytest.importorskip("sentence_transformers", reason="the extra `embed` is not installed")
    library.SentenceTransformer(str(deberta)).save(str(tmp_path / "saved"))
    texts = ["a b c", "d e"]
    mine = encoders.build(EncoderSection(directory=str(deberta)))(texts)
    its = encoders.build(EncoderSection(directory=str(tmp_path / "saved")))(texts)
    torch.testing.assert_close(mine, its, atol=1e-6, rtol=0)


def test_a_folder_that_is_no_encoder_is_refused_with_what_to_do(tmp_path: Path, deberta: Path) -> None:
    def refused(folder: Path, told: str) -> None:
        for ask in (encoders.build, encoders.identity):
            with pytest.raises(UserError, match=told):
                ask(EncoderSection(directory=str(folder)))

    refused(tmp_path / "missing", r"rl\.embedder\.directory: .*missing is no folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, r"neither modules\.json nor config\.json")
    (empty / "config.json").write_text("{")
    refused(empty, "not a model's configuration")
    (empty / "config.json").write_text('{"model_type": "bert"}')
    (empty / "pytorch_model.bin").write_bytes(b"x")
    refused(empty, r"no weights as safetensors \(only \.bin\)")
    (empty / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "code.M"}}')
    refused(empty, "code of its own")
    refused(base_dir("nano"), "multimodal model")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "deberta-v2"}')
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be used as a text encoder"):
        encoders.build(EncoderSection(directory=str(broken)))


def test_a_missing_extra_is_said(deberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"rl\.embedder\.directory: needs the extra `hf`"):
        encoders.build(EncoderSection(directory=str(deberta)))
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer"}]')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"rl\.embedder\.directory: needs the extra `embed`"):
        encoders.build(EncoderSection(directory=str(tmp_path)))
