"""The processor's files checked key by key, against the model's, and pictures that they cannot be used for."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from open4ov.errors import UserError
from open4ov.images import open_image
from open4ov.model import Config, Processor
from open4ov.model.images import ImageSettings, VideoSettings, batch_patches, patches, video_patches

SETTINGS = ImageSettings(min_pixels=2048, max_pixels=16_384)


@pytest.fixture
def copy(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "copy"))


def refused(directory: Path, name: str, key: str, value: object) -> None:
    path = directory / name
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError) as error:
        Processor.from_pretrained(directory)
    assert str(error.value).startswith(f"{path}: ")
    assert key in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, value) for key in ("patch_size", "temporal_patch_size", "merge_size") for value in (0, -1, "x", 1.5)],
        *[("size", value) for value in (5, "x", [1], {"shortest_edge": "a", "longest_edge": 9})],
        ("size", {"shortest_edge": 10, "longest_edge": 5}),
        ("size", {}),
        ("min_pixels", "x"),
        ("min_pixels", -1),
        ("max_pixels", 0),
        ("merge_size", None),
        ("image_std", [0, 0, 0]),
        ("image_std", [0.5, 0.5, -0.5]),
        ("image_std", 0.5),
        ("image_mean", [0.5]),
        ("image_mean", "abc"),
        ("image_mean", ["a", "b", "c"]),
        ("image_mean", [0.5, 0.5, math.nan]),
        ("image_mean", None),
    ],
)
def test_wrong_image_settings_are_named(copy: Path, key: str, value: object) -> None:
    refused(copy, "preprocessor_config.json", key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("fps", value) for value in (0, -1, "x", math.nan, True)],
        *[("min_frames", value) for value in (0, 1, "x", 4.0)],
        *[("max_frames", value) for value in (0, 1, "x")],
        ("min_frames", 769),
        ("size", 5),
        ("size", {"shortest_edge": 0}),
        ("size", {"shortest_edge": 9, "longest_edge": 5}),
    ],
)
def test_wrong_video_settings_are_named(copy: Path, key: str, value: object) -> None:
    refused(copy, "video_preprocessor_config.json", key, value)


def test_what_video_settings_leave_out_or_null_is_the_default() -> None:
    assert VideoSettings.from_dict({}, "x") == VideoSettings()
    nothing = {"size": None, "fps": None, "min_frames": None, "max_frames": None, "num_frames": None}
    assert VideoSettings.from_dict(nothing, "x") == VideoSettings()
    few = VideoSettings.from_dict({"max_frames": 3, "fps": 1}, "x")
    assert (few.min_frames, few.max_frames) == (3, 3)


def test_what_transformers_writes_passes() -> None:
    theirs = Qwen2VLImageProcessorPil().to_dict()
    images = ImageSettings.from_dict(theirs, "x")
    assert (images.min_pixels, images.max_pixels, images.patch_size) == (3136, 1_003_520, 14)
    assert images.std == theirs["image_std"]
    assert VideoSettings.from_dict(Qwen3VLVideoProcessor().to_dict(), "x") == VideoSettings()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F", "LAB", "La"])
def test_pictures_that_would_lose_their_values_are_refused(mode: str) -> None:
    picture = Image.new(mode, (64, 64))
    for cut in (
        lambda: patches(picture, SETTINGS),
        lambda: batch_patches([picture], SETTINGS),
        lambda: video_patches([picture, picture], SETTINGS, VideoSettings(2048, 40_000)),
    ):
        with pytest.raises(UserError, match=rf"mode '{mode}'.* open its file with open4ov\.images\.open_image"):
            cut()


def test_open_image_makes_deep_grey_fit() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64), 257 * 100, dtype=np.uint16)).save(file, "PNG")
    cut, _ = patches(open_image(file.getvalue()), SETTINGS)
    assert float(cut.max()) == float(cut.min()) == pytest.approx((100 / 255 - 0.5) / 0.5)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_pictures_of_eight_bits_are_taken(mode: str) -> None:
    picture = Image.new(mode, (64, 64))
    assert patches(picture, SETTINGS)[0].equal(patches(picture.convert("RGB"), SETTINGS)[0])


def test_a_processor_of_another_model_is_told(tiny_dir: Path) -> None:
    processor = Processor.from_pretrained(tiny_dir)
    config = Config.from_dict(json.loads((tiny_dir / "config.json").read_text()))
    processor.check(config)

    def said(config: Config) -> str:
        with pytest.raises(UserError) as error:
            processor.check(config)
        return str(error.value)

    for key, theirs, value in (
        ("patch_size", "patch_size", 14),
        ("temporal_patch_size", "temporal_patch_size", 1),
        ("spatial_merge_size", "merge_size", 4),
    ):
        right = getattr(config.vision, key)
        assert said(replace(config, vision=replace(config.vision, **{key: value}))).startswith(
            f"config.json says vision_config.{key} {value}, preprocessor_config.json says {theirs} {right}:"
        )
    for key, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
    ):
        text = f"config.json says {key} 5, tokenizer.json says {token} {processor.special[token]}:"
        assert said(replace(config, **{key: 5})).startswith(text)
    both = said(replace(config, image_token_id=5, vision=replace(config.vision, patch_size=14)))
    assert "image_token_id" in both
    assert "vision_config.patch_size" in both
