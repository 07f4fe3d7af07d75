"""Ray: where work runs. This machine by default, a cluster by ``RAY_ADDRESS``."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from pipelines import progress
from pipelines.errors import OutsideSystemError
from pipelines.files import sha256_bytes, temporary_name
from pipelines.workspace import Workspace, private_folder

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""At 0 Ray stays on loopback; else it takes this machine's own address even where 127.0.0.1 is asked for."""
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""An actor that looks for nodes which a cloud takes back. Any idle process of Ray costs 0.7 % of a core."""


_ending: list[threading.Thread] = []
"""Of a Ray that was used; no other one is started, and Python does not end, before it has ended."""


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def storage(workspace: Workspace) -> str:
    """Where Ray keeps checkpoints: ``LCLSC_STORAGE`` on a cluster, else beside the workspace's other state."""
    return os.environ.get("LCLSC_STORAGE") or str(workspace.state / "ray")


def samples(workspace: Workspace) -> Path:
    """Where mapped frames lie while trainings last: on this machine, or where all of a cluster's nodes see them."""
    place = storage(workspace)
    local = place == str(workspace.state / "ray") or "://" in place
    return workspace.state / "samples" if local else Path(place) / "samples"


@contextlib.contextmanager
def runtime(workspace: Workspace) -> Iterator[None]:
    """Ray for the duration of a run; children join it by ``RAY_ADDRESS``. A cluster that is given stays up."""
    if os.environ.get("RAY_ADDRESS"):
        yield
        return
    address = _start(workspace)
    os.environ["RAY_ADDRESS"] = address
    try:
        yield
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        _ending.append(threading.Thread(target=_stop, args=[workspace], name="end Ray"))
        _ending[-1].start()  # a second or two in which the caller goes on


def connect(workspace: Workspace) -> None:
    """Join the run's Ray, or start one of our own where a stage is run by hand."""
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=worker_environment())
    else:
        _start(workspace)
        atexit.register(_stop, workspace)


def map_items(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workspace: Workspace,
    title: str,
    unit: str,
    note: Callable[[Result], str] = lambda _: "",
) -> list[Result]:
    """``function`` over ``items`` on Ray workers, one CPU each; results in the order of the items.

    An exception in one item is raised here once the others that were under way have ended.
    """
    import ray

    if not items:
        return []
    connect(workspace)
    remote = ray.remote(num_cpus=1, max_retries=2)(function)
    places = placements(_looks(workspace.root))
    width = len(places)
    results: dict[int, Result] = {}
    waiting: dict[Any, int] = {}
    todo = iter(enumerate(items))
    with progress.track(title, len(items), unit) as tracker:
        while True:
            for index, item in _take(todo, 2 * width - len(waiting)):
                waiting[remote.options(scheduling_strategy=places[index % width]).remote(item)] = index
            if not waiting:
                return [results[index] for index in range(len(items))]
            done, _ = ray.wait(list(waiting), num_returns=1)
            for reference in done:
                result = _unwrapped(ray.get, reference)
                results[waiting.pop(reference)] = result
                tracker.advance(note(result))


def blind_nodes(folder: Path) -> list[str]:
    """Addresses of the cluster's nodes on which ``folder`` is not the folder that it is here."""
    return [str(node["NodeManagerAddress"]) for node, sees in _looks(folder) if not sees]


def here() -> Any:
    """A scheduling strategy: on the node of this process. It is gone only when this process is."""
    import ray

    return _on(ray.get_runtime_context().get_node_id())


def placements(looks: Sequence[tuple[dict[str, Any], bool]]) -> list[Any]:
    """A scheduling strategy for each processor that items may take: of nodes that see the workspace.

    Items name files. Where all nodes see them Ray chooses; a node with a disk of its own gets none.
    ``looks``: each node as Ray describes it, and whether it sees the workspace.
    """
    seeing = [node for node, sees in looks if sees]
    if len(seeing) == len(looks):
        return ["DEFAULT"] * max(1, sum(_cpus(node) for node in seeing))
    return [place for node in seeing for place in [_on(node["NodeID"])] * max(1, _cpus(node))]


def _looks(folder: Path) -> list[tuple[dict[str, Any], bool]]:
    """Each living node with processors, and whether it finds here a file that was made a moment ago."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and _cpus(node)]
    if len(nodes) == 1:
        return [(nodes[0], True)]
    with tempfile.NamedTemporaryFile(prefix=f"{temporary_name()}-", dir=folder) as token:
        look = ray.remote(num_cpus=0, max_retries=2)(_is_there)
        asked = [look.options(scheduling_strategy=_on(node["NodeID"])).remote(token.name) for node in nodes]
        return [(node, _sees(reference)) for node, reference in zip(nodes, asked, strict=True)]


def _on(node_id: str) -> Any:
    """A scheduling strategy: on this node or nowhere."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def _sees(reference: Any) -> bool:
    """A node that died a moment ago sees nothing."""
    import ray
    from ray.exceptions import RayError

    try:
        return bool(ray.get(reference))
    except RayError:
        return False


def _is_there(path: str) -> bool:
    return Path(path).exists()


def _cpus(node: dict[str, Any]) -> int:
    return int(node["Resources"].get("CPU", 0))


def _unwrapped(get: Callable[[Any], Any], reference: Any) -> Any:
    """Ray wraps what a task raised; the caller wants the cause."""
    from ray.exceptions import RayTaskError

    try:
        return get(reference)
    except RayTaskError as error:
        raise error.cause from None


def _take(source: Iterator[Item], count: int) -> Iterator[Item]:
    for _ in range(count):
        try:
            yield next(source)
        except StopIteration:
            return


def _start(workspace: Workspace) -> str:
    """A Ray of our own on this machine. Tried twice: a busy machine is slow to start its agents."""
    while _ending:
        _ending.pop().join()
    os.environ.setdefault(LOOPBACK_ONLY, "0")
    os.environ.setdefault(PREEMPTION_WATCHER, "0")
    import ray

    folder = _session_folder(workspace)
    for attempt in (1, 2):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            context = ray.init(
                address="local",
                num_cpus=_processors(),  # Ray Train's own actors ask for none
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=str(folder),
                _node_ip_address="127.0.0.1",
                runtime_env=worker_environment(),
            )
            return str(context.address_info["gcs_address"])
        except Exception as error:
            ray.shutdown()
            if attempt == 2:
                raise OutsideSystemError(
                    "ray_start",
                    f"Ray did not start: {error}",
                    f"Look into {folder} for its logs; free memory or disk and try again.",
                    transient=True,
                ) from error
            time.sleep(1.0)
    raise AssertionError("unreachable")


def _stop(workspace: Workspace) -> None:
    import ray

    ray.shutdown()
    shutil.rmtree(_session_folder(workspace), ignore_errors=True)


def worker_environment() -> dict[str, Any]:
    """What workers need of our environment, on other machines too; GPU visibility stays Ray's business."""
    names = ("LCLSC_OWNER", "LCLSC_PROGRESS")
    passed = {name: value for name, value in os.environ.items() if name in names or name.startswith("RAY_TRAIN_")}
    return {"env_vars": passed | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}


def _processors() -> int:
    """Workers that are asked for get their place even where cores are fewer: they take turns."""
    return max(usable_cores(), int(os.environ.get("LCLSC_WORKERS") or 0))


def _session_folder(workspace: Workspace) -> Path:
    """Short (socket paths end at 107 characters), one a process, in a parent that is its owner's alone.

    Ray opens its own folder to everybody; sockets in it would lead to patients' frames. Folders that killed
    processes left in the parent are removed.
    """
    parent = Path(tempfile.gettempdir()) / f"lclsc-{os.getuid()}-{sha256_bytes(str(workspace.root).encode())[:8]}"
    _require_own(parent)
    private_folder(parent)
    for left in parent.iterdir():
        if left.name.isdigit() and not psutil.pid_exists(int(left.name)):
            shutil.rmtree(left, ignore_errors=True)
    return parent / str(os.getpid())


def _require_own(folder: Path) -> None:
    """Made here, or a folder of this account: where everybody may write, a known name may be somebody's trap."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OutsideSystemError(
            "foreign_folder",
            f"{folder} is a link, or belongs to another account.",
            "Have it removed, or set TMPDIR to a folder of your own.",
        )
