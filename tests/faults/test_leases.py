"""What a running turn holds is kept from running out, and is nobody's again the moment the turn is over."""

from __future__ import annotations

import asyncio

from chat.errors import StoreUnavailable
from chat.leases import Leases

LEASE_S = 0.03
BOUND_S = 5.0


async def test_turn_that_is_over_is_not_renewed_behind_another_that_takes_long() -> None:
    """Else the lock of a session would be taken again just after it was given back, for nobody."""
    leases, slow, go_on = Leases(lease_s=LEASE_S), asyncio.Event(), asyncio.Event()
    renewed: list[str] = []

    async def renew_slowly() -> None:
        slow.set()
        await go_on.wait()

    async def renew() -> None:
        renewed.append("over")

    leases.hold("slow", renew_slowly)
    leases.hold("over", renew)
    leases.start()
    async with asyncio.timeout(BOUND_S):
        await slow.wait()
        await leases.drop("over")
        before = len(renewed)
        go_on.set()
        slow.clear()
        await slow.wait()  # the next round
    await leases.stop()
    assert len(renewed) == before


async def test_turn_is_over_only_when_its_renewal_has_come_to_an_end() -> None:
    """Redis may take the two in the other order."""
    leases, begun, go_on = Leases(lease_s=LEASE_S), asyncio.Event(), asyncio.Event()

    async def renew() -> None:
        begun.set()
        await go_on.wait()

    leases.hold("turn", renew)
    leases.start()
    async with asyncio.timeout(BOUND_S):
        await begun.wait()
        dropping = asyncio.ensure_future(leases.drop("turn"))
        done, _ = await asyncio.wait({dropping}, timeout=2 * LEASE_S)
        assert not done
        go_on.set()
        await dropping
    await leases.stop()


async def test_store_that_is_away_ends_no_renewing() -> None:
    leases, tries, often = Leases(lease_s=LEASE_S), 0, asyncio.Event()

    async def renew() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            often.set()
        raise StoreUnavailable("away")

    leases.hold("turn", renew)
    leases.start()
    async with asyncio.timeout(BOUND_S):
        await often.wait()
    await leases.stop()
