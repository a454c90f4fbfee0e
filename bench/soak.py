"""A mixed load on two hubs behind nginx while one thing after the other fails: who is not answered as he should be?"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from bench.command import Command, Part, Setup, Sizes
from bench.report import Gate, Section, progress
from bench.soak_faults import Site, running_site
from bench.soak_load import REQUEST_TIMEOUT_S, Caller, Tally

MOST_FAULTS = 0.1  # per cent
CALM_S = 4.0  # of undisturbed load around every fault
SHOWN_FAULTS = 10
VENDOR_CALLERS = 2


async def measure_soak(setup: Setup) -> list[Section]:
    """So many rounds of every fault, each under load."""
    with running_site(setup) as site:
        tally, took_s = await _soak(site, setup.sizes.rounds, setup.sizes.count)
    return [_section(tally, took_s, setup.sizes.rounds)]


async def _soak(site: Site, rounds: int, callers: int) -> tuple[Tally, float]:
    tally, ended, began = Tally(), asyncio.Event(), time.monotonic()
    async with aiohttp.ClientSession(
        site.url,
        headers={"Authorization": f"Bearer {site.key}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
    ) as client:
        everybody = [
            Caller(client, tally, ended, asks_vendor=site.has_vendor and number < VENDOR_CALLERS)
            for number in range(callers)
        ]
        async with asyncio.TaskGroup() as tasks:
            for number, caller in enumerate(everybody):
                tasks.create_task(caller.run(), name=f"caller {number}")
            try:
                await _disturb(site, tally, rounds)
            finally:
                ended.set()
    return tally, time.monotonic() - began


async def _disturb(site: Site, tally: Tally, rounds: int) -> None:
    await asyncio.sleep(CALM_S)
    for number in range(1, rounds + 1):
        for name, fault in site.faults():
            before = tally.total("fault")
            await asyncio.to_thread(fault)
            await asyncio.sleep(CALM_S)
            faults = tally.total("fault") - before
            progress(f"soak: round {number} of {rounds}, {name}: {faults} faults, {tally.total()} requests so far")


def _section(tally: Tally, took_s: float, rounds: int) -> Section:
    kinds = sorted({kind for kind, _ in tally.verdicts})
    verdicts = ("right", "told", "fault")
    rows = [[kind, *(str(tally.verdicts[kind, it]) for it in verdicts)] for kind in kinds]
    rows.append(["all", *(str(tally.total(it)) for it in verdicts)])
    retried = ", ".join(f"{number} x {detail}" for detail, number in tally.firsts.most_common(8)) or "none"
    faults = "".join(f"\n  {fault}" for fault in tally.faults[:SHOWN_FAULTS])
    return Section(
        title=f"soak: {rounds} rounds of faults in {took_s:.0f} s, two hubs behind nginx",
        head=["", *verdicts],
        rows=rows,
        note=f"First tries that were not right: {retried}.{faults and f' Faults:{faults}'}",
        gates=[
            Gate.at_most("soak: not answered as it should be, by the hub", 100 * tally.fault_share, MOST_FAULTS, " %")
        ],
        data={"firsts": dict(tally.firsts), "faults": tally.faults, "took_s": took_s},
    )


# A round takes about a minute.
SOAK = Command(
    name="soak",
    help="a mixed load while workers, Redis, the database, the vendor and the hubs fail: the share of faults",
    parts=(Part("soak", measure_soak),),
    full=Sizes(rounds=30, count=16),
    quick=Sizes(rounds=1, count=16),
)
