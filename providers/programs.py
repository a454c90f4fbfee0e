"""Where a CLI's program is, and which of the hub's variables it may see."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from providers.adapters.base import AdapterInfo

# Any CLI behind a company's proxy or certificate authority needs these to reach its vendor.
NETWORK_ENV = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"),
)

# Whatever an owner allows: the hub's own secrets, and what makes a program run other code than its own.
NEVER_PASSED = re.compile(
    r"HUB_.*|SECRET.*|.*SECRET_KEY.*|REDIS_URL|DATABASE_URL|DJANGO_.*|(?:LD|DYLD)_.*|BASH_ENV|ENV|IFS|PYTHON.*|"
    r"(?:NODE|BUN|JAVA|JAVA_TOOL|JDK_JAVA)_OPTIONS|PERL5.*|RUBYOPT|RUBYLIB",
    re.IGNORECASE,
)


def is_never_passed(name: str) -> bool:
    """Whether a variable can't be handed to a CLI by naming it."""
    return bool(NEVER_PASSED.fullmatch(name))


def find_program(info: AdapterInfo, *, override: str, clis_folder: Path, path: str) -> Path | None:
    """The program of a CLI: the owner's setting, else the data folder, else the PATH. None if it is nowhere.

    One without a program of its own (the demo) is always there, one that needs a command line never without it.
    """
    if not info.program:
        return None if info.needs_command else Path()
    if override:
        chosen = Path(override).expanduser()
        return chosen if chosen.is_file() else None
    for pattern in info.installed:
        if found := sorted((clis_folder / info.name).glob(pattern)):
            return found[0]
    on_path = shutil.which(info.program, path=path)
    return Path(on_path) if on_path else None


def find_command(word: str, path: str) -> Path | None:
    """The program a command line begins with: an absolute path, or a name on the PATH. None if it is not there."""
    if "/" in word:
        return Path(word) if Path(word).is_absolute() and Path(word).is_file() else None
    on_path = shutil.which(word, path=path)
    return Path(on_path) if on_path else None


def passed_env(info: AdapterInfo, environ: Mapping[str, str], extra: tuple[str, ...] = ()) -> dict[str, str]:
    """The variables this CLI is allowed to see, and `extra` ones of the owner's. Empty ones count as unset."""
    names = (*info.pass_env, *(NETWORK_ENV if info.program or info.needs_command else ()), *extra)
    return {name: environ[name] for name in names if environ.get(name)}
