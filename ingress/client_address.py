"""Which address a client has, where proxies stand between it and us."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


class TrustedProxies:
    """Proxies that are believed when they say for whom they speak: addresses, and networks as CIDR.

    Raises:
        ValueError: one of them is neither.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(ip_network(network) for network in networks)

    def client_address(self, peer: str, forwarded_for: str) -> str:
        """The address of whoever is behind `peer`, the other end of the connection, by its X-Forwarded-For.

        Each proxy appends the address that it speaks for. So the header is read from the right and only as far as
        trusted proxies wrote it; what is left of that, the client may have made up. Where an entry is no address, the
        proxy that wrote it is as far as anybody knows.
        """
        address = _parsed(peer)
        if address is None:
            return peer
        entries = forwarded_for.split(",")
        while entries and self._trusts(address) and (behind := _parsed(entries.pop())) is not None:
            address = behind
        return str(address)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    # A socket for both versions names an IPv4 peer ::ffff:192.0.2.1; it is the same client.
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
