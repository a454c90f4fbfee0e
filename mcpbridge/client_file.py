"""A client's configuration file: read, shown as it would be, and written so that nothing of it can get lost."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from datetime import datetime
from pathlib import Path

# How a diff shows what may be somebody's secret: values by their names, and keys in headers.
SECRET = re.compile(
    r'("[^"]*(?:key|token|secret|password|passwd|credential|authorization|cookie)[^"]*"\s*:\s*")((?:\\.|[^"\\])+)',
    re.IGNORECASE,
)
# `Bearer x` in a header, `--token=x` and `"--token", "x"` among arguments.
GIVEN = re.compile(
    r"((?:bearer|basic)\s+|--[\w-]*(?:key|token|secret|password)[\w-]*(?:=|\"\s*,\s*\"))([^\s\"$]+)", re.IGNORECASE
)
# One line about what changes is enough to find it; more would show what is none of this program's business.
CONTEXT_LINES = 1


class FileChanged(Exception):
    """Somebody else has written the file while its owner was asked."""


class ClientFile:
    """One file; `text` is empty where there is none yet. Raises OSError or UnicodeDecodeError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Where a link leads: it must go on being a link.
        self._target = path.resolve()
        self._content = self._read()
        self.text = self._content.decode()

    @property
    def exists(self) -> bool:
        return self._target.exists()

    def _read(self) -> bytes:
        return self._target.read_bytes() if self.exists else b""

    def diff(self, text: str) -> str:
        """What would change, with whatever looks like a secret left out."""
        old, new = (hide_secrets(it).splitlines(keepends=True) for it in (self.text, text))
        lines = difflib.unified_diff(old, new, str(self.path), f"{self.path} (new)", n=CONTEXT_LINES)
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

    def write(self, text: str, *, now: datetime) -> Path | None:
        """Replace the file as a whole; returns its backup, if there was anything to keep.

        Raises FileChanged, or OSError.
        """
        if self._read() != self._content:
            raise FileChanged(f"{self.path} has changed meanwhile")
        self._target.parent.mkdir(parents=True, exist_ok=True)
        backup = self._back_up(now)
        handle, name = tempfile.mkstemp(dir=self._target.parent, prefix=f".{self._target.name}.")
        draft = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode())
                os.fsync(file.fileno())
            if backup is not None:
                shutil.copymode(self._target, draft)
            draft.replace(self._target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return backup

    def _back_up(self, now: datetime) -> Path | None:
        if not self.exists:
            return None
        backup = self._target.with_name(f"{self._target.name}.{now:%Y%m%d-%H%M%S-%f}.bak")
        shutil.copy2(self._target, backup)
        return backup


def hide_secrets(text: str) -> str:
    """The text with every value left out that looks like a secret; references to variables stay."""
    named = SECRET.sub(lambda found: found[0] if "${" in found[2] else f"{found[1]}***", text)
    return GIVEN.sub(r"\1***", named)
