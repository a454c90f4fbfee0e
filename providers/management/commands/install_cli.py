"""`manage.py install_cli claude|gemini`: fetch the pinned CLI into the data folder, with a progress display."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, OutputWrapper

from providers import install
from providers.clis import pins

INTERRUPTED = 130  # what a shell reports for Ctrl-C


class Command(BaseCommand):
    help = "Install the official CLI this hub is tested with into the data folder."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", choices=pins.names())
        parser.add_argument("--force", action="store_true", help="install again even if the right version is there")
        parser.add_argument("--data-dir", type=Path, help="the hub's data folder (default: HUB_DATA_DIR)")

    def handle(self, *, name: str, force: bool, data_dir: Path | None, **options: object) -> None:
        display = Display(self.stdout)
        try:
            with ends_like_ctrl_c():
                done = install.install(name, data_dir=data_dir or settings.HUB_DATA_DIR, force=force, report=display)
        except install.InstallError as exc:
            raise CommandError("\n".join(filter(None, (exc.message, exc.mend)))) from exc
        except KeyboardInterrupt as exc:
            raise CommandError("stopped; nothing was changed", returncode=INTERRUPTED) from exc
        finally:
            display.close()
        words = "is installed" if done.fresh else "was installed already"
        self.stdout.write(self.style.SUCCESS(f"{name} {done.version} {words}: {done.program}"))


class Display:
    """One growing line per step on a terminal, one plain line per step anywhere else."""

    def __init__(self, stream: OutputWrapper) -> None:
        self._stream = stream
        self._step = ""

    def __call__(self, progress: install.Progress) -> None:
        if self._stream.isatty():
            self._grow(progress)
        elif progress.step != self._step:
            self._stream.write(f"{progress.step} ...")
            self._stream.flush()
        self._step = progress.step

    def _grow(self, progress: install.Progress) -> None:
        if progress.step != self._step:
            self.close()
        line = f"\r{progress.step}: {progress.elapsed_s:.0f} s, {progress.megabytes:.0f} MB"
        self._stream.write(line, ending="")
        self._stream.flush()

    def close(self) -> None:
        """End the growing line."""
        if self._step and self._stream.isatty():
            self._stream.write("")


@contextmanager
def ends_like_ctrl_c() -> Iterator[None]:
    """Let a terminal that closes and a supervisor that ends this process leave no half install behind either."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals can't be caught here
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
