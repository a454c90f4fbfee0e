"""One hub per data folder: two would each start CLIs and sweep away the other's workers."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class DataFolderTaken(Exception):
    """Another hub runs on this data folder."""


class DataFolderLock:
    """An advisory lock the kernel lets go of when the process ends, however it ends."""

    def __init__(self, data_folder: Path) -> None:
        self._path = data_folder / "hub.lock"
        self._handle: int | None = None

    def take(self) -> None:
        """Raises DataFolderTaken."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            message = (
                f"another hub (process {holder}) runs on {self._path.parent}; one process owns the CLIs of a data "
                "folder, so run it with a single server process or set another HUB_DATA_DIR"
            )
            raise DataFolderTaken(message) from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        self._handle = handle

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
