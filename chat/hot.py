"""The hot state in Redis: one client for all that is shared between requests and hubs.

A store that fails is set aside at once and asked again in the background, so that no request has to find out by
waiting that it is away.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from chat import store_metrics
from chat.errors import StoreUnavailable
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
HEAL_EVERY_S = 0.25
# About as long as a lease: what is to be cleaned up ends by itself then.
CLEAN_UP_TRIES = 60
RETRY_AFTER_S = 2.0
SCRIPTS = Path(__file__).parent / "lua"

T = TypeVar("T")
Value = bytes | str | int | float


async def _undisturbed(work: Awaitable[T]) -> T:
    """Let an exchange come to its end, which its timeouts bound, before its caller is cancelled.

    redis-py loses a cancellation that comes while it connects, and drops the connection on any other; and whoever was
    cancelled has to know whether a lock was taken.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at: nobody else will
        raise


class Script:
    """A Lua script of `chat/lua/`: what it does, Redis does in one step."""

    def __init__(self, name: str) -> None:
        self.text = (SCRIPTS / f"{name}.lua").read_text()
        self.sha = ""


@dataclass(slots=True)
class _Call:
    """A script on its way, and where its answer goes."""

    script: Script
    args: tuple[Any, ...]
    answer: asyncio.Future[Any]


@dataclass(slots=True)
class _Batch:
    """Scripts that travel together. `is_over` once there are answers, or there is nobody left to answer."""

    is_over: asyncio.Future[None]
    calls: list[_Call] = field(default_factory=list)


async def _load(redis: Redis, scripts: list[Script]) -> None:
    for script in set(scripts):
        script.sha = await redis.script_load(script.text)


async def _ask_all(redis: Redis, calls: list[_Call]) -> list[Any]:
    """Send all at once; an error is an answer too.

    What redis-py's pipeline does, without packing in Python and a timeout of its own for each answer: every turn asks
    three times and more.
    """
    request = b"".join(hiredis.pack_command(("EVALSHA", call.script.sha, *call.args)) for call in calls)
    pool = redis.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        answers: list[Any] = await connection.retry.call_with_retry(
            lambda: _exchange_on(connection, request, len(calls)), lambda _: connection.disconnect()
        )
        return answers
    finally:
        await pool.release(connection)


async def _exchange_on(connection: AbstractConnection, request: bytes, count: int) -> list[Any]:
    await connection.send_packed_command(request)
    answers: list[Any] = []
    try:
        async with asyncio.timeout(connection.socket_timeout):
            while len(answers) < count:
                answers.append(await _read_answer(connection))
    except TimeoutError as exc:  # redis-py's own is what it tries again after
        raise RedisTimeoutError("Redis did not answer in time") from exc
    return answers


async def _read_answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return error


class HotState:
    """Redis as the hub uses it. `start` and `stop` belong to the event loop that serves.

    `timeout_s` bounds each exchange. `on_away` is called (again and again) while Redis can't be reached. `is_durable`:
    what it has taken survives its end, because it is in its append-only file.
    """

    def __init__(
        self, url: str, *, timeout_s: float, on_away: Callable[[], None] = lambda: None, is_private: bool = False
    ) -> None:
        self.is_away = True
        self.is_durable = False
        self._url = url
        self._timeout_s = timeout_s
        self._on_away = on_away
        self._is_private = is_private
        self._tasks = Tasks()
        self._clean_ups = Tasks()
        self._redis: Redis | None = None
        self._healing = asyncio.Event()
        self._batch: _Batch | None = None

    async def start(self) -> None:
        """Connect, or begin to try again and again. Never raises for a Redis that is not there."""
        pool = BlockingConnectionPool.from_url(
            self._url,
            max_connections=MAX_CONNECTIONS,
            timeout=self._timeout_s,
            socket_timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            # One retry at once: a connection that was closed while idle says nothing about the server.
            retry=Retry(NoBackoff(), 1),
        )
        self._redis = Redis(connection_pool=pool)
        await self._look()
        self._tasks.repeat(self._heal, name="redis heal", pause_s=0)

    async def stop(self) -> None:
        """Let clean-ups on their way come to their end, as far as Redis takes them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await self._clean_ups.drain()
        await self._clean_ups.cancel()
        await self._tasks.cancel()
        if self._redis is not None:
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()
            self._redis = None

    @property
    def redis(self) -> Redis:
        """The client, for commands inside `ask`. Raises StoreUnavailable while Redis is away."""
        if self.is_away or self._redis is None:
            raise StoreUnavailable("the session store (Redis) can't be reached", retry_after_s=RETRY_AFTER_S)
        return self._redis

    async def ask(self, question: Callable[[Redis], Awaitable[T]]) -> T:
        """Run commands. Raises StoreUnavailable for whatever keeps Redis from answering."""
        redis, began_at = self.redis, time.perf_counter()
        try:
            answer = await _undisturbed(question(redis))
            store_metrics.REDIS.observe(time.perf_counter() - began_at)
            return answer
        except (RedisError, OSError, TimeoutError) as exc:
            raise self._unavailable(exc) from exc

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Value]) -> Any:
        """Run a script. Raises StoreUnavailable.

        What is asked for in one turn of the event loop travels together: with many requests at once that spares most
        of what an exchange costs.
        """
        self.redis  # noqa: B018 (raises while Redis is away)
        loop = asyncio.get_running_loop()
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch(loop.create_future())
            loop.call_soon(self._send_batch)
        call = _Call(script, (len(keys), *keys, *args), loop.create_future())
        batch.calls.append(call)
        try:
            return await call.answer
        except asyncio.CancelledError:
            # Whoever was cancelled has to know whether a lock was taken.
            await asyncio.wait({batch.is_over})
            raise

    def _send_batch(self) -> None:
        batch, self._batch = self._batch, None
        assert batch is not None
        task = self._tasks.start(self._exchange(batch.calls), name="redis exchange")
        # Not in the exchange itself: cancelled before it began, it would leave its callers waiting.
        task.add_done_callback(lambda _: self._end(batch))

    def _end(self, batch: _Batch) -> None:
        self._settle(batch.calls, [StoreUnavailable("the hub is shutting down")] * len(batch.calls))
        batch.is_over.set_result(None)

    async def _exchange(self, calls: list[_Call]) -> None:
        answers: list[Any]
        began_at = time.perf_counter()
        try:
            redis = self.redis
            if missing := [call.script for call in calls if not call.script.sha]:
                await _load(redis, missing)
            answers = await _ask_all(redis, calls)
            lost = [call for call, answer in zip(calls, answers, strict=True) if isinstance(answer, NoScriptError)]
            if lost:  # Redis was restarted
                await _load(redis, [call.script for call in lost])
                again = iter(await _ask_all(redis, lost))
                answers = [next(again) if isinstance(answer, NoScriptError) else answer for answer in answers]
            store_metrics.REDIS.observe(time.perf_counter() - began_at)
        except (RedisError, OSError, TimeoutError, StoreUnavailable) as error:
            answers = [error] * len(calls)
        self._settle(calls, answers)

    def _settle(self, calls: list[_Call], answers: list[Any]) -> None:
        for call, answer in zip(calls, answers, strict=True):
            if call.answer.done():
                continue
            if isinstance(answer, StoreUnavailable):
                call.answer.set_exception(copy.copy(answer))
            elif isinstance(answer, Exception):
                call.answer.set_exception(self._unavailable(answer))
            else:
                call.answer.set_result(answer)

    def forget_on_disk(self) -> None:
        """Have the hub's own server write its file anew, without what was deleted; anyone else's is left alone."""
        if self._is_private:
            self._tasks.start(self._rewrite(), name="redis rewrite")

    async def _rewrite(self) -> None:
        with suppress(StoreUnavailable):  # one that is under way already is enough, or nearly so
            await self.ask(lambda redis: redis.bgrewriteaof())

    def soon(self, script: Script, keys: Sequence[str], args: Sequence[Value]) -> None:
        """Run a script in the background: for clean-up that must not be lost with its caller."""
        self._clean_ups.start(self._run_quietly(script, keys, args), name="redis clean-up")

    async def _run_quietly(self, script: Script, keys: Sequence[str], args: Sequence[Value]) -> None:
        for _ in range(CLEAN_UP_TRIES):
            try:
                await self.run(script, keys, args)
                return
            except StoreUnavailable:
                await asyncio.sleep(HEAL_EVERY_S)
        logger.info("a clean-up was left to expiry")

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        self._note(error)
        store_metrics.REDIS_FAILURES.inc()
        message = f"the session store (Redis) failed: {type(error).__name__}"
        return StoreUnavailable(message, retry_after_s=RETRY_AFTER_S)

    def _note(self, error: BaseException) -> None:
        # A server that refuses is there: one that is full, or may not write, can still be read.
        if isinstance(error, ResponseError):
            logger.warning("redis refuses: %s: %s", type(error).__name__, error)
            return
        if not self.is_away:
            logger.warning("redis is away: %s: %s", type(error).__name__, error)
        self.is_away = True
        self._healing.set()

    async def _heal(self) -> None:
        await self._healing.wait()
        await asyncio.sleep(HEAL_EVERY_S)
        await self._look()

    async def _writes_a_file(self) -> bool:
        assert self._redis is not None
        await self._redis.ping()
        try:
            return bool((await self._redis.info("persistence")).get("aof_enabled"))
        except ResponseError:  # some who rent Redis out forbid the question
            return False

    async def _look(self) -> None:
        assert self._redis is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                self.is_durable = await self._writes_a_file()
        except (RedisError, OSError, TimeoutError) as error:
            self.is_away = True
            self._healing.set()
            self._on_away()
            logger.debug("redis is still away: %s", error)
            return
        if self.is_away:
            logger.info("redis is there")
        self.is_away = False
        self._healing.clear()
