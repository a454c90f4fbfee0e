"""Where a CLI's program is, and which of the hub's variables it may see."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from providers.adapters.base import AdapterInfo

# Any CLI behind a company's proxy or certificate authority needs these to reach its vendor.
NETWORK_ENV = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"),
)


def find_program(info: AdapterInfo, *, override: str, clis_folder: Path, path: str) -> Path | None:
    """The program of a CLI: the owner's setting, else the data folder, else the PATH. None if it is nowhere.

    One without a program of its own (the demo) is always there.
    """
    if not info.program:
        return Path()
    if override:
        chosen = Path(override).expanduser()
        return chosen if chosen.is_file() else None
    for pattern in info.installed:
        if found := sorted((clis_folder / info.name).glob(pattern)):
            return found[0]
    on_path = shutil.which(info.program, path=path)
    return Path(on_path) if on_path else None


def passed_env(info: AdapterInfo, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables this CLI is allowed to see. Empty ones count as unset."""
    names = (*info.pass_env, *(NETWORK_ENV if info.program else ()))
    return {name: environ[name] for name in names if environ.get(name)}
