"""Records a CLI that speaks in lines: see the package."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO


def record(transcript: Path, command: list[str]) -> int:
    """Run a command between this terminal and a transcript; its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin is not None
    assert process.stdout is not None
    with transcript.open("a") as lines:
        reader = threading.Thread(target=_copy, args=(process.stdout, sys.stdout, lines, "stdout"))
        reader.start()
        _copy(sys.stdin, process.stdin, lines, "stdin")
        process.stdin.close()
        reader.join()
    return process.wait()


def _copy(source: IO[str], target: IO[str], lines: IO[str], channel: str) -> None:
    for line in source:
        lines.write(json.dumps({"ch": channel, "data": line.rstrip("\n")}) + "\n")
        lines.flush()
        target.write(line)
        target.flush()


if __name__ == "__main__":
    sys.exit(record(Path(sys.argv[1]), sys.argv[2:]))
