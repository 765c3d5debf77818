"""Pages of one file that only run their own script and style, and load nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re


def headers(html: str, images: str, fonts: str = "'none'") -> dict[str, str]:
    """What a browser is told of such a page. `images`, `fonts`: the sources that they may have (`blob:`, `'self'`)."""
    policy = (
        f"default-src 'none'; script-src {_hashes(html, 'script')}; style-src {_hashes(html, 'style')}; "
        f"img-src {images}; font-src {fonts}; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def _hashes(html: str, tag: str) -> str:
    """What allows the page's own inline elements of this kind."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
