"""What is pinned: a folder beside this file per CLI, each with npm's manifest and lock and perhaps a wheel's hashes.

Moving to another version: write it into `package.json`, run `npm install --package-lock-only` with
`--omit-lockfile-registry-resolved` (so that a company's own registry can serve the lock), and put the hashes of the
wheel that holds the same program into `requirements.txt`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Pin:
    """One CLI as this hub ships it.

    `programs` are glob patterns below the installed folder, the first that matches counts. `engines` are the oldest
    major versions of `node` and `npm` that will do.
    """

    name: str
    version: str
    folder: Path
    programs: tuple[str, ...]
    engines: Mapping[str, int]


def names() -> tuple[str, ...]:
    """The CLIs that can be installed."""
    return tuple(sorted(path.parent.name for path in PINS.glob("*/package.json")))


def read_pin(name: str) -> Pin:
    """What is pinned for one of `names()`."""
    folder = PINS / name
    manifest = json.loads((folder / "package.json").read_text())
    engines = {tool: major(least) for tool, least in manifest["engines"].items()}
    return Pin(name, manifest["version"], folder, tuple(manifest["hub"]["programs"]), engines)


def major(version: str) -> int:
    """The first number of a version or `>=` range, also where npm has put warnings before it; 0 if there is none."""
    found = re.search(r"^(?:v|>=)?(\d+)", version, re.MULTILINE)
    return int(found[1]) if found else 0
