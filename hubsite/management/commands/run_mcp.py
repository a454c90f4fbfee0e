from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from hubsite.stdio import main


class Command(BaseCommand):
    """manage.py answers `run_mcp` before Django is loaded; this is for its list of commands, and for call_command."""

    help = "Serve MCP on standard input and output, by the running hub or by an engine of its own."
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        sys.exit(main())

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(main())
