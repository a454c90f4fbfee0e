"""Whose address a request has: X-Forwarded-For counts from the owner's own proxies only."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from chat.addresses import address_of, client_address, neighbourhood

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
PROXY, STRANGER, CLIENT = "10.0.0.1", "203.0.113.9", "198.51.100.7"


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "found"),
    [
        (STRANGER, "", STRANGER),
        (STRANGER, CLIENT, STRANGER),
        (PROXY, "", PROXY),
        (PROXY, CLIENT, CLIENT),
        (PROXY, f"{CLIENT}, 10.0.0.2", CLIENT),
        (PROXY, f"1.2.3.4, {CLIENT}", CLIENT),
        (PROXY, f"1.2.3.4, {CLIENT}, 10.0.0.3 ,10.0.0.2", CLIENT),
        (PROXY, "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("fd00::1", "2001:db8::5", "2001:db8::5"),
    ],
)
def test_nearest_hop_that_is_no_trusted_proxy_is_the_client(peer: str, forwarded_for: str, found: str) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == found


def test_nobody_is_believed_where_no_proxy_is_named() -> None:
    assert client_address(PROXY, CLIENT, []) == PROXY


@pytest.mark.parametrize(
    "written",
    [CLIENT, f" {CLIENT} ", f"{CLIENT}:4711", f'"{CLIENT}"', f"::ffff:{CLIENT}", f"[::ffff:{CLIENT}]:80"],
)
def test_ipv4_address_is_read_however_a_proxy_writes_it(written: str) -> None:
    assert client_address(PROXY, written, PROXIES) == CLIENT


@pytest.mark.parametrize(
    "written", ["2001:db8::5", "[2001:db8::5]", "[2001:db8::5]:443", '"[2001:DB8:0::5]:443"', "2001:db8::5%eth0"]
)
def test_ipv6_address_is_read_however_a_proxy_writes_it(written: str) -> None:
    assert client_address(PROXY, written, PROXIES) == "2001:db8::5"


def test_proxy_on_a_dual_stack_socket_is_known_by_its_ipv4_address() -> None:
    assert client_address(f"::ffff:{PROXY}", CLIENT, PROXIES) == CLIENT


@pytest.mark.parametrize(
    "garbage",
    ["unknown", "_hidden", "1.2.3", "999.1.1.1", "a:b", "[", "", " , ", "\udcff", "\u0661.\u0661.\u0661.\u0661"],
)
def test_garbage_ends_the_search_at_the_proxy_that_passed_it_on(garbage: str) -> None:
    assert client_address(PROXY, garbage, PROXIES) == PROXY
    assert client_address(PROXY, f"{CLIENT},{garbage}", PROXIES) == PROXY
    assert client_address(PROXY, f"{garbage},{CLIENT}", PROXIES) == CLIENT


@pytest.mark.parametrize("peer", ["", "/run/hub.sock", "testclient"])
def test_peer_without_an_ip_address_is_nobodys_proxy(peer: str) -> None:
    assert client_address(peer, CLIENT, PROXIES) == peer


@given(st.text(), st.text())
def test_nothing_a_client_sends_makes_it_fail(peer: str, forwarded_for: str) -> None:
    client_address(peer, forwarded_for, PROXIES)
    client_address(PROXY, forwarded_for, PROXIES)
    neighbourhood(peer)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        (CLIENT, STRANGER, False),
        ("", "", True),
    ],
)
def test_ipv6_hosts_of_one_64_count_as_one_client(one: str, other: str, is_same: bool) -> None:
    assert (neighbourhood(one) == neighbourhood(other)) is is_same


@pytest.mark.parametrize("client", [None, [], ["", 0], [None, None]])
def test_connection_over_a_unix_socket_has_no_address(client: list[object] | None) -> None:
    assert address_of({"client": client, "headers": [(b"x-forwarded-for", CLIENT.encode())]}) == ""


def test_several_headers_are_one_list(settings: Settings) -> None:
    settings.HUB_TRUSTED_PROXIES = PROXIES
    headers = [(b"x-forwarded-for", CLIENT.encode()), (b"host", b"x"), (b"x-forwarded-for", b"10.0.0.2")]
    assert address_of({"client": [PROXY, 4711], "headers": headers}) == CLIENT
    assert address_of({"client": (STRANGER, 4711), "headers": headers}) == STRANGER
    assert address_of({}) == ""
