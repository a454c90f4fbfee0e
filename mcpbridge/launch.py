"""`run_mcp` decides: a bridge to the hub that runs, or the hub's engine in this very process.

Nothing but the standard library is imported on the way to the bridge: a client gives it half a second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mcpbridge.discovery import has_discovery, is_key, read_discovery
from mcpbridge.hub_client import START_IT, Target, is_up

PROBE_S = 1.0
MODES = ("auto", "bridge", "embedded")
# What any command of manage.py takes, and this one has no use for.
DJANGO_VALUES = ("--settings", "--pythonpath")
DJANGO_FLAGS = ("--traceback", "--no-color", "--force-color", "--skip-checks")
# `chat` returns what there is after so many seconds; the hub lets each client choose.
SOFT_DEADLINE, SOFT_DEADLINE_HEADER = "HUB_MCP_SOFT_DEADLINE_S", "X-Hub-Soft-Deadline"


class BadSetting(Exception):
    """A value in the environment that can't be used; the message says which and does not quote it."""


def main(argv: Sequence[str], *, folder: Path, environ: Mapping[str, str], embed: Callable[[str], int]) -> int:
    """Serve MCP on standard input and output; returns the exit code, or ends the process itself.

    `folder` is the data folder, `embed` serves without a hub and takes the caller's key, empty for the machine's own.
    """
    mode = _parse(argv)
    try:
        finder = Finder.from_environ(environ, folder=folder)
    except BadSetting as error:
        return _fail(str(error))
    if mode == "embedded" or (mode == "auto" and not finder.url and not _is_served(finder)):
        return embed(finder.key)
    if not finder.url and not has_discovery(folder):
        return _fail(f"there is no hub to bridge to: {START_IT}, or set HUB_URL")
    from mcpbridge.pipes import bridge

    bridge(finder)


@dataclass(frozen=True, slots=True)
class Finder:
    """Where the hub is at this moment: the one of HUB_URL, else the one that runs on the data folder."""

    folder: Path
    url: str
    key: str
    headers: Mapping[str, str]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, folder: Path) -> Finder:
        """Raises BadSetting."""
        key = environ.get("HUB_API_KEY", "").strip()
        if not is_key(key):
            raise BadSetting("HUB_API_KEY holds a character that no key has")
        deadline = environ.get(SOFT_DEADLINE, "").strip()
        headers = {SOFT_DEADLINE_HEADER: deadline} if _is_number(deadline) else {}
        return cls(folder, _base(environ.get("HUB_URL", "")), key, headers)

    def __call__(self) -> Target | None:
        hub = read_discovery(self.folder)
        found = _found_url(hub.url) if hub is not None else ""
        url = self.url or found
        if not url:
            return None
        # The machine's key is for the machine's hub, never for whatever else HUB_URL names.
        known = hub.key if hub is not None and found == url else ""
        return Target(url, self.key or known, self.headers)


def _parse(argv: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(
        prog="manage.py run_mcp", description="Serve MCP on standard input and output, for clients that start it."
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="auto",
        help="bridge: to the running hub; embedded: with an engine of its own; auto: a bridge if a hub runs (default)",
    )
    parser.add_argument("-v", "--verbosity", help=argparse.SUPPRESS)
    for name in DJANGO_VALUES:
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in DJANGO_FLAGS:
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    return str(parser.parse_args(argv).mode)


def _is_served(finder: Finder) -> bool:
    target = finder()
    return target is not None and is_up(target, within_s=PROBE_S)


def _base(url: str) -> str:
    """The hub's address without the path of MCP, empty for none. Raises BadSetting."""
    url = url.strip().rstrip("/").removesuffix("/mcp").rstrip("/")
    if url and not _is_usable(url):
        raise BadSetting("HUB_URL can't be used: it should look like http://127.0.0.1:8000")
    return url


def _found_url(url: str) -> str:
    try:
        return _base(url)
    except BadSetting:
        return ""


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    is_plain = url.isascii() and url.isprintable() and not any(mark in url for mark in " @?#")
    return is_plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fail(reason: str) -> int:
    sys.stderr.write(f"run_mcp: {reason}\n")
    return 1
