#!/usr/bin/env python
"""Django's command line; `manage.py hub` runs the product."""

import os
import sys


def main() -> None:
    if sys.argv[1:2] == ["run_mcp"]:
        # Not as a command of Django's: a bridge to the running hub is there before Django would be.
        from hubsite.stdio import main as run_mcp

        sys.exit(run_mcp())
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hubsite.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
