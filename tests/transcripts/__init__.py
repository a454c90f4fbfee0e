"""What CLIs really said, line by line with what they were told: recorded once, played back without the program.

Record:  uv run python -m tests.transcripts FILE.jsonl COMMAND...    (then type or pipe in the lines; Ctrl-D ends it)
Each line is {"ch": "stdin" | "stdout", "data": TEXT}. Texts of no use to a test are cut by hand, logins never go in.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.transcripts import replay

FOLDER = Path(__file__).parent


def player(name: str) -> tuple[str, ...]:
    """A command line that behaves as the recorded program did."""
    return (sys.executable, "-I", replay.__file__, str(FOLDER / f"{name}.jsonl"))
