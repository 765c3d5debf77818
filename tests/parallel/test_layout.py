"""Where tokens, visual tokens and rows that are read lie on the ranks that share a pack."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from layouts import Sized
from packs import config_of, plain_pack, processor_of, shared_pack

from open4ov.model import Config, Pack
from open4ov.model.rope import text_angles
from open4ov.parallel.layout import Layout, visual_places
from open4ov.parallel.reading import Reading


@cache
def _material(directory: Path) -> tuple[Config, list[Pack]]:
    processor = processor_of(directory)
    return config_of(processor, "dense"), [plain_pack(processor), shared_pack(processor)]


@given(cp=st.integers(1, 4), tp=st.integers(1, 4), which=st.integers(0, 1), data=st.data())
def test_shards_are_the_pack(tiny_dir: Path, cp: int, tp: int, which: int, data: st.DataObject) -> None:
    config, packs = _material(tiny_dir)
    pack, ranks = packs[which], cp * tp
    tokens, places = len(pack.input_ids), visual_places(pack, config)
    axes = [Sized(cp, tp, at) for at in range(ranks)]
    layouts = [Layout.of(pack, config, one) for one in axes]
    assert all(layout.stop - layout.start == layouts[0].stop for layout in layouts)
    # chunks: the first shard of each tp group has all of its chunk's tokens and angles
    ids = torch.cat([layout.ids for layout in layouts[::tp]])
    assert torch.equal(ids[:tokens], pack.input_ids)
    cos = torch.cat([layout.cos for layout in layouts[::tp]])
    assert torch.equal(cos[:tokens], text_angles(config.text, pack.positions)[0])
    # every visual token is in one shard, where it stands in the pack
    assert torch.equal(torch.cat([layout.visual for layout in layouts]), torch.arange(len(places)))
    assert torch.equal(torch.cat([layout.places + layout.start for layout in layouts]), places)
    if ranks > 1:  # tokens that fill up count for nothing
        times = torch.cat([layout.documents.times for layout in layouts])  # pyright: ignore[reportAttributeAccessIssue]
        whole = pack.documents.times if which else torch.ones(tokens)  # pyright: ignore[reportAttributeAccessIssue]
        assert torch.equal(times[:tokens], whole)
        assert not times[tokens:].any()
    # rows: what the ranks of cp read together are all rows, in order
    rows = torch.tensor(data.draw(st.lists(st.integers(0, tokens - 1), max_size=30)), dtype=torch.long)
    hidden = torch.arange(layouts[0].stop * ranks)
    readings = [Reading.of(rows, layout, one) for layout, one in zip(layouts, axes, strict=True)]
    shards = [hidden[layout.start : layout.stop] for layout in layouts]
    if ranks == 1:
        (reading,) = readings
        assert reading.rows is not None
        read = [reading.states(hidden[reading.rows])]
    else:
        gathered = torch.cat([shard[reading.own] for shard, reading in zip(shards, readings, strict=True)])
        read = [gathered[reading.source] for reading in readings[::tp]]
    assert torch.equal(torch.cat(read), rows)
    assert [len(part) for part in read] == [reading.span.stop - reading.span.start for reading in readings[::tp]]
