"""Cgroups of workers: the arranging against a stand-in for the kernel's files, the life of a group in a real tree.

The kernel's own controllers need a delegated tree with cgroup v2 as the machine's only kind. Membership, killing and
removing need no controller, so any cgroup v2 tree that may be written to shows them.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from providers import cgroups
from providers.cgroups import HUB_GROUP, Cgroup, Cgroups, Share, delegated_folder
from providers.process import Process, ProcessLimits
from tests.providers.fakes import BOUND_S, is_gone, python, start_worker, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux' own")

MOUNTINFO = "24 23 0:22 / /proc rw - proc proc rw\n35 24 0:30 {root} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"


class Kernel:
    """The files of a cgroup tree, as the kernel would keep them in real folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.written: dict[Path, str] = {}
        self.procs: dict[int, Path] = {}
        self.killed: list[Path] = []
        self.missing: set[str] = set()
        self.top: set[Path] = set()
        self.controllers: dict[Path, list[str]] = {root: ["cpu", "io", "memory", "pids"]}
        self.enabled: dict[Path, list[str]] = {}

    def read(self, path: Path) -> str:
        match path.name:
            case "cgroup.controllers":
                return " ".join(self._offered(path.parent))
            case "cgroup.subtree_control":
                return " ".join(self.enabled.get(path.parent, []))
            case "cgroup.procs":
                return "\n".join(str(pid) for pid, folder in self.procs.items() if folder == path.parent)
        raise FileNotFoundError(path)

    def write(self, path: Path, value: str) -> None:
        if path.name in self.missing or not path.parent.is_dir():
            raise OSError(errno.ENOENT, "No such file or directory")
        match path.name:
            case "cgroup.subtree_control":
                self._enable(path.parent, value[1:])
            case "cgroup.procs":
                if int(value) not in self.procs:
                    raise ProcessLookupError(errno.ESRCH, "No such process")
                if self.enabled.get(path.parent):
                    raise OSError(errno.EBUSY, "Device or resource busy")
                self.procs[int(value)] = path.parent
            case "cgroup.kill":
                self.killed.append(path.parent)
            case name:
                if name.split(".")[0] not in self._offered(path.parent):
                    raise OSError(errno.EACCES, "Permission denied")
                self.written[path] = value

    def _offered(self, folder: Path) -> list[str]:
        return self.controllers.get(folder) or self.enabled.get(folder.parent, [])

    def _enable(self, folder: Path, controller: str) -> None:
        if controller not in self._offered(folder):
            raise OSError(errno.ENOENT, "No such file or directory")
        if folder in self.procs.values():
            raise OSError(errno.EBUSY, "Device or resource busy")
        self.enabled.setdefault(folder, []).append(controller)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    base = tmp_path / "hub.service"
    base.mkdir()
    (base / "cgroup.type").write_text("domain")
    (base / "cgroup.procs").write_text("")
    kernel = Kernel(base)
    monkeypatch.setattr(cgroups, "_read", kernel.read)
    monkeypatch.setattr(cgroups, "_write", kernel.write)
    return kernel


def below(kernel: Kernel) -> Cgroups:
    groups = Cgroups.below(kernel.root, Path("/data"))
    assert groups is not None
    return groups


# --- arranging -------------------------------------------------------------------------------------------------------


def test_the_hub_moves_aside_so_that_its_group_can_have_groups_with_controllers(kernel: Kernel) -> None:
    """A group whose controllers are handed on holds no process itself (kernel rule)."""
    kernel.procs.update({10: kernel.root, 11: kernel.root})
    groups = below(kernel)
    assert set(kernel.procs.values()) == {kernel.root / HUB_GROUP}
    assert groups.controllers == {"cpu", "memory", "pids"}
    assert groups.folder.parent == kernel.root


def test_each_worker_is_put_into_a_group_with_its_bounds(kernel: Kernel) -> None:
    groups = below(kernel)
    kernel.procs.update({20: kernel.root / HUB_GROUP, 21: kernel.root / HUB_GROUP})
    share = Share(cpu_weight=50, tasks=640, memory_bytes=1 << 30)
    one, two = groups.admit(20, share), groups.admit(21, Share())
    assert one is not None
    assert two is not None
    assert (kernel.procs[20], kernel.procs[21]) == (one.path, two.path)
    bounds = {path.name: value for path, value in kernel.written.items()}
    assert bounds == {
        "cpu.weight": "50",
        "pids.max": "640",
        "memory.max": str(1 << 30),
        "memory.oom.group": "1",
    }
    assert {path.parent for path in kernel.written} == {one.path}


def test_two_hubs_of_one_tree_have_groups_of_their_own(kernel: Kernel) -> None:
    other = Cgroups.below(kernel.root, Path("/other"))
    assert other is not None
    assert other.folder != below(kernel).folder


def test_a_missing_controller_costs_its_bound_alone_and_is_told_once(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.controllers[kernel.root] = ["pids"]
    groups = below(kernel)
    assert groups.controllers == {"pids"}
    for pid in (20, 21):
        kernel.procs[pid] = kernel.root / HUB_GROUP
        assert groups.admit(pid, Share(cpu_weight=50, tasks=64)) is not None
    assert [path.name for path in kernel.written] == ["pids.max", "pids.max"]
    assert caplog.text.count("cpu.weight can't be set") == 1


@pytest.mark.parametrize("offered", [["io"], ["hugetlb"]])
def test_a_tree_without_any_controller_of_use_is_left_alone(kernel: Kernel, offered: list[str]) -> None:
    kernel.controllers[kernel.root] = offered
    assert Cgroups.below(kernel.root, Path("/data")) is None
    assert [path for path in kernel.root.iterdir() if path.is_dir()] == []


def test_a_worker_that_can_not_be_moved_runs_without_a_group(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    groups = below(kernel)
    kernel.missing.add("cgroup.procs")
    for pid in (20, 21):
        assert groups.admit(pid, Share()) is None
    assert list(groups.folder.iterdir()) == []
    assert caplog.text.count("could not be put into a cgroup") == 1


def test_a_worker_that_has_ended_by_then_is_nothing_to_speak_of(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    groups = below(kernel)
    caplog.clear()
    assert groups.admit(99, Share()) is None
    assert list(groups.folder.iterdir()) == []
    assert caplog.records == []


def test_what_a_killed_hub_left_is_ended_and_removed_at_the_start(kernel: Kernel) -> None:
    left = below(kernel).folder / "1-77"
    left.mkdir()
    groups = below(kernel)
    assert kernel.killed == [left]
    assert list(groups.folder.iterdir()) == []


# --- what is delegated -----------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in (
        tmp_path,
        tmp_path / "a.slice",
        tmp_path / "a.slice/hub.service",
        tmp_path / "a.slice/hub.service/hub",
    ):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.procs").write_text("")
    return tmp_path


def delegate(folder: Path) -> Path:
    try:
        os.setxattr(folder, "user.delegate", b"1")  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        pytest.skip("this file system keeps no attributes")
    return folder


def found(tree: Path, own: str, *, root: str = "/") -> Path | None:
    return delegated_folder(MOUNTINFO.format(root=root, point=tree), f"1:name=systemd:/x\n0::{own}\n")


def test_a_service_with_delegation_is_the_hubs_to_arrange(tree: Path) -> None:
    service = delegate(tree / "a.slice/hub.service")
    assert found(tree, "/a.slice/hub.service") == service


@pytest.mark.parametrize("own", ["/a.slice/hub.service/hub", "/a.slice/hub.service/main"])
def test_a_hub_in_a_group_below_the_delegated_one_arranges_that(tree: Path, own: str) -> None:
    """It has moved itself there before, or systemd has put it there (DelegateSubgroup=)."""
    (tree / own[1:]).mkdir(exist_ok=True)
    service = delegate(tree / "a.slice/hub.service")
    assert found(tree, own) == service


@pytest.mark.parametrize("own", ["/a.slice/hub.service", "/a.slice"])
def test_a_group_nobody_delegated_is_left_alone_even_by_root(tree: Path, own: str) -> None:
    assert found(tree, own) is None


def test_the_top_of_a_containers_tree_is_its_own(tree: Path) -> None:
    assert found(tree, "/") == tree


def test_a_tree_mounted_from_further_down_is_understood(tree: Path) -> None:
    assert found(tree, "/docker/abc", root="/docker/abc") == tree


@pytest.mark.parametrize(
    ("mountinfo", "own"),
    [("24 23 0:22 / /proc rw - proc proc rw", "0::/"), (MOUNTINFO.format(root="/", point="/nowhere"), "3:cpu:/")],
)
def test_a_system_without_cgroup_v2_has_nothing_to_delegate(mountinfo: str, own: str) -> None:
    assert delegated_folder(mountinfo, own) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_tree_that_may_only_be_read_is_left_alone(tree: Path) -> None:
    (tree / "cgroup.procs").chmod(0o400)
    assert found(tree, "/") is None


def test_a_tree_without_a_place_for_processes_is_left_alone(tree: Path) -> None:
    (tree / "cgroup.procs").unlink()
    assert found(tree, "/") is None


# --- a real tree -----------------------------------------------------------------------------------------------------


def real_tree() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point, kind = Path(line.split()[4]), line.partition(" - ")[2].split()[0]
        own = next((it[4:] for it in Path("/proc/self/cgroup").read_text().splitlines() if it.startswith("0::/")), None)
        if kind == "cgroup2" and own is not None and os.access(point / own / "cgroup.procs", os.W_OK):
            return point / own
    return None


@pytest.fixture
def real() -> Iterator[Cgroups]:
    """Groups without a controller, below the group this test runs in."""
    tree = real_tree()
    if tree is None:
        pytest.skip("no cgroup v2 tree that may be written to")
    folder = tree / f"hub-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no group can be made here")
    groups = Cgroups(folder, frozenset())
    yield groups
    groups.sweep()
    folder.rmdir()


ESCAPING = """
child = subprocess.Popen(['sleep', '60'], start_new_session=True)
print(child.pid, flush=True)
hear()
"""


@pytest.mark.usefixtures("nothing_left")
async def test_a_process_goes_with_all_it_started_also_what_left_its_process_group(
    real: Cgroups, tmp_path: Path
) -> None:
    process = await Process.start(python("hear()\n" + ESCAPING), {}, tmp_path, ProcessLimits(), real)
    await process.send(b"{}")
    escaped = int(await process.read_line())
    (folder,) = [path for path in real.folder.iterdir() if path.is_dir()]
    assert set(Cgroup(folder).pids()) == {process.pid, escaped}
    await process.stop()
    await until(lambda: is_gone(escaped))
    assert not folder.exists()


@pytest.mark.usefixtures("nothing_left", "short_ladder")
async def test_a_worker_has_a_group_as_long_as_it_lives(real: Cgroups, tmp_path: Path) -> None:
    worker = await start_worker(tmp_path, cgroups=real)
    (folder,) = [path for path in real.folder.iterdir() if path.is_dir()]
    assert Cgroup(folder).pids() == [worker.pid]
    await worker.stop()
    assert not folder.exists()


def test_leftovers_are_killed_and_removed(real: Cgroups) -> None:
    process = subprocess.Popen(["sleep", "60"])
    group = real.admit(process.pid, Share())
    assert group is not None
    assert not group.remove()
    assert real.sweep() == 1
    assert process.wait(BOUND_S) == -9
    assert not group.path.exists()


def test_without_the_kernels_own_way_every_process_of_a_group_is_killed(
    real: Cgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 5.14."""
    process = subprocess.Popen(["sleep", "60"])
    group = real.admit(process.pid, Share())
    assert group is not None
    write = cgroups._write

    def refuse(path: Path, value: str) -> None:
        if path.name == "cgroup.kill":
            raise FileNotFoundError(path)
        write(path, value)

    monkeypatch.setattr(cgroups, "_write", refuse)
    group.kill()
    assert process.wait(BOUND_S) == -9
