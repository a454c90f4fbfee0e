"""The echo child without a hub, asked over its pipe: what is left of an answer's time when the hub is taken away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import orjson

from providers.adapters import echo_child


class BareChild:
    """One echo child, while entered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> BareChild:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", echo_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder,
            env={"LANG": "C.UTF-8"},
        )
        self._line()
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, text: str) -> float:
        """Seconds from the question to the end of its answer."""
        question = orjson.dumps({"ask": text, "chunks": 1, "delay_s": 0, "do": "none"})
        assert self._process.stdin is not None
        began = time.monotonic()
        os.write(self._process.stdin.fileno(), question + b"\n")
        while b'"end"' not in self._line():
            pass
        return time.monotonic() - began

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the bare echo child ended")
        return line
