"""The contract of a provider: one adapter file per CLI, and the centre names none of them.

An `Adapter` knows a CLI as a program: where it is found, how it is launched in isolation, which turns may share a
process. A `Driver` speaks the protocol of one running process. Both are plain asyncio without Django.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from providers.errors import (
    JsonUnsupported,
    MediaUnsupported,
    ParameterUnsupported,
    ProviderUnavailable,
    ToolsUnsupported,
)
from providers.events import Event, Needs, Turn
from providers.process import Process

LoginState = Literal["ready", "needs_login", "unknown"]


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What the centre may know of a CLI without running it.

    `installed` holds glob patterns of the program below the data folder's `clis/<name>/`; `program` is its name on
    PATH, empty for one that ships with the hub. `pass_env` is the allow-list of variables handed from the hub's
    environment to the child, `secret_env` those of them that must never be shown. Models are listed as the caller
    may write them; `model_prefixes` claim further vendor ids. `by_name_only` keeps a provider out of `auto`.
    `unsupported_sampling` names the fields of Sampling the CLI has no way to pass on. `floor` and `ceiling` are the
    defaults for how many workers are kept warm, and for how many there may be where memory allows. `can_keep` tells
    that a process can hold a conversation for its next turn, `reports_cost` that the CLI tells what a turn cost.
    `context_tokens` is what a prompt may hold, `small_model` answers short questions quickest, both as a hint to
    routing. `needs_command`: the adapter drives any program of its kind, so a provider of it names a command line.
    `has_tools`: the caller's tools can be offered to the model. `has_json`: an answer can be asked for as JSON of a
    schema. `media` are the MIME types of what can be shown to it.
    """

    name: str
    title: str
    program: str
    tested_version: str
    default_model: str
    models: tuple[str, ...]
    installed: tuple[str, ...] = ()
    model_prefixes: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    secret_env: tuple[str, ...] = ()
    mend_install: str = ""
    mend_login: str = ""
    by_name_only: bool = False
    unsupported_sampling: tuple[str, ...] = ()
    floor: int = 1
    ceiling: int = 4
    can_keep: bool = False
    reports_cost: bool = False
    context_tokens: int = 200_000
    small_model: str = ""
    needs_command: bool = False
    has_tools: bool = False
    has_json: bool = False
    media: tuple[str, ...] = ()

    def lack(self, needs: Needs) -> ParameterUnsupported | None:
        """What of a turn's needs the CLI can't serve; None if it can serve all."""
        if needs.tools and not self.has_tools:
            return ToolsUnsupported(f"{self.title} can't offer a caller's tools to its model")
        if needs.json and not self.has_json:
            return JsonUnsupported(f"{self.title} can't be held to answer in JSON")
        if missing := [it for it in needs.media if it not in self.media]:
            return MediaUnsupported(f"{self.title} can't be shown {', '.join(missing)}")
        return None


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one worker: an argument vector without any caller's text, and the whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WorkerFolder:
    """The private folders of one worker, all empty and 0700 at its start, removed after its end.

    `cwd` is the process' working directory, `tmp` its TMPDIR, `state` holds what the adapter writes for the CLI.
    """

    root: Path
    cwd: Path = field(init=False)
    tmp: Path = field(init=False)
    state: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in ("cwd", "tmp", "state"):
            object.__setattr__(self, name, self.root / name)


@dataclass(frozen=True, slots=True)
class Program:
    """The CLI as found on this machine, with the variables the owner passes to it (already allow-listed).

    `args` come before the adapter's own arguments: the rest of a command line of the owner's. `may_reuse` allows
    undocumented messages that empty a process for the next conversation.
    """

    path: Path
    env: Mapping[str, str]
    may_reuse: bool = True
    args: tuple[str, ...] = ()


class Driver(ABC):
    """Speaks with one process. Used by one turn at a time; the pool sees to that."""

    @abstractmethod
    async def ready(self) -> None:
        """Return once the process can take a turn.

        Called once, right after the start. The caller bounds the wait. Raises ProviderError.
        """

    @abstractmethod
    def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        """Answer one turn: TurnStarted first, TurnFinished last, and right before it the model's calls, if it made any.

        Calls and JSON are given as the model made them: the engine checks them. While they come in pieces, Working
        tells so. A call ends the turn, with the reason `tool_calls`: the caller runs it.
        Raises ProviderError. The caller bounds every wait and may close the generator at any point; what is then
        still going on in the process is ended by `reset`, or by killing it.
        """
        raise NotImplementedError

    def remembers(self) -> bytes | None:
        """The digest of the conversation the process holds, its last answer included; None if it can't go on.

        Asked between turns. The conversation's next turn may then be run without a `reset` before it: the driver
        recognises its history and sends only the last message.
        """
        return None

    def needs_reset(self) -> bool:
        """Whether the turn before has left anything that `reset` is to remove. Asked between turns."""
        return True

    @abstractmethod
    async def reset(self) -> bool:
        """Stop what is going on and empty the process for the next conversation of the same binding.

        Called before any turn but the next of a conversation that is remembered, where it is needed; must never raise
        ProviderError. The caller bounds the wait.
        False: the process is not provably clean, replace it.
        """


class Adapter(ABC):
    """One CLI as a program. Holds no process and no state of a turn."""

    info: ClassVar[AdapterInfo]

    def __init__(self, program: Program) -> None:
        self.program = program

    @abstractmethod
    def launch(self, folder: WorkerFolder) -> Launch:
        """Write what the CLI needs into the worker's folders and say how to start it."""

    @abstractmethod
    def driver(self, process: Process, folder: WorkerFolder) -> Driver:
        """A driver for a process just started by `launch`."""

    @abstractmethod
    def binding(self, turn: Turn) -> Hashable:
        """What a process is bound to by its first turn: only turns with an equal binding may use it later."""

    def check(self, turn: Turn) -> None:  # noqa: B027 (most adapters accept every turn)
        """Refuse a turn this CLI can't serve as asked, before a worker is taken. Raises TurnRefused."""

    @classmethod
    @abstractmethod
    async def version(cls, program: Program) -> str:
        """The program's version such as `2.1.330`, empty if it can't be told. Local and cheap."""

    @classmethod
    async def obstacle(cls, program: Program) -> ProviderUnavailable | None:
        """What else keeps the program from being launched here, such as a missing runtime; None if nothing does."""
        return None

    @classmethod
    @abstractmethod
    async def login_state(cls, program: Program) -> LoginState:
        """Whether credentials seem to be there: local, cheap, without a token spent or a credential file read."""

    @classmethod
    def login_files(cls, env: Mapping[str, str]) -> tuple[Path, ...]:
        """Files that change with the login, for a program with these variables; they are looked at, never opened."""
        return ()
