"""The pictures and texts that the shipped embedder is trained on, and what is kept out of them.

Pictures: Open Clip Art (public domain), Material Design Icons (Apache-2.0), Noto Color Emoji (OFL 1.1 / Apache-2.0) and
Twemoji (graphics CC-BY 4.0), with their names and keywords; emoji also in Chinese (emojibase-data, MIT; CLDR, Unicode
licence). Texts alone: WordNet 3.0. From Debian and npm, unpacked side by side:

    apt-get download openclipart-svg fonts-noto-color-emoji wordnet-base     # dpkg-deb -x each of them into FOLDER/deb
    npm pack @mdi/svg@7.4.47 @twemoji/svg@15.0.0 emojibase-data@17.0.0       # tar xzf each into FOLDER/NAME
    python -m bench.embedder_sources FOLDER                                  # renders (rsvg-convert), once

Kept out, so that no vertical is learned: the paths, words and icon names of `corpora/in_car/excluded.yaml`, emoji of
road signs, warnings and medicine, every picture whose text holds a name of the in-car vertical or a medical word, and
every picture within 32 of 512 bits of one of its symbols.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from open4ov.corpora import icons, in_car, shapes
from open4ov.corpora.in_car.render import glyph, sign
from open4ov.corpora.shapes_vendor import HASH_RADIUS, difference_hash

SIDE = 128
"""Pixels of a rendered drawing's longer side"""
LEFT_OUT = ("shapes/", "signs_and_symbols/", "special/", "transportation/", "science/medicine/", "computer/icons/",
            "computer/buttons/", "computer/diagrams/", "recreation/games/cards/", "geography/flags/",
            "geography/political/")  # fmt: skip
"""Folders of Open Clip Art: of a vertical, or of many like drawings that words hardly tell apart"""
EMOJI_LEFT_OUT = {"transport-sign", "warning", "medical", "country-flag", "subdivision-flag", "skin-tone", "keycap",
                  "alphanum", "regional-indicator"}  # fmt: skip
MEDICAL = (
    "hospital|ambulance|pill|pills|syringe|stethoscope|needle|doctor|nurse|bandage|medicine|medical|pharmacy|vaccine|"
    "first aid|skeleton|tooth|teeth|bone|x-ray|blood|health worker|sick|medication|microbe|bacteria|virus|thermometer|"
    "wheelchair|injury|injured|clinic|surgery|surgeon|dentist|lungs|anatomical heart"
)
DRIVING = (
    "road sign|roadsign|traffic|warning sign|stop sign|yield|speed limit|one way|fuel pump|gas station|petrol|"
    "headlight|headlamp|dashboard|tell-tale|railway crossing|pedestrian crossing|prohibited|no smoking|no parking|"
    "biohazard|radioactive|children crossing|construction sign|motorway|seat belt|hazard"
)


@dataclass(frozen=True)
class Drawing:
    """One picture: where it is from, its group (pictures of one group never lie in two splits), its texts by
    language (the first is its name, then keywords) and where it belongs (folder, tag or emoji group, in English)."""

    source: str
    id: str
    group: str
    en: tuple[str, ...]
    zh: tuple[str, ...]
    place: str

    @property
    def said(self) -> str:
        return "\n".join((*self.en, *self.zh, self.place))


@cache
def _forbidden() -> tuple[re.Pattern[str], frozenset[str]]:
    """What a text may not hold, and the words that such a thing begins with."""
    names = [*(name.casefold() for name in in_car.fragments("en")), *MEDICAL.split("|"), *DRIVING.split("|")]
    pattern = "|".join(re.escape(name) for name in names)
    return re.compile(rf"\b(?:{pattern})\b"), frozenset(re.findall(r"[a-z0-9]+", name)[0] for name in names)


def of_a_vertical(text: str) -> bool:
    """Whether a text holds a name of the in-car vertical, or a word of it or of the medical one."""
    plain = text.casefold()
    pattern, first = _forbidden()
    suspect = not first.isdisjoint(re.findall(r"[a-z0-9]+", plain))
    if suspect and (pattern.search(plain) or pattern.search(re.sub(r"[_\-]+", " ", plain))):
        return True
    return not text.isascii() and any(name in text for name in in_car.fragments("zh"))


@cache
def vertical_hashes() -> NDArray[np.bool_]:
    """Difference hashes [S, 512] of the in-car vertical's bare symbols."""
    return np.stack([difference_hash(_stencil(symbol)) for symbol in in_car.load()])


def _stencil(symbol: in_car.Symbol) -> Image.Image:
    if symbol.codepoint is not None:
        return glyph(symbol)
    drawing = sign(symbol)
    board = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    board.paste(drawing.convert("RGB"), ((SIDE - drawing.width) // 2, (SIDE - drawing.height) // 2), drawing)
    return board


def board(picture: Image.Image) -> Image.Image:
    """A drawing with transparency on grey, as the symbols are hashed."""
    ground = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    ground.paste(picture.convert("RGB"), ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2),
                 picture.getchannel("A"))  # fmt: skip
    return ground


def looks_like_a_vertical(picture: Image.Image) -> bool:
    """Whether a drawing lies within the radius of a symbol, on grey or as a white stencil on black."""
    white = Image.new("L", (SIDE, SIDE))
    white.paste(255, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2), picture.getchannel("A"))
    return any(
        bool(((vertical_hashes() != difference_hash(one)).sum(axis=1) <= HASH_RADIUS).any())
        for one in (board(picture), white)
    )


def drawings(folder: Path) -> Iterator[Drawing]:
    """All that may be trained on, by text; pictures that look like a vertical's are found when they are drawn."""
    for drawing in (*_openclipart(folder), *_icons(folder), *_emoji(folder)):
        if not of_a_vertical(drawing.said):
            yield drawing


def picture(drawing: Drawing, folder: Path) -> Image.Image | None:
    """The drawing as RGBA; an icon black. None where it could not be rendered."""
    if drawing.source == "mdi":
        mask = _glyph(int(shapes.shapes()[drawing.id]))
        image = Image.new("RGBA", mask.size)
        image.putalpha(mask)
        return image
    file = folder / "png" / drawing.source / f"{drawing.id}.png"
    if not file.is_file():
        return None
    image = Image.open(file).convert("RGBA")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def _openclipart(folder: Path) -> Iterator[Drawing]:
    root = _clipart(folder)
    excluded = in_car.excluded()
    for svg in sorted(root.rglob("*.svg")):
        path = svg.relative_to(root).as_posix()
        if path.startswith((*LEFT_OUT, *excluded["openclipart_prefixes"])):
            continue
        text = svg.read_text("utf-8", "replace")
        if "publicdomain" not in text.casefold():
            continue
        name = _file_name(svg.stem)
        title, keywords = _metadata(text)
        place = " ".join(part.replace("_", " ") for part in path.split("/")[:-1])
        if not name and not keywords:
            continue
        said = tuple(dict.fromkeys(part for part in (name, *keywords) if part))
        if any(re.search(rf"\b{word}\b", f"{path} {title}".casefold()) for word in excluded["openclipart_words"]):
            continue
        yield Drawing("openclipart", path.removesuffix(".svg"), f"oca/{'/'.join(path.split('/')[:-1])}/{name}", said,
                      (), place)  # fmt: skip


def _file_name(stem: str) -> str:
    """`fall_coloured_tree_geral_01` → its words; author and number go, as far as a rule can tell: what follows the
    first double gap, a number, or a cut word at the end."""
    words = [word for word in re.split(r"[_\W]+", stem.casefold()) if word]
    while words and (words[-1].isdigit() or len(words[-1]) == 1 or re.search(r"\d", words[-1])):
        words.pop()
    return " ".join(words[:3])


def _metadata(text: str) -> tuple[str, list[str]]:
    title = re.search(r"<dc:title[^>]*>([^<]*)", text)
    subject = re.search(r"<dc:subject>(.*?)</dc:subject>", text, re.S)
    keywords = re.findall(r"<rdf:li[^>]*>([^<]+)", subject[1]) if subject else []
    plain = [" ".join(re.split(r"[\s_]+", word.strip().casefold())) for word in keywords]
    useless = {"", "clipart", "clip art", "svg", "hash(0x8a89e60)", "icon", "image", "png", "unsorted", "color"}
    return (title[1].strip() if title else ""), [word for word in plain if word not in useless and "hash" not in word]


def _icons(folder: Path) -> Iterator[Drawing]:
    about = {row["name"]: row for row in json.loads((folder / "mdi/package/meta.json").read_text())}
    chinese = {symbol.mdi: (symbol.name, symbol.zh) for symbol in icons.symbols().values()}
    useless = {"Home Automation", "Alpha / Numeric", "Automotive", "Transportation + Road", "Medical / Hospital",
               "Health / Beauty", "Brand / Logo"}  # fmt: skip
    for name in shapes.shapes():
        row = about.get(name)
        if row is None or "Brand / Logo" in row["tags"] or "Alpha / Numeric" in row["tags"]:
            continue
        own = chinese.get(name)
        said = dict.fromkeys([*([own[0]] if own else []), name.replace("-", " "),
                              *(alias.replace("-", " ") for alias in row["aliases"])])  # fmt: skip
        tags = [tag.casefold() for tag in row["tags"] if tag not in useless]
        stem = re.sub(r"-(outline|box|circle|variant|off|plus|minus|remove|check|alert|multiple|\d+)\b.*", "", name)
        yield Drawing("mdi", name, f"mdi/{stem}", tuple(said), (own[1],) if own else (), " ".join(tags))


@cache
def _font() -> ImageFont.FreeTypeFont:
    file = io.BytesIO((icons.ASSETS / "mdi" / "materialdesignicons.ttf").read_bytes())
    return ImageFont.truetype(file, 112, layout_engine=ImageFont.Layout.BASIC)


def _glyph(code: int) -> Image.Image:
    canvas = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(canvas).text((SIDE // 2, SIDE // 2), chr(code), font=_font(), fill=255, anchor="mm")
    return canvas


def _emoji(folder: Path) -> Iterator[Drawing]:
    data = folder / "em/package"
    groups = json.loads((data / "meta/groups.json").read_text())
    chinese = {row["hexcode"]: row for row in json.loads((data / "zh/data.json").read_text())}
    for row in json.loads((data / "en/data.json").read_text()):
        if "subgroup" not in row:
            continue
        subgroup = groups["subgroups"][str(row["subgroup"])]
        if subgroup in EMOJI_LEFT_OUT:
            continue
        own = chinese.get(row["hexcode"], {})
        english = tuple(dict.fromkeys((row["label"], *row.get("tags", ()))))
        zh = tuple(dict.fromkeys((own["label"], *own.get("tags", ())))) if own else ()
        place = f"{groups['groups'][str(row['group'])]} {subgroup}".replace("-", " ")
        code = "-".join(part.lstrip("0") for part in row["hexcode"].casefold().split("-") if part != "fe0f")
        for source in ("twemoji", "noto"):
            yield Drawing(source, code, f"emoji/{row['hexcode']}", english, zh, place)


def wordnet(folder: Path) -> Iterator[tuple[str, str]]:
    """Pairs of texts that mean alike, from nouns, verbs and adjectives: a word and its synonym, its gloss, or its
    hypernyms' words. Texts of a vertical are left out."""
    root = folder / "deb/usr/share/wordnet"
    for part in ("noun", "verb", "adj"):
        words: dict[str, list[str]] = {}
        above: dict[str, list[str]] = {}
        glosses: dict[str, str] = {}
        for line in (root / f"data.{part}").read_text("ascii").splitlines():
            if line.startswith(" "):
                continue
            body, _, gloss = line.partition(" | ")
            fields = body.split()
            count = int(fields[3], 16)
            words[fields[0]] = [
                re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]
            ]
            rest = fields[4 + 2 * count :]
            pointers = rest[1 : 1 + 4 * int(rest[0])]
            above[fields[0]] = [pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")]
            glosses[fields[0]] = gloss.split(";")[0].strip()
        for offset, own in words.items():
            chain, at = [], offset
            while above.get(at) and len(chain) < 4:
                at = above[at][0]
                chain.append(words[at][0])
            pairs = [(own[0], glosses[offset])]
            pairs += [(own[0], other) for other in own[1:]]
            if chain:
                pairs.append((own[0], " ".join(chain)))
                pairs.append((own[-1], chain[0]))
            for one, other in pairs:
                if not of_a_vertical(f"{one}\n{other}"):
                    yield one, other


def render(folder: Path) -> None:
    """Draws what comes as SVG or as a colour font into FOLDER/png."""
    wanted = list(drawings(folder))
    jobs: list[tuple[Path, Path]] = []
    for drawing in wanted:
        out = folder / "png" / drawing.source / f"{drawing.id}.png"
        if drawing.source == "openclipart":
            jobs.append((_clipart(folder) / f"{drawing.id}.svg", out))
        elif drawing.source == "twemoji":
            jobs.append((folder / "tw/package" / f"{drawing.id}.svg", out))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: _rsvg(*job), jobs))
    _noto(folder, {drawing.id for drawing in wanted if drawing.source == "noto"})


def _rsvg(svg: Path, out: Path) -> None:
    if out.exists() or not svg.is_file():
        return
    try:
        done = subprocess.run(["rsvg-convert", "-w", "256", "-h", "256", "-a", str(svg)], capture_output=True,
                              timeout=60, check=True)  # fmt: skip
        image = Image.open(io.BytesIO(done.stdout)).convert("RGBA")
    except (OSError, subprocess.SubprocessError):  # broken, or endless: left out
        return
    box = image.getchannel("A").point([0] * 8 + [255] * 248).getbbox()
    if box is not None:
        image = image.crop(box)
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        out.parent.mkdir(parents=True, exist_ok=True)
        image.save(out)


def _noto(folder: Path, wanted: set[str]) -> None:
    """Single code points only: sequences would need shaping."""
    font = TTFont(folder / "deb/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    cmap = font.getBestCmap()
    strike = font["CBDT"].strikeData[0]
    out = folder / "png" / "noto"
    out.mkdir(parents=True, exist_ok=True)
    for code in sorted(wanted):
        if "-" not in code and int(code, 16) in cmap and cmap[int(code, 16)] in strike:
            (out / f"{code}.png").write_bytes(strike[cmap[int(code, 16)]].imageData)


def _clipart(folder: Path) -> Path:
    return next(path for path in (folder / "deb/usr/share/openclipart/svg", folder / "oca/usr/share/openclipart/svg")
                if path.is_dir())  # fmt: skip


def coloured(picture: Image.Image, icon: bool, seed: str) -> Image.Image:
    """A drawing on a ground, drawn by `seed`: an icon in a colour that stands out; sometimes mirrored."""
    rng = random.Random(seed)
    light = rng.random() < 0.6
    ground = tuple(rng.randint(200, 255) if light else rng.randint(0, 90) for _ in range(3))
    image = picture
    if icon:
        paint = tuple(rng.randint(0, 110) if light else rng.randint(150, 255) for _ in range(3))
        image = Image.new("RGBA", picture.size, paint)
        image.putalpha(picture.getchannel("A"))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = round(max(image.size) * rng.uniform(1.05, 1.6))
    whole = Image.new("RGB", (side, side), ground)
    place = tuple(rng.randint(0, side - length) for length in image.size)
    whole.paste(image.convert("RGB"), place, image.getchannel("A"))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    render(parser.parse_args().folder)


if __name__ == "__main__":
    main()
