"""Chinese in a page goes with its glyphs."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from fontTools.ttLib import TTFont  # pyright: ignore[reportMissingTypeStubs]

from open4ov import page_fonts
from open4ov.corpora import in_car

PAGE = "<style>\nbody { color: red }\n</style><style></style><p>blue: {}</p>"


def carried(html: str) -> dict[str, set[str]]:
    """Family -> the characters that the page's fonts have."""
    found = re.findall(r'font-family: "([^"]+)"; src: url\("data:font/woff;base64,([^"]+)"\)', html)
    files = {family: io.BytesIO(base64.b64decode(data)) for family, data in found}
    return {family: {chr(code) for code in TTFont(file).getBestCmap()} for family, file in files.items()}


def test_a_page_carries_the_glyphs_it_uses_and_no_others() -> None:
    html = page_fonts.embedded(PAGE.replace("{}", "蓝色 驾驶 aé 𠀀"))
    assert carried(html) == {"Noto Sans CJK SC": set("蓝色驶"), "Noto Sans CJK SC More": set("驾")}
    assert html.index("@font-face") < html.index("</style>"), "in the first style element"
    assert html.count("@font-face") == 2
    assert html == page_fonts.embedded(PAGE.replace("{}", "𠀀 驶驾 蓝色 aé")).replace(
        "𠀀 驶驾 蓝色 aé", "蓝色 驾驶 aé 𠀀"
    )


def test_a_page_without_chinese_stays_as_it_was() -> None:
    assert page_fonts.embedded(PAGE) == PAGE


def test_the_shipped_fonts_have_all_that_the_shipped_vertical_says() -> None:
    knowledge = (Path(in_car.__file__).parent / "knowledge.yaml").read_text("utf-8")
    assert set(re.findall(r"[\u4e00-\u9fff]", knowledge)) <= set().union(
        *carried(page_fonts.embedded(PAGE.replace("{}", knowledge))).values()
    )
