"""Google's `gemini` (Gemini CLI) as a provider: warm ACP processes with a private home, one turn at a time.

The CLI never sees the owner's home. Where the login is a file there, the CLI itself opens that one file by its path;
the hub only looks whether it exists.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Hashable, Mapping
from pathlib import Path

import orjson

from providers.adapters import gemini_body
from providers.adapters import gemini_files as files
from providers.adapters.base import Adapter, AdapterInfo, Driver, Launch, LoginState, Program, WorkerFolder
from providers.adapters.gemini_driver import GeminiDriver
from providers.errors import (
    MediaUnsupported,
    ModelUnknown,
    NotInstalled,
    ParameterUnsupported,
    ProviderUnavailable,
    ToolsUnsupported,
    excerpt,
)
from providers.events import Turn
from providers.probe import probe
from providers.process import Process

# Below the watched 512 MB per process; V8's own default would let the heap grow to half of the machine's memory.
HEAP_MB = 384

# `-e none`: no extension is loaded.
FLAGS = ("--acp", "-e", "none")

# The name becomes part of a URL and of a settings file in which `$` means a variable.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

LEAST_NODE = 20
MEND_NODE = f"install Node.js {LEAST_NODE} or later"

# The API's own limit.
MAX_STOP_SEQUENCES = 5

# Of what the API takes, the types of images and documents that callers can send.
MEDIA = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif", "application/pdf")

SECRET_ENV = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_CLOUD_ACCESS_TOKEN")

# Where Google's two command-line programs keep their logins below HOME.
OAUTH_FILE = Path(".gemini", "oauth_creds.json")
CLOUD_FILE = Path(".config", "gcloud", "application_default_credentials.json")


class GeminiAdapter(Adapter):
    info = AdapterInfo(
        name="gemini",
        title="Gemini CLI",
        program="gemini",
        tested_version="0.61.0",
        default_model="gemini-3.8-flash",
        models=files.MODELS,
        small_model="gemini-3.5-flash-lite",
        context_tokens=1_000_000,
        installed=("node_modules/@google/gemini-cli/bundle/gemini.js",),
        model_prefixes=("gemini-",),
        pass_env=(
            *("HOME", *SECRET_ENV, "GOOGLE_APPLICATION_CREDENTIALS"),
            *("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_PROJECT_ID", "GOOGLE_CLOUD_LOCATION"),
            *("GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_GCA"),
            *("GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL"),
        ),
        secret_env=SECRET_ENV,
        has_tools=True,
        has_json=True,
        media=MEDIA,
        mend_install="uv run manage.py install_cli gemini",
        mend_login="set GEMINI_API_KEY for the hub, or GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION with a Vertex AI "
        "login, or log in to `gemini` with an enterprise account: personal Google logins no longer work with the "
        "gemini CLI since June 2026",
    )

    def launch(self, folder: WorkerFolder) -> Launch:
        home = files.Home(folder)
        home.prepare(auth=auth_type(self.program.env) or "gemini-api-key", tools=_hook_tools())
        argv = (*_command(self.program.path), *FLAGS, "--record-responses", str(home.record))
        return Launch(argv=argv, env=self._env(home))

    def _env(self, home: files.Home) -> dict[str, str]:
        given = {name: value for name, value in self.program.env.items() if name != "HOME"}
        return {**given, **login_file_env(self.program.env), **home.env()}

    def driver(self, process: Process, folder: WorkerFolder) -> Driver:
        return GeminiDriver(
            process,
            files.Home(folder),
            default_model=self.info.default_model,
            mend_login=self.info.mend_login,
            secrets=tuple(filter(None, map(self.program.env.get, SECRET_ENV))),
        )

    def binding(self, turn: Turn) -> Hashable:
        return (turn.owner,)

    def check(self, turn: Turn) -> None:
        model = turn.model
        # The CLI's "auto" asks another model first which one to take: a second request nobody asked for.
        if model is not None and (model.startswith("auto") or not MODEL_NAME.fullmatch(model)):
            raise ModelUnknown(f"gemini has no model {excerpt(model)!r}")
        if len(turn.sampling.stop) > MAX_STOP_SEQUENCES:
            raise ParameterUnsupported(f"gemini takes at most {MAX_STOP_SEQUENCES} stop sequences")
        if auth_type(self.program.env) == "oauth-personal" and gemini_body.is_rich(turn):
            raise _unsupported_by_login(turn)

    @classmethod
    async def version(cls, program: Program) -> str:
        # Asking the program would load its whole bundle: 1.5 to 2.5 s.
        if found := _package_version(program.path.resolve()):
            return found
        # Without a home of its own it would write into the owner's.
        env = {"PATH": "/usr/bin:/bin", "GEMINI_CLI_HOME": "/nonexistent", "GEMINI_CLI_NO_RELAUNCH": "true"}
        return (await probe((*_command(program.path), "--version"), env)).decode(errors="replace").strip()

    @classmethod
    async def obstacle(cls, program: Program) -> ProviderUnavailable | None:
        try:
            node, *_ = _command(program.path)
            _hook_tools()
        except NotInstalled as error:
            return error
        if program.path.resolve().suffix != ".js":
            return None
        version = (await probe((node, "--version"), {"PATH": "/usr/bin:/bin"})).decode(errors="replace").strip()
        major = version.removeprefix("v").partition(".")[0]
        if major.isdigit() and int(major) < LEAST_NODE:
            return NotInstalled(f"the gemini CLI needs node {LEAST_NODE}, this is {version}", mend=MEND_NODE)
        return None

    @classmethod
    async def login_state(cls, program: Program) -> LoginState:
        return "ready" if auth_type(program.env) else "needs_login"

    @classmethod
    def login_files(cls, env: Mapping[str, str]) -> tuple[Path, ...]:
        home, named = env.get("HOME"), env.get("GOOGLE_APPLICATION_CREDENTIALS")
        of_home = (Path(home, OAUTH_FILE), Path(home, CLOUD_FILE)) if home else ()
        return (*of_home, Path(named)) if named else of_home


def _unsupported_by_login(turn: Turn) -> ParameterUnsupported:
    # Its requests take another way through the CLI, which adds nothing to them.
    kind, what = (ToolsUnsupported, "tools") if turn.needs.tools else (MediaUnsupported, "images and files")
    return kind(f"gemini takes {what} with an API key or Vertex AI only, not with a Google account's login")


def auth_type(env: Mapping[str, str]) -> str | None:
    """The CLI's name for the way this owner logs in, None without any login. What is said outright wins."""
    if env.get("GOOGLE_GENAI_USE_GCA") == "true":
        return "oauth-personal" if env.get("GOOGLE_CLOUD_ACCESS_TOKEN") or _has(env, OAUTH_FILE) else None
    if env.get("GOOGLE_GENAI_USE_VERTEXAI") == "true":
        return "vertex-ai" if _has_vertex_login(env) else None
    if env.get("GEMINI_API_KEY"):
        return "gemini-api-key"
    if _has(env, OAUTH_FILE):
        return "oauth-personal"
    return "vertex-ai" if _has_vertex_login(env) else None


def login_file_env(env: Mapping[str, str]) -> dict[str, str]:
    """Tells the CLI where the owner's login file is. Both Google logins look at this variable besides their home."""
    known = {"oauth-personal": OAUTH_FILE, "vertex-ai": CLOUD_FILE}.get(auth_type(env) or "")
    if known is None or env.get("GOOGLE_APPLICATION_CREDENTIALS") or not _has(env, known):
        return {}
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(Path(env["HOME"], known))}


def _has_vertex_login(env: Mapping[str, str]) -> bool:
    if env.get("GOOGLE_API_KEY"):
        return True
    has_place = bool(env.get("GOOGLE_CLOUD_PROJECT") and env.get("GOOGLE_CLOUD_LOCATION"))
    return has_place and (bool(env.get("GOOGLE_APPLICATION_CREDENTIALS")) or _has(env, CLOUD_FILE))


def _has(env: Mapping[str, str], login_file: Path) -> bool:
    return bool(env.get("HOME")) and Path(env["HOME"], login_file).is_file()


def _command(program: Path) -> tuple[str, ...]:
    script = program.resolve()
    if script.suffix != ".js":
        return (str(program),)
    node = shutil.which("node")
    if node is None:
        raise NotInstalled("the gemini CLI needs node, and there is none on the PATH", mend=MEND_NODE)
    return (node, f"--max-old-space-size={HEAP_MB}", str(script))


def _hook_tools() -> dict[str, Path]:
    """The two programs with which the CLI fetches a turn's messages, by name; see gemini_files."""
    found = {name: shutil.which(name) for name in ("bash", "cat")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise NotInstalled(f"the gemini CLI needs {' and '.join(missing)} on the PATH", mend=f"install {missing[0]}")
    return {name: Path(path) for name, path in found.items() if path}


def _package_version(script: Path) -> str:
    try:
        package = orjson.loads((script.parent.parent / "package.json").read_bytes())
        return str(package["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


ADAPTER = GeminiAdapter
