"""Videos: frames, timestamps, positions and features, against transformers' parts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import noise, reference
from transformers import AutoTokenizer
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as reference_resize

from open4ov.engine import Engine, Request
from open4ov.errors import UserError
from open4ov.model import Encoded, Processor, Qwen3VL, pack
from open4ov.model.images import ImageSettings, VideoSettings, sample_frames, video_patches, video_resize
from open4ov.sample import Message, Part, assistant, user, video

SMALL = VideoSettings(min_pixels=2048, max_pixels=40_000)
FRAMES = [noise(96, 64, seed) for seed in range(5)]
TIMES = [0.0, 0.5, 1.0, 1.5, 2.25]


@pytest.fixture
def processor(tiny_dir: Path) -> Processor:
    processor = Processor.from_pretrained(tiny_dir)
    processor.videos = SMALL
    return processor


def conversation(processor: Processor) -> Encoded:
    """A picture, a video and text, in this order."""
    both = Message(
        role="user",
        content=[
            Part(type="image", index=0),
            Part(type="text", text="left"),
            Part(type="video", index=1, times=TIMES),
            Part(type="text", text="right?"),
        ],
    )
    return processor.encode([both, assistant("one two")], [noise(64, 64, 9), *FRAMES])


@given(st.integers(2, 40), st.integers(8, 900), st.integers(8, 900))
def test_sizes_equal_transformers(frames: int, height: int, width: int) -> None:
    limits = {"temporal_factor": 2, "factor": 32, "min_pixels": 131_072, "max_pixels": 786_432}
    expected = reference_resize(frames, height, width, **limits)
    assert video_resize(frames, height, width, ImageSettings(), VideoSettings()) == expected


def test_patches_equal_transformers() -> None:
    images = ImageSettings(min_pixels=2048, max_pixels=16_384)
    cut, grid = video_patches(FRAMES, images, SMALL)
    height, width = video_resize(5, 64, 96, images, SMALL)
    assert grid == (3, height // 16, width // 16)
    frames = torch.stack([torch.from_numpy(np.array(f.resize((width, height), 3))) for f in FRAMES])
    frames = (frames.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    expected, *_ = Qwen3VLVideoProcessor.patchify(None, frames[None], 16, 2, 2)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(cut, expected[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [VideoSettings(), VideoSettings(fps=1.5, min_frames=6, max_frames=32)])
@given(st.integers(1, 20_000), st.floats(0.5, 120))
def test_frames_are_chosen_as_transformers_chooses_them(settings: VideoSettings, frames: int, fps: float) -> None:
    stub = SimpleNamespace(fps=settings.fps, min_frames=settings.min_frames, max_frames=settings.max_frames)
    video = SimpleNamespace(total_num_frames=frames, fps=fps)
    expected = Qwen3VLVideoProcessor.sample_frames(stub, video)  # pyright: ignore[reportArgumentType]
    assert sample_frames(frames, fps, settings) == expected.tolist()


def test_tokens_are_transformers_words_with_their_timestamps(processor: Processor, tiny_dir: Path) -> None:
    document = conversation(processor)
    stamps = Qwen3VLProcessor._calculate_timestamps(None, [0, 2, 4, 6, 9], 4.0, 2)  # pyright: ignore[reportArgumentType]
    assert [f"{stamp:.1f}" for stamp in stamps] == ["0.2", "1.2", "2.2"]
    (_, rows, columns), (_, video_rows, video_columns) = document.grids.tolist()
    start, end = "<|vision_start|>", "<|vision_end|>"
    image = start + "<|image_pad|>" * (rows * columns // 4) + end
    frame = start + "<|video_pad|>" * (video_rows * video_columns // 4) + end
    shown = "".join(f"<{stamp:.1f} seconds>{frame}" for stamp in stamps)
    text = f"<|im_start|>user\n{image}left{shown}right?<|im_end|>\n<|im_start|>assistant\none two<|im_end|>\n"
    assert document.input_ids.tolist() == AutoTokenizer.from_pretrained(tiny_dir)(text).input_ids


def test_positions_and_logits_equal_transformers(processor: Processor, tiny_dir: Path) -> None:
    document, oracle = conversation(processor), reference(tiny_dir)
    ids = document.input_ids[None]
    kinds = (ids == processor.image_id).int() + 2 * (ids == processor.video_id).int()
    image, clip = document.pixels.split(document.grids.prod(1).tolist())
    grids = {"image_grid_thw": document.grids[:1], "video_grid_thw": document.grids[1:]}
    positions, delta = oracle.model.get_rope_index(ids, kinds, **{k: v.clone() for k, v in grids.items()})
    assert torch.equal(document.positions, positions[:, 0])
    assert document.next_position == len(document) + int(delta)
    model = Qwen3VL.from_pretrained(tiny_dir)
    with torch.no_grad():
        theirs = oracle(
            input_ids=ids, mm_token_type_ids=kinds, pixel_values=image, pixel_values_videos=clip, **grids
        ).logits[0]
        ours = model.logits(model.hidden_states(pack([document])))
    assert theirs.abs().max() > 1
    assert float((ours - theirs).abs().max()) <= 1e-4


def test_another_video_gives_other_log_probs_and_another_order_too(processor: Processor, tiny_dir: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)

    def told(frames: list) -> torch.Tensor:
        document = processor.encode([video("what?", TIMES), assistant("one two")], frames)
        with torch.no_grad():
            return model.log_probs(pack([document]))[0]

    first = told(FRAMES)
    assert (told([noise(96, 64, 77), *FRAMES[1:]]) - first).abs().max() > 1e-4
    assert (told(FRAMES[::-1]) - first).abs().max() > 1e-4


def test_the_engine_answers_about_videos(processor: Processor, tiny_dir: Path) -> None:
    """Alone and in a batch with a picture of the same frame, which must not be taken for it."""
    engine = Engine(Qwen3VL.from_pretrained(tiny_dir), processor)
    asked = Request([video("what?", TIMES)], FRAMES, max_tokens=6)
    other = Request([user("what?", 1)], FRAMES[:1], max_tokens=6)
    together = engine.generate([asked, other, asked])
    assert together[0][0].token_ids == together[2][0].token_ids == engine.generate([asked])[0][0].token_ids
    assert together[1][0].token_ids == engine.generate([other])[0][0].token_ids


def test_what_is_no_video_is_refused(processor: Processor) -> None:
    with pytest.raises(UserError, match="at least 2 frames, this one has 1"):
        processor.encode([video("?", [0.0])], FRAMES[:1])
    with pytest.raises(UserError, match="of one size"):
        processor.encode([video("?", [0.0, 1.0])], [FRAMES[0], noise(64, 64, 1)])
    with pytest.raises(UserError, match="message 0: video part refers to image 4, 2 given"):
        processor.encode([video("?", TIMES)], FRAMES[:2])
    with pytest.raises(UserError, match="refers to image None"):
        processor.encode([video("?", [])], FRAMES)


@pytest.mark.parametrize("times", [[0.0, float("nan")], [-1.0, 0.0], [1.0, 0.5], [0.0, float("inf")]])
def test_times_that_no_video_has_are_refused(processor: Processor, times: list[float]) -> None:
    with pytest.raises(UserError, match="a video's times must be seconds from 0 on, in ascending order, not"):
        processor.encode([video("?", times)], FRAMES[:2])
    processor.encode([video("?", [0.0, 0.0])], FRAMES[:2])  # rounded times may be equal
