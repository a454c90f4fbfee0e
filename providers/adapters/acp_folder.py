"""What an agent writes into its worker's folders while it works, and that it is gone afterwards."""

from __future__ import annotations

import os
from pathlib import Path

# Time of the last change in nanoseconds, and size in bytes; both 0 for a folder.
Stamps = dict[Path, tuple[int, int]]


def stamps(root: Path) -> Stamps:
    """Everything below a folder; links are not followed."""
    found: Stamps = {}
    for where, folders, files in os.walk(root):
        found |= {Path(where, name): (0, 0) for name in folders}
        for name in files:
            state = Path(where, name).lstat()
            found[Path(where, name)] = (state.st_mtime_ns, state.st_size)
    return found


def restore(root: Path, before: Stamps) -> bool:
    """Remove what is new or changed since `before`; False if something of it is still there."""
    for path, stamp in sorted(stamps(root).items(), reverse=True):
        if before.get(path) == stamp:
            continue
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    now = stamps(root)
    return all(before.get(path) == stamp for path, stamp in now.items())
