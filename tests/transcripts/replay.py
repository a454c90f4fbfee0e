"""Plays a transcript: waits for a line wherever the recorded program got one, and says what that said.

Runs alone, on the standard library. A JSON-RPC line has to call the recorded method; it exits with 9 otherwise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(transcript: Path) -> None:
    for line in transcript.read_text().splitlines():
        entry = json.loads(line)
        if entry["ch"] == "stdout":
            sys.stdout.write(entry["data"] + "\n")
            sys.stdout.flush()
        elif entry["ch"] == "stdin":
            _expect(entry["data"], sys.stdin.readline())
    sys.stdin.read()


def _expect(recorded: str, came: str) -> None:
    if not came:
        sys.exit(0)
    wanted, got = (json.loads(text).get("method") for text in (recorded, came))
    if wanted != got:
        sys.stderr.write(f"the recorded program was told {wanted}, not {got}\n")
        sys.exit(9)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
