"""The private folders of workers, and what a killed hub left behind.

Every worker gets `<root>/<random>/` with its working directory, TMPDIR and state, all 0700. A `pid` file names the
process, so that the next hub can end what the parent-death signal did not reach (other systems than Linux).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path

import psutil

from providers.adapters.base import WorkerFolder

logger = logging.getLogger(__name__)

# A start time is told from the time of the boot, which a corrected clock moves a little.
SAME_START_S = 2.0
GUEST = "guest-"


def make_folder(root: Path) -> WorkerFolder:
    """New empty folders for one worker below `root`. Raises OSError, for example when the disk is full."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = WorkerFolder(Path(tempfile.mkdtemp(dir=root)))
    try:
        for path in (folder.cwd, folder.tmp, folder.state):
            path.mkdir(mode=0o700)
    except OSError:
        remove_folder(folder)
        raise
    return folder


def remember_process(folder: WorkerFolder, pid: int) -> None:
    """Note which process lives in a folder; its start time tells it from a later process with the same pid."""
    with contextlib.suppress(psutil.NoSuchProcess):
        (folder.root / "pid").write_text(f"{pid} {psutil.Process(pid).create_time()}")


def remove_folder(folder: WorkerFolder) -> None:
    shutil.rmtree(folder.root, ignore_errors=True)


def sweep_leftovers(root: Path) -> int:
    """End the processes and remove the folders of a hub that was killed; returns how many folders there were.

    Only to be called while this hub holds the data folder's lock: no living hub's workers are here then.
    """
    leftovers = [path for path in root.glob("*") if path.is_dir()]
    for path in leftovers:
        _end_leftover_process(path / "pid")
        shutil.rmtree(path, ignore_errors=True)
    return len(leftovers)


def guest_folder(run: Path) -> Path:
    """Where a process keeps its workers that is not the data folder's hub."""
    return run / f"{GUEST}{os.getpid()}"


def leave_folder(root: Path) -> None:
    """Remove a guest's folder once its workers are gone; the hub's own stays for the next one."""
    if root.name.startswith(GUEST):
        shutil.rmtree(root, ignore_errors=True)


def sweep_guests(run: Path) -> int:
    """End and remove what guests left that were killed; returns how many workers' folders there were."""
    count = 0
    for root in run.glob(f"{GUEST}*"):
        pid = root.name.removeprefix(GUEST)
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            count += sweep_leftovers(root)
            leave_folder(root)
    return count


def _end_leftover_process(pid_file: Path) -> None:
    try:
        pid_text, started_text = pid_file.read_text().split()
        process = psutil.Process(int(pid_text))
        is_same = abs(process.create_time() - float(started_text)) < SAME_START_S
    except (OSError, ValueError, psutil.Error):
        return
    if is_same:
        logger.warning("ending process %d, left behind by a killed hub", process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
