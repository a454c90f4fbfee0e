"""Ids are unguessable, unique over threads and forks, and sort by time."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

from chat.ids import STOCK, new_id


def test_an_id_is_32_hexadecimal_digits_that_sort_by_time() -> None:
    ids = [new_id() for _ in range(10)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", it) for it in ids)
    assert [it[:12] for it in ids] == sorted(it[:12] for it in ids)


def test_threads_that_draw_at_once_never_draw_the_same() -> None:
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda _: new_id()[12:], range(20 * STOCK)))
    assert len(set(drawn)) == len(drawn)


def test_a_forked_process_draws_others_than_its_parent() -> None:
    new_id()  # so that there is a stock to inherit
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, "".join(new_id()[12:] for _ in range(5)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    drawn = os.read(reading, 4_096).decode()
    os.close(reading)
    os.close(writing)
    assert len(drawn) == 100
    assert not {drawn[place : place + 20] for place in range(0, 100, 20)} & {new_id()[12:] for _ in range(STOCK)}
