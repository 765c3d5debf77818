"""`data.local_only`: nothing leaves this machine, but for the hosts that the recipe names.

Checked twice. Before anything is sent every address of the endpoint's name must be allowed; and the address that a
connection really has is looked at again before the request goes out, since a name may lead elsewhere a moment later.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from open4ov.errors import UserError

DEFAULT_URL = "https://api.openai.com/v1"
"""Where the official client goes without a base_url"""


class Local:
    """This machine and the allowed hosts. `where` names the option of the recipe that an error is about."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._networks = [network for network in map(_network, hosts) if network is not None]
        self._names = {host.rstrip(".").casefold() for host in hosts if _network(host) is None}

    def check(self, url: str | None, where: str) -> None:
        """Raises UserError when the host of an address is not allowed, or cannot be resolved. Sends nothing to it."""
        host = urlsplit(url or DEFAULT_URL).hostname or ""
        if self.named(host):
            return
        try:
            found = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
        except (OSError, UnicodeError):
            raise UserError(
                f"{where}: data.local_only is set, and {host} cannot be resolved, so it is not known to be this machine"
            ) from None
        if not all(self.allows(address) for address in found):
            raise UserError(
                f"{where}: data.local_only is set, and {host} is not on this machine; use a local endpoint, or name "
                "the host under data.local_hosts"
            )

    def named(self, host: str) -> bool:
        """Whether the recipe lists the host by its name."""
        return host.rstrip(".").casefold() in self._names

    def allows(self, address: str) -> bool:
        """Whether a numeric address is one of this machine's, or in an allowed network."""
        number = ip_address(address.partition("%")[0])
        return any(number in network for network in self._networks) or _ours(address)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _ours(address: str) -> bool:
    """An address is this machine's when a socket can be bound to it."""
    if ip_address(address.partition("%")[0]).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
