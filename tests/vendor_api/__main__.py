"""Run the stand-in vendors by hand: `python -m tests.vendor_api --port 8199`."""

import argparse
import asyncio
import signal

from tests.vendor_api.script import BadScript, Script, directive, merge
from tests.vendor_api.server import VendorApi


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.vendor_api", description=__doc__)
    parser.add_argument("--port", type=int, default=8199, help="0 takes a free one")
    parser.add_argument("--script", default="", help='how to answer by default, e.g. "chunks=20 delay=0.05"')
    options = parser.parse_args()
    try:
        script = merge(Script(), directive(f"[[{options.script}]]"))
    except BadScript as exc:
        parser.error(str(exc))
    asyncio.run(_serve(options.port, script))


async def _serve(port: int, script: Script) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stopped.set)
    async with VendorApi(port=port, script=script) as vendor:
        # Another process that starts this one with --port 0 reads the address here.
        print(vendor.url, flush=True)
        await stopped.wait()


if __name__ == "__main__":
    main()
