"""Writes PDF files whose figures, captions and text are known: what the tests compare the reader with."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

LETTER = (612.0, 792.0)
Box = tuple[float, float, float, float]


class Sheet:
    """One page; positions are points from its top left corner."""

    def __init__(self, size: tuple[float, float] = LETTER, rotate: int = 0) -> None:
        self.size, self.rotate = size, rotate
        self.content: list[str] = []
        self.images: list[Image.Image] = []

    def text(self, x: float, y: float, words: str, size: float = 10, bold: bool = False) -> float:
        """A line with its baseline at y + size; gives the y of the next. Chinese goes through Adobe's GB1 names."""
        chinese = any(ord(letter) > 255 for letter in words)
        font = "F3" if chinese else "F2" if bold else "F1"
        data = words.encode("utf-16-be" if chinese else "cp1252").hex()
        self.content.append(f"BT /{font} {size} Tf {x} {self.size[1] - y - size} Td <{data}> Tj ET")
        return y + 1.25 * size

    def paragraph(self, x: float, y: float, lines: Sequence[str], size: float = 10) -> float:
        for line in lines:
            y = self.text(x, y, line, size)
        return y + size

    def image(self, box: Box, picture: Image.Image) -> None:
        left, top, right, bottom = box
        name = f"I{len(self.images)}"
        self.images.append(picture)
        place = f"{right - left} 0 0 {bottom - top} {left} {self.size[1] - bottom}"
        self.content.append(f"q {place} cm /{name} Do Q")

    def plot(self, box: Box) -> None:
        """Two axes and a curve, in strokes."""
        left, top, right, bottom = box
        high, low = self.size[1] - top, self.size[1] - bottom
        wide = right - left
        curve = f"{left} {low} m {left + wide / 3} {high} {right - wide / 3} {low} {right} {high} c S"
        self.content.append(f"{left} {low} m {right} {low} l S {left} {low} m {left} {high} l S {curve}")
        self.content.append(f"{left} {low} m {right} {high} l S")

    def rule(self, x: float, y: float, width: float) -> None:
        self.content.append(f"{x} {self.size[1] - y} m {x + width} {self.size[1] - y} l S")

    def frame(self, box: Box, fill: bool = False) -> None:
        left, top, right, bottom = box
        paint = "0.9 g f 0 g" if fill else "S"
        self.content.append(f"{left} {self.size[1] - bottom} {right - left} {bottom - top} re {paint}")


def photo(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A picture like no other seed's."""
    image = Image.new("RGB", size, ((seed * 67) % 200, (seed * 131) % 200, (seed * 29) % 200))
    draw = ImageDraw.Draw(image)
    for i in range(4):
        draw.ellipse(
            [i * 25, (seed * 13 + i * 20) % 60, i * 25 + 30, (seed * 13 + i * 20) % 60 + 30], fill=(250, 40 * i, 90)
        )
    return image


def save(path: Path, sheets: Sequence[Sheet], encrypted: bool = False) -> Path:
    """Writes the pages; `encrypted`: so that it needs a password nobody knows."""
    objects: list[bytes] = []

    def add(body: bytes) -> int:
        objects.append(body)
        return len(objects)

    def stream(dictionary: str, data: bytes) -> int:
        packed = zlib.compress(data)
        head = f"<< {dictionary} /Filter /FlateDecode /Length {len(packed)} >>\nstream\n".encode()
        return add(head + packed + b"\nendstream")

    add(b"<< /Type /Catalog /Pages 2 0 R >>")
    add(b"")  # the page tree, when its pages are known
    fonts = [
        add(f"<< /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >>".encode())
        for name in ("Helvetica", "Helvetica-Bold")
    ]
    add(
        b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /DW 1000 /CIDSystemInfo "
        b"<< /Registry (Adobe) /Ordering (GB1) /Supplement 2 >> /FontDescriptor << /Type /FontDescriptor /FontName "
        b"/STSong-Light /Flags 6 /FontBBox [-25 -254 1000 880] /ItalicAngle 0 /Ascent 880 /Descent -120 /CapHeight 880 "
        b"/StemV 93 >> >>"
    )
    chinese = f"/BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [{len(objects)} 0 R]"
    fonts.append(add(f"<< /Type /Font /Subtype /Type0 {chinese} >>".encode()))
    pages: list[int] = []
    for sheet in sheets:
        names = []
        for at, picture in enumerate(sheet.images):
            head = f"/Type /XObject /Subtype /Image /Width {picture.width} /Height {picture.height}"
            number = stream(f"{head} /ColorSpace /DeviceRGB /BitsPerComponent 8", picture.convert("RGB").tobytes())
            names.append(f"/I{at} {number} 0 R")
        content = stream("", "\n".join(sheet.content).encode())
        font = " ".join(f"/F{i + 1} {number} 0 R" for i, number in enumerate(fonts))
        box = f"/MediaBox [0 0 {sheet.size[0]} {sheet.size[1]}] /Rotate {sheet.rotate}"
        pages.append(
            add(
                f"<< /Type /Page /Parent 2 0 R {box} /Contents {content} 0 R"
                f" /Resources << /Font << {font} >> /XObject << {' '.join(names)} >> >> >>".encode()
            )
        )
    kids = " ".join(f"{number} 0 R" for number in pages)
    objects[1] = f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode()
    trailer = "/Root 1 0 R"
    if encrypted:
        word = "5a" * 32
        number = add(f"<< /Filter /Standard /V 1 /R 2 /O <{word}> /U <{word}> /P -44 >>".encode())
        trailer += f" /Encrypt {number} 0 R /ID [<{'11' * 16}> <{'11' * 16}>]"
    out = io.BytesIO()
    out.write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n".encode() + body + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write(b"".join(f"{place:010d} 00000 n \n".encode() for place in places))
    out.write(f"trailer\n<< /Size {len(objects) + 1} {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode())
    path.write_bytes(out.getvalue())
    return path
