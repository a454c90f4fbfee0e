"""A small agent that speaks ACP and misbehaves as its argument says; it repeats what it is asked.

Runs alone, on the standard library. A turn's prompt with the words `do=NAME` in its last line chooses what goes wrong.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

HABIT = sys.argv[1] if len(sys.argv) > 1 else ""


class Agent:
    def __init__(self) -> None:
        self.sessions = 0
        self.model = "small"
        self.asked = 0

    def serve(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "id" in message and "method" in message:
                self.answer(message["id"], message["method"], message["params"])

    def answer(self, request: int, method: str, params: dict[str, Any]) -> None:
        match method:
            case "initialize":
                self.initialize(request)
            case "session/new":
                self.new_session(request, params)
            case "session/set_model" if params["modelId"] in ("small", "large"):
                self.model = params["modelId"]
                say(id=request, result={})
            case "session/set_model":
                say(id=request, error={"code": -32602, "message": "Invalid params"})
            case "session/prompt":
                self.prompt(request, params)
            case "session/close" | "session/delete":
                note(method)
                say(id=request, result={})
            case _:
                say(id=request, error={"code": -32601, "message": "Method not found"})

    def initialize(self, request: int) -> None:
        if HABIT == "mute":
            time.sleep(3_600)
        ends: dict[str, Any] = {"close": {}, "delete": {}} if HABIT == "tidy" else {}
        result = {"protocolVersion": 2 if HABIT == "newer" else 1, "agentCapabilities": {"sessionCapabilities": ends}}
        say(id=request, result=result)

    def new_session(self, request: int, params: dict[str, Any]) -> None:
        assert params["mcpServers"] == []
        assert Path(params["cwd"]) == Path.cwd()
        if HABIT == "logged-out":
            say(id=request, error={"code": -32000, "message": "Authentication required"})
            return
        self.sessions += 1
        models = {"currentModelId": self.model, "availableModels": []}
        result: dict[str, Any] = {
            "sessionId": f"s{self.sessions}",
            **({} if HABIT == "one-model" else {"models": models}),
        }
        if HABIT == "options":
            option = {"id": "m", "category": "model", "type": "select", "currentValue": "tiny"}
            result = {"sessionId": f"s{self.sessions}", "configOptions": [option]}
        if HABIT == "attached" and self.sessions > 1 and not (Path.home() / "state").exists():
            say(id=request, error={"code": -32603, "message": "my state is gone"})
            return
        (Path.home() / "state").write_text("x" * self.sessions)
        say(id=request, result=result)

    def prompt(self, request: int, params: dict[str, Any]) -> None:
        (block,) = params["prompt"]
        text, session = block["text"], params["sessionId"]
        (Path.home() / "history.txt").write_text(text)
        (Path(os.environ["TMPDIR"]) / "report.txt").write_text(text)
        Path("note.txt").write_text(text)
        found = re.search(r"do=(\S+)\s*$", text)
        end = Mischief(self, session).do(found[1] if found else "", text)
        if end is not None:
            say(id=request, **end)


class Mischief:
    def __init__(self, agent: Agent, session: str) -> None:
        self.agent, self.session = agent, session

    def update(self, kind: str, **more: object) -> None:
        update = {"sessionUpdate": kind, **more}
        say(method="session/update", params={"sessionId": self.session, "update": update})

    def chunk(self, text: str, kind: str = "agent_message_chunk") -> None:
        self.update(kind, content={"type": "text", "text": text})

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """A request to the client, and its answer."""
        self.agent.asked += 1
        say(id=f"a{self.agent.asked}", method=method, params={"sessionId": self.session, **params})
        return dict(json.loads(sys.stdin.readline()))

    def do(self, what: str, text: str) -> dict[str, Any] | None:
        stop, more = "end_turn", {}
        match what:
            case "garbage":
                os.write(1, b"npm warn this is no protocol\n")
            case "list":
                os.write(1, b"[1]\n")
            case "die":
                self.chunk("half a")
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                sys.exit(3)
            case "hang":
                self.chunk("half a")
                time.sleep(3_600)
            case "leave":
                sys.stderr.write(os.environ.get("AGENT_KEY", "no key") + "\n")
                sys.exit(1)
            case "permission":
                options = [
                    {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
                    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
                ]
                self.update("tool_call", toolCallId="t1", status="pending", title="rm")
                reply = self.ask("session/request_permission", options=options, toolCall={"toolCallId": "t1"})
                self.chunk(json.dumps(reply["result"]))
            case "permission-only":
                options = [{"optionId": "yes", "name": "Allow", "kind": "allow_once"}]
                self.chunk(json.dumps(self.ask("session/request_permission", options=options)["result"]))
            case "read" | "write" | "terminal":
                method = {"read": "fs/read_text_file", "write": "fs/write_text_file", "terminal": "terminal/create"}
                self.chunk(json.dumps(self.ask(method[what], path="/etc/hostname", content="x", command="id")["error"]))
            case "tool":
                self.update("tool_call", toolCallId="t1", status="in_progress", title="read_file")
                self.update("tool_call_update", toolCallId="t1", status="completed")
                self.chunk("what the file says")
            case "think":
                self.chunk("hm", kind="agent_thought_chunk")
                self.chunk("so")
            case "stranger":
                self.session, own = "s0", self.session
                self.chunk("from another session")
                self.session = own
                self.chunk("mine")
            case "silent":
                pass
            case "plan":
                self.update("plan", entries=[])
                self.update("available_commands_update", availableCommands=[])
                self.update("brand_new_update", anything=1)
                self.chunk("mine")
            case "usage":
                self.chunk("counted")
                self.update("usage_update", used=1, size=2, cost={"amount": 0.25, "currency": "USD"})
                usage = {"inputTokens": 7, "outputTokens": 3, "cachedReadTokens": 5, "cachedWriteTokens": 1}
                more = {"usage": {**usage, "totalTokens": 16}}
            case "where":
                self.chunk(json.dumps({"env": dict(os.environ), "cwd": str(Path.cwd()), "pid": os.getpid()}))
            case _ if what.startswith("stop="):
                self.chunk("cut sh")
                stop = what.removeprefix("stop=")
            case _ if what.startswith("nothing="):
                stop = what.removeprefix("nothing=")
            case _ if what.startswith("error="):
                return {"error": json.loads(what.removeprefix("error=").replace("_", " "))}
            case _:
                self.chunk(text)
        return {"result": {"stopReason": stop, **more}}


def note(word: str) -> None:
    with (Path(sys.argv[2]) / "notes").open("a") as notes:
        notes.write(word + "\n")


def say(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Agent().serve()
