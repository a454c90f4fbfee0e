"""`run_mcp` where no hub runs: the same engine in its own process, as a guest of the data folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.asking import eventually
from tests.hub import ROOT, clean_env, is_gone, running_hub
from tests.mcpbridge.wire import WAIT_S, chat, fields_of

END_S = 1.0
ENDLESS = f"{'on and on ' * 400} [[chunks=2000 delay=0.1]]"
COMMAND = [sys.executable, "manage.py", "run_mcp", "--mode", "embedded"]


def env_of(folder: Path, **extra: str) -> dict[str, str]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return clean_env(home, {"HUB_DATA_DIR": str(folder / "data"), "HUB_PROVIDERS": "echo", **extra})


def connected(folder: Path, era: str = "auto", **extra: str) -> Client:
    server = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=env_of(folder, **extra), cwd=str(ROOT))
    return Client(stdio_client(server), mode=era)


class Program:
    """The program on two pipes, as a client holds it."""

    def __init__(self, folder: Path, **extra: str) -> None:
        self.process = subprocess.Popen(
            COMMAND,
            cwd=ROOT,
            env=env_of(folder, **extra),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def send(self, *messages: Any) -> None:
        assert self.process.stdin is not None
        for message in messages:
            line = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def answer_to(self, request_id: int) -> dict[str, Any]:
        """Passes over what the hub tells by itself."""
        while (message := self.read()).get("id") != request_id:
            assert "method" in message and "id" not in message
        return message

    def begin(self) -> None:
        who = {"name": "t", "version": "1"}
        about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": who}
        self.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about})
        assert self.read()["result"]["serverInfo"]["name"] == "llm-mcp-hub"
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def begin_a_turn(self) -> list[psutil.Process]:
        """Returns what then runs below it."""
        call = {"name": "chat", "arguments": {"message": ENDLESS, "provider": "echo"}}
        self.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
        children: list[psutil.Process] = []

        def has_worker() -> bool:
            children[:] = psutil.Process(self.process.pid).children(recursive=True)
            return any("echo_child" in " ".join(it.cmdline()) for it in children)

        eventually(has_worker)
        return children


@contextlib.contextmanager
def running(folder: Path, **extra: str) -> Iterator[Program]:
    program = Program(folder, **extra)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait(WAIT_S)
        for pipe in (program.process.stdin, program.process.stdout, program.process.stderr):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_it_answers_and_its_conversations_stay(tmp_path: Path, era: str) -> None:
    async with connected(tmp_path, era) as client:
        session_id = (await chat(client, "one"))["session_id"]
    async with connected(tmp_path, era) as client:
        assert (await chat(client, "two", session_id=session_id))["answer"] == "two"
        found = fields_of(await client.call_tool("get_session", {"session_id": session_id}))
    assert [it["content"] for it in found["messages"]] == ["one", "one", "two", "two"]


async def test_two_at_once_and_a_hub_beside_them_share_their_conversations(tmp_path: Path) -> None:
    """Claude Desktop starts each server twice."""
    async with connected(tmp_path) as one, connected(tmp_path) as two:
        session_id = (await chat(one, "by the first"))["session_id"]
        assert (await chat(two, "by the second", session_id=session_id))["session_id"] == session_id
        with running_hub(tmp_path, env={"HUB_PROVIDERS": "echo"}) as hub:
            # It sweeps what killed hubs left, and leaves its living guests alone.
            assert (await chat(one, "still there", session_id=session_id))["answer"] == "still there"
            async with httpx.AsyncClient(base_url=hub.url, headers=hub.headers, timeout=WAIT_S) as rest:
                body = (await rest.get(f"/v1/sessions/{session_id}")).json()
    assert [it["content"] for it in body["messages"][::2]] == ["by the first", "by the second", "still there"]


@pytest.mark.parametrize("how", ["eof", signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_within_a_second_with_every_child(tmp_path: Path, how: str | signal.Signals) -> None:
    with running(tmp_path) as program:
        program.begin()
        children = program.begin_a_turn()
        began_at = time.monotonic()
        if isinstance(how, signal.Signals):
            program.process.send_signal(how)
        else:
            assert program.process.stdin is not None
            program.process.stdin.close()
        assert program.process.wait(WAIT_S) == 0
        assert time.monotonic() - began_at < END_S
        # Its private Redis ends with its last user.
        eventually(lambda: all(map(is_gone, children)))
    assert not list((tmp_path / "data" / "run").glob("guest-*"))


def test_what_a_killed_one_left_is_swept_by_the_next(tmp_path: Path) -> None:
    with running(tmp_path) as program:
        program.begin()
        children = program.begin_a_turn()
        program.process.kill()
        program.process.wait(WAIT_S)
        eventually(lambda: all(map(is_gone, children)))
        assert list((tmp_path / "data" / "run").glob("guest-*"))
    with running(tmp_path) as program:
        program.begin()
        names = [it.name for it in (tmp_path / "data" / "run").glob("guest-*")]
        assert names in ([], [f"guest-{program.process.pid}"])


def test_nothing_but_protocol_is_on_standard_output(tmp_path: Path) -> None:
    """Garbage gets an answer, prints and children's output go elsewhere, a client may probe and then shake hands."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    with running(tmp_path, HUB_LOG_LEVEL="DEBUG") as program:
        program.send({"jsonrpc": "2.0", "id": "probe", "method": "server/discover", "params": {"_meta": meta}})
        assert program.read()["result"]["supportedVersions"] == ["2026-07-28"]
        program.begin()
        for garbage in (b"garbage", b"\xff\xfe", b"[]", b"{}"):
            program.send(garbage)
            assert program.read()["error"]["code"] in (-32700, -32600)
        big = "five megabytes " * 350_000
        call = {"name": "chat", "arguments": {"message": big, "provider": "echo"}}
        program.send({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": call})
        assert program.answer_to(7)["result"]["structuredContent"]["is_cut"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"HUB_API_KEY": "hub_wrong"}, "API key"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "connection"),
        ({"HUB_QUEUE": "many"}, "HUB_QUEUE"),
    ],
    ids=["wrong key", "no database", "wrong setting"],
)
def test_what_keeps_it_from_starting_is_said_on_standard_error(
    tmp_path: Path, extra: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        COMMAND, cwd=ROOT, env=env_of(tmp_path, **extra), input=b"", capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == b""
    assert words in done.stderr.decode()
    assert "hub_wrong" not in done.stderr.decode()


def test_orphan_ends_by_itself(tmp_path: Path) -> None:
    """A client that was killed closes no pipe that somebody else holds, too."""
    reading, writing = os.pipe()
    script = (
        f"import subprocess, sys; p = subprocess.Popen({COMMAND!r}, stdin={reading}, stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL); print(p.pid, flush=True); sys.stdin.read()"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=env_of(tmp_path),
        pass_fds=(reading,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert client.stdout is not None
        orphan = psutil.Process(int(client.stdout.readline()))
        eventually(lambda: (tmp_path / "data" / "local.key").exists())
        client.kill()
        client.wait(WAIT_S)
        eventually(lambda: is_gone(orphan))
    finally:
        os.close(reading)
        os.close(writing)
        for pipe in (client.stdin, client.stdout):
            assert pipe is not None
            pipe.close()
