"""Any agent that speaks the Agent Client Protocol, by the command line its provider names.

Nothing is known of the program, so nothing of the owner's is given to it that the provider does not name: it starts
with a private home and the way to its vendor alone. Its own tools are its own: see docs/adding-a-provider.md.
"""

from __future__ import annotations

import os
from collections.abc import Hashable

from providers.adapters.acp_driver import OWN_MODEL, AcpDriver
from providers.adapters.base import Adapter, AdapterInfo, Driver, Launch, LoginState, Program, WorkerFolder
from providers.events import Turn
from providers.process import Process


class AcpAdapter(Adapter):
    info = AdapterInfo(
        name="acp",
        title="Agent Client Protocol",
        program="",
        tested_version="",
        default_model=OWN_MODEL,
        models=(OWN_MODEL,),
        needs_command=True,
        pass_env=("PATH",),
        unsupported_sampling=("max_tokens", "temperature", "top_p", "stop", "reasoning_effort"),
        mend_install="name the agent's command line in the provider, and install the agent",
        mend_login="log in to the agent as its manual says; if its login lies in the home folder or in a variable, "
        "name HOME or that variable in the provider's `extra_env`",
    )

    def launch(self, folder: WorkerFolder) -> Launch:
        home = folder.state / "home"
        home.mkdir(mode=0o700)
        base = {"PATH": os.defpath, "LANG": "C.UTF-8", "TERM": "dumb", "NO_COLOR": "1", "HOME": str(home)}
        env = {**base, **self.program.env, "TMPDIR": str(folder.tmp)}
        return Launch(argv=(str(self.program.path), *self.program.args), env=env)

    def driver(self, process: Process, folder: WorkerFolder) -> Driver:
        return AcpDriver(process, folder, mend_login=self.info.mend_login)

    def binding(self, turn: Turn) -> Hashable:
        return (turn.owner,)

    @classmethod
    async def version(cls, program: Program) -> str:
        # Any argument may mean anything to a program one does not know.
        return ""

    @classmethod
    async def login_state(cls, program: Program) -> LoginState:
        return "unknown"


ADAPTER = AcpAdapter
