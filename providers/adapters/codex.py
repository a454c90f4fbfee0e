"""OpenAI's `codex` (Codex CLI) as a provider: warm app-server processes, a thread of its own for every conversation.

The CLI never sees the owner's home, so neither his settings, servers, hooks and instructions nor his history have a
say. Where the login is a file there, the CLI itself opens that one file; the hub only looks whether it exists.
"""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Mapping
from pathlib import Path

from providers.adapters import codex_files as files
from providers.adapters.base import Adapter, AdapterInfo, Driver, Launch, LoginState, Program, WorkerFolder
from providers.adapters.codex_driver import CodexDriver
from providers.events import Turn
from providers.probe import probe
from providers.process import Process

# Settings the CLI does not know end it at its start: what keeps a chat pure must not be skipped in silence.
FLAGS = ("app-server", "--strict-config")

# Needed by the hub alone, or named to the CLI in its settings.
NOT_PASSED_ON = ("HOME", "CODEX_HOME", "OPENAI_BASE_URL")

PROBE_ENV = {"PATH": "/nonexistent", "LANG": "C.UTF-8"}


class CodexAdapter(Adapter):
    info = AdapterInfo(
        name="codex",
        title="Codex CLI",
        program="codex",
        tested_version="0.169.0",
        default_model=files.MODELS[0].name,
        small_model="gpt-6-luna",
        context_tokens=258_400,
        ceiling=4,
        can_keep=True,
        has_tools=True,
        has_json=True,
        media=("image/png", "image/jpeg", "image/webp", "image/gif"),
        models=tuple(model.name for model in files.MODELS),
        installed=("node_modules/@openai/codex-*/vendor/*/bin/codex",),
        model_prefixes=("gpt-",),
        pass_env=(
            *("HOME", "CODEX_HOME", *files.KEY_ENV, "OPENAI_BASE_URL", "OPENAI_ORGANIZATION", "OPENAI_PROJECT"),
            "CODEX_CA_CERTIFICATE",
        ),
        secret_env=files.KEY_ENV,
        unsupported_sampling=("max_tokens", "temperature", "top_p", "stop"),
        mend_install="uv run manage.py install_cli codex",
        mend_login="run `codex login` once (with its login kept in a file, the default), or set OPENAI_API_KEY for "
        "the hub",
    )

    def launch(self, folder: WorkerFolder) -> Launch:
        home = files.Home(folder)
        home.prepare(self.program.env)
        given = {name: value for name, value in self.program.env.items() if name not in NOT_PASSED_ON}
        return Launch(argv=(str(self.program.path), *FLAGS), env={**given, **home.env()})

    def driver(self, process: Process, folder: WorkerFolder) -> Driver:
        return CodexDriver(
            process,
            cwd=str(folder.cwd),
            default_model=self.info.default_model,
            has_login=bool(files.key_name(self.program.env) or files.login_file(self.program.env)),
            mend_login=self.info.mend_login,
            may_keep=self.program.may_reuse,
        )

    def binding(self, turn: Turn) -> Hashable:
        return (turn.owner,)

    @classmethod
    async def version(cls, program: Program) -> str:
        with tempfile.TemporaryDirectory() as home:  # or it would warn, and look into the owner's
            env = {**PROBE_ENV, "HOME": home, "CODEX_HOME": home}
            output = await probe((str(program.path), "--version"), env)
        return output.decode(errors="replace").strip().removeprefix("codex-cli ")

    @classmethod
    async def login_state(cls, program: Program) -> LoginState:
        if files.key_name(program.env):
            return "ready"
        if files.login_file(program.env) is None:
            return "needs_login"
        # The CLI itself looks at its login, in a home as the workers have it; without the network or a token spent.
        with tempfile.TemporaryDirectory() as home:
            files.link_login(Path(home), program.env)
            env = {**PROBE_ENV, "HOME": home, "CODEX_HOME": home}
            output = await probe((str(program.path), "login", "status"), env, has_stderr=True)
        if b"Logged in" in output:
            return "ready"
        return "needs_login" if b"Not logged in" in output else "unknown"

    @classmethod
    def login_files(cls, env: Mapping[str, str]) -> tuple[Path, ...]:
        place = files.login_place(env)
        return (place,) if place else ()


ADAPTER = CodexAdapter
