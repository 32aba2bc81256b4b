"""A client's address: nobody chooses its own, and behind trusted proxies it is still found."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.client_address import TrustedProxies

NETWORKS = ("10.0.0.0/8", "2001:db8:1::/48", "192.0.2.7")
PROXIES = TrustedProxies(NETWORKS)


def is_trusted(address: str) -> bool:
    return any(ip_address(address) in ip_network(network) for network in NETWORKS)


def is_mapped(address: str) -> bool:
    return ip_address(address).version == 6 and address.startswith("::ffff:")


addresses = st.ip_addresses().map(str).filter(lambda address: not is_mapped(address))
untrusted = addresses.filter(lambda address: not is_trusted(address))
trusted = st.one_of(*(st.ip_addresses(network=network).map(str) for network in NETWORKS))
headers = st.one_of(st.text(), st.lists(st.one_of(addresses, trusted, st.text()), max_size=5).map(",".join))


@given(peer=untrusted, forwarded_for=headers)
def test_a_peer_that_is_no_trusted_proxy_has_its_own_address_whatever_it_sends(peer: str, forwarded_for: str) -> None:
    """X"""
    assert PROXIES.client_address(peer, forwarded_for) == peer
    assert TrustedProxies().client_address(peer, forwarded_for) == peer


@given(sent=headers, client=untrusted, proxies=st.lists(trusted, min_size=1, max_size=4))
def test_a_client_behind_trusted_proxies_has_its_own_address_whatever_it_sends(
    sent: str, client: str, proxies: list[str]
) -> None:
    """X: each proxy appends whom it speaks for, the first of them the client."""
    *behind, peer = proxies
    assert PROXIES.client_address(peer, ", ".join([sent, client, *behind])) == client


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "  203.0.113.5\t", "203.0.113.5"),
        ("192.0.2.7", "203.0.113.5", "203.0.113.5"),
        ("192.0.2.8", "203.0.113.5", "192.0.2.8"),
        ("10.0.0.1", "203.0.113.5, 10.0.0.2", "203.0.113.5"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.5", "203.0.113.5"),
        ("2001:db8:1::1", "2001:DB8:2:0::5", "2001:db8:2::5"),
        # A socket for IPv6 and IPv4.
        ("::ffff:10.0.0.1", "::ffff:203.0.113.5", "203.0.113.5"),
        # Only proxies: the farthest is asking on its own behalf.
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        # What is no address ends the walk at the proxy that wrote it.
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5, junk, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.5:4711", "10.0.0.1"),
        # No TCP.
        ("", "203.0.113.5", ""),
    ],
)
def test_the_header_is_read_from_the_right_as_far_as_it_is_trusted(peer: str, forwarded_for: str, address: str) -> None:
    assert PROXIES.client_address(peer, forwarded_for) == address


@pytest.mark.parametrize("network", ["*", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", ""])
def test_what_is_no_address_and_no_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError):
        TrustedProxies([network])
