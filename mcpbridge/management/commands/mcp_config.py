from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from mcpbridge.client_file import ClientFile, FileChanged
from mcpbridge.clients import CLIENTS, N8N, NAMES, Block, Client, Hub, Machine, claude_mcp_add, n8n_fields
from mcpbridge.merging import CannotMerge, merge

MAKE_KEY = "uv run manage.py create_key {name}"
# Read by the engine that run_mcp brings where no hub runs. They may hold passwords, so no client's file gets them.
STORES = ("REDIS_URL", "DATABASE_URL")


class Command(BaseCommand):
    help = "Print what an MCP client needs to reach this hub, ready to paste, or write it into the client's own file."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("client", choices=NAMES)
        parser.add_argument("--http", action="store_true", help="by URL and key instead of a command")
        parser.add_argument("--url", type=hub_url, help="a hub that is not the one on this machine's port 8000")
        parser.add_argument("--key", help="put this key in (default: the client's own variable for it, or a gap)")
        parser.add_argument("--write", action="store_true", help="merge it into the client's own file")
        parser.add_argument("--yes", action="store_true", help="with --write: don't ask")
        parser.add_argument("--file", type=Path, help="with --write: this file instead of the client's usual one")

    def handle(self, *args: Any, client: str, write: bool, **options: Any) -> None:
        _refuse_nonsense(client, write, options)
        hub = this_hub(options["url"] or "", options["key"] or "")
        if client == N8N:
            self.stdout.write(n8n_fields(hub))
            self._hint(*_n8n_hints(hub))
            return
        known = CLIENTS[client]
        block = known.by_url(hub) if options["http"] else known.by_command(hub)
        if write:
            self._write(known, block, options["file"] or known.place(this_machine()), is_agreed=options["yes"])
        else:
            self.stdout.write(json.dumps(block, indent=2, ensure_ascii=False))
            self._hint(f"Goes into {options['file'] or known.place(this_machine())}; --write puts it there.")
        self._hint(*_hints(client, known, block, hub))

    def _write(self, client: Client, block: Block, path: Path, *, is_agreed: bool) -> None:
        file, text = _merged(path, block)
        if file.exists and text == file.text:
            self._hint(f"{path} has this already; nothing was written.")
            return
        self._hint(file.diff(text))
        if not (is_agreed or self._agrees(path)):
            raise CommandError("nothing was written")
        try:
            backup = file.write(text, now=timezone.now())
        except (FileChanged, OSError) as error:
            raise CommandError(f"nothing was written: {error}") from error
        kept = f"; the former one is kept as {backup}" if backup is not None else ""
        self._hint(f"Wrote {path}{kept}.", client.then)

    def _agrees(self, path: Path) -> bool:
        if not sys.stdin.isatty():
            raise CommandError("nobody can be asked here; look at the change above, and give --yes to make it")
        self.stderr.write(f"Write this to {path}? [y/N] ", ending="")
        self.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def _hint(self, *lines: str) -> None:
        """To stderr: stdout is the block alone, so that it can be piped."""
        for line in filter(None, lines):
            self.stderr.write(line, str)  # in no colour: it is no error


def hub_url(text: str) -> str:
    """The address of a hub as people write it, with or without the path of the MCP door."""
    url = text.strip().rstrip("/").removesuffix("/mcp").rstrip("/")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good or not url.isascii() or any(mark in url for mark in " @?#"):
        raise argparse.ArgumentTypeError("that is no address of a hub, such as http://127.0.0.1:8000")
    return url


def this_hub(url: str, key: str) -> Hub:
    """This checkout. Of the environment only the data folder goes along, which a client could not know of."""
    env = {"HUB_DATA_DIR": str(settings.HUB_DATA_DIR)} if os.environ.get("HUB_DATA_DIR", "").strip() else {}
    return Hub(sys.executable, (str(settings.BASE_DIR / "manage.py"), "run_mcp"), env, url, key)


def this_machine() -> Machine:
    return Machine(sys.platform, Path.home(), Path.cwd(), os.environ)


def _refuse_nonsense(client: str, write: bool, options: dict[str, Any]) -> None:
    """Raises CommandError."""
    if client == N8N and write:
        raise CommandError("n8n has no file for this: fill the printed fields into its node")
    if options["http"] and client in CLIENTS and not CLIENTS[client].takes_url:
        raise CommandError(
            f"{CLIENTS[client].title} takes no URL in its file: leave --http out, or make a bundle for it "
            "(uv run manage.py build_mcpb)"
        )
    if not write and options["yes"]:
        raise CommandError("--yes goes with --write")


def _merged(path: Path, block: Block) -> tuple[ClientFile, str]:
    """Raises CommandError."""
    try:
        file = ClientFile(path)
        return file, merge(file.text, block)
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} can't be used: it is no UTF-8") from error
    except OSError as error:
        raise CommandError(f"{path} can't be used: {error.strerror}") from error
    except CannotMerge as error:
        raise CommandError(f"{path} can't be used: {error}") from error


def _hints(name: str, client: Client, block: Block, hub: Hub) -> list[str]:
    hints = []
    if not hub.key and client.key in json.dumps(block):
        hints.append(_key_hint(client, name))
    if name == "claude-code":
        hints.append(f"Or let Claude Code write it:\n{claude_mcp_add(block)}")
    if lost := [it for it in STORES if os.environ.get(it)]:
        hints.append(f"{' and '.join(lost)} won't be seen by {client.title}: put what is set here into .env.")
    return hints


def _key_hint(client: Client, name: str) -> str:
    made = MAKE_KEY.format(name=name)
    if client.inputs:
        return f"{client.title} asks for the key once; make one by: {made}"
    if client.key.startswith("$"):
        return f"{client.title} takes the key from HUB_API_KEY where it is started: export HUB_API_KEY=$({made})"
    return f"Put a key in place of {client.key}; make one by: {made}"


def _n8n_hints(hub: Hub) -> list[str]:
    made = "" if hub.key else f"Make the key by: {MAKE_KEY.format(name='n8n')}"
    return [
        made,
        "n8n in Docker does not reach this machine by 127.0.0.1: docs/mcp.md says what to do.",
    ]
