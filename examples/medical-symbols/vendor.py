"""Takes this example's drawings out of the npm package: `npm pack healthicons@2.0.0`, then

    python examples/medical-symbols/vendor.py healthicons-2.0.0.tgz

The package has every symbol as PNG already (96 pixels, filled and outline), so nothing is rasterised. A maintainer runs
this after editing symbols.yaml; users never need it, since the drawings lie in icons/.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import yaml
from PIL import Image

HERE = Path(__file__).parent
SHA256 = "7d29cfc4ffb495319c27b34c9ac96ddc9781c7b3dc3b96eef3d34fe4d3ef9f03"
"""Of healthicons-2.0.0.tgz"""
STYLES = ("filled", "outline")


def main(tarball: Path) -> None:
    """Writes icons/STYLE/NAME.png (opacity as grey, 96 x 96) and LICENSE."""
    data = tarball.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise SystemExit(f"{tarball}: is not healthicons 2.0.0 as this example knows it (SHA-256 {found})")
    symbols = yaml.safe_load((HERE / "symbols.yaml").read_text(encoding="utf-8"))["symbols"]
    with tarfile.open(fileobj=io.BytesIO(data)) as package:
        for symbol in symbols:
            for style in STYLES:
                member = package.extractfile(f"package/public/icons/png/{style}/{symbol['icon']}@2x.png")
                assert member is not None
                with Image.open(io.BytesIO(member.read())) as image:
                    opacity = image.convert("RGBA").getchannel("A")
                target = HERE / "icons" / style / f"{Path(symbol['icon']).name}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                opacity.save(target, optimize=True)
        licence = package.extractfile("package/LICENSE")
        assert licence is not None
        (HERE / "LICENSE").write_bytes(licence.read())
    print(f"{len(symbols)} symbols, {sum(p.stat().st_size for p in (HERE / 'icons').rglob('*.png'))} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
