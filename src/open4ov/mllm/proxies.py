"""Which proxy the environment names for an address, by the rules of the official client (those of httpx).

`HTTP_PROXY`, `HTTPS_PROXY` or `ALL_PROXY`, in small letters first; not for what `NO_PROXY` lists: `*`, addresses,
networks (`10.0.0.0/8`), `example.com` with all below it, `.example.com` for what is below it only; each with a port or
a scheme if wished.
"""

from __future__ import annotations

import urllib.request
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from open4ov.errors import UserError

_USUAL = {"http": 80, "https": 443}


def proxy_of(url: str, where: str) -> str | None:
    """The proxy for an address; None: it is asked directly. `where` names the option that the address is from.

    Raises UserError for a proxy of a kind that cannot be used.
    """
    proxies, address = urllib.request.getproxies(), urlsplit(url)
    if any(_left_out(entry.strip(), address) for entry in proxies.get("no", "").split(",")):
        return None
    found = proxies.get(address.scheme) or proxies.get("all")
    if not found:
        return None
    found = found if "://" in found else f"http://{found}"
    scheme = urlsplit(found).scheme
    if scheme not in ("http", "https"):
        raise UserError(
            f"{where}: the environment names a {scheme} proxy for it; give an http or https one in "
            f"{address.scheme.upper()}_PROXY, or list the host in NO_PROXY"
        )
    return found


def _left_out(entry: str, address: SplitResult) -> bool:
    if entry in ("", "*"):
        return entry == "*"
    scheme, separated, rest = entry.rpartition("://")
    if separated and scheme not in ("all", address.scheme):
        return False
    host = (address.hostname or "").casefold()
    if separated and not rest:
        return True
    network = _network(rest)
    if network is not None:
        return _within(host, network)
    try:
        parts = urlsplit(f"//{rest}")
        name, port = (parts.hostname or "").casefold(), parts.port
    except ValueError:
        return False  # as curl and Go do
    if parts.path or not name:
        return False
    if port is not None and port != (address.port or _USUAL.get(address.scheme)):
        return False
    if name == host:
        return True
    exact = name == "localhost" or _network(name) is not None or (separated and not name.startswith("*."))
    if exact:
        return False
    return host.endswith("." + name.removeprefix("*").removeprefix("."))


def _network(text: str) -> str | None:
    plain = text.removeprefix("[").removesuffix("]")
    try:
        ip_network(plain, strict=False)
    except ValueError:
        return None
    return plain


def _within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:  # a name; names are not looked up for this
        return False
