from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mcpbridge.bundle import build_bundle

NAME = "llm-mcp-hub.mcpb"


class Command(BaseCommand):
    help = "Make the bundle that Claude Desktop installs by a double-click, to reach a hub by its address and a key."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--output", type=Path, help=f"the file to write (default: {NAME} in the folder dist)")

    def handle(self, *args: Any, output: Path | None, **options: Any) -> None:
        path = output or settings.BASE_DIR / "dist" / NAME
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(build_bundle(settings.VERSION))
        except OSError as error:
            raise CommandError(f"{path} can't be written: {error.strerror}") from error
        # The path alone goes to stdout, for scripts.
        self.stdout.write(str(path))
        self.stderr.write(
            "Open it with Claude Desktop. It asks for a key: uv run manage.py create_key claude-desktop", str
        )
