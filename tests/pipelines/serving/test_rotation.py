"""A promotion drops no request, and nothing that a new version does wrong reaches who asks the old one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipelines.errors import OutsideSystemError, StageError, WrongUseError
from pipelines.files import write_json
from pipelines.serving import front_door
from pipelines.serving.backend import Backend
from pipelines.serving.candidate import Candidate, withdrawal
from pipelines.serving.rotation import Rotation
from pipelines.serving.terms import Terms, checked

STAND_IN = Path(__file__).with_name("stand_in.py")
SOUND = {"glioma": 0.75, "meningioma": 0.25}
ASK = {"content-type": "application/json"}


class Registry:
    """Versions as folders; ``alias`` is moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.alias, self.down = folder, "1", False
        self.concerns: dict[str, str] = {}

    def add(self, version: str, **behaviour: Any) -> None:
        package = self.folder / version
        write_json(package / "behaviour.json", {"version": version, "probabilities": SOUND} | behaviour)
        write_json(package / "artifacts" / "model" / "model.json", {"classes": sorted(SOUND)})
        write_json(package / "serving_input_example.json", {})

    def wanted(self) -> str:
        if self.down:
            raise OutsideSystemError("mlflow", "The registry is away.", "Wait.", transient=True)
        return self.alias

    def concern(self, number: str) -> str | None:
        return self.concerns.get(number)

    def fetch(self, number: str) -> Candidate:
        return Candidate(
            version=number, weights_sha256=number * 64, lineage_sha256=number * 64, package=self.folder / number
        )


class Served:
    """A rotation behind its front door, and a client."""

    def __init__(self, rotation: Rotation, client: httpx.AsyncClient) -> None:
        self.rotation, self.client = rotation, client

    async def ask(self, **what: Any) -> httpx.Response:
        return await self.client.post("/invocations", json=what)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not what():
                await asyncio.sleep(0.02)

    async def until_version(self, number: str) -> None:
        await self.until(lambda: self.rotation.active is not None and self.rotation.active.version == number)

    async def health(self) -> dict[str, Any]:
        return dict((await self.client.get("/health")).json())


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(tmp_path / "versions")
    for version in ("1", "2"):
        made.add(version)
    return made


async def start(backend: Backend) -> None:
    await backend.start([sys.executable, str(STAND_IN), str(backend.candidate.package)])


@contextlib.asynccontextmanager
async def served(registry: Registry, **changes: Any) -> AsyncIterator[Served]:
    terms = Terms(**({"poll_seconds": 0.05, "request_seconds": 20.0, "retry_seconds": 0.2} | changes))
    folder = registry.folder.parent / "sockets"
    folder.mkdir()
    before = psutil.Process().children()
    rotation = Rotation(registry, terms, folder, start)
    await rotation.begin()
    following = asyncio.create_task(rotation.follow())
    transport = httpx.ASGITransport(front_door.build(rotation, terms))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        try:
            yield Served(rotation, client)
        finally:
            following.cancel()
            await rotation.close()
    assert list(folder.iterdir()) == []
    assert set(psutil.Process().children()) <= set(before)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))  # type: ignore[arg-type]


def test_promotions_drop_no_request_and_each_answer_is_of_one_version(registry: Registry) -> None:
    async def ask_on(server: Served, answers: list[httpx.Response], enough: asyncio.Event) -> None:
        while not enough.is_set():
            answers.append(await server.ask(sleep=0.005))

    async def test() -> None:
        async with served(registry) as server:
            answers: list[httpx.Response] = []
            enough = asyncio.Event()
            clients = [asyncio.create_task(ask_on(server, answers, enough)) for _ in range(4)]
            for number in ("2", "1", "2"):
                registry.alias = number
                await server.until_version(number)
                await asyncio.sleep(0.1)
            enough.set()
            await asyncio.gather(*clients)
            await server.until(lambda: server.rotation.report()["draining"] == 0)
        assert {answer.status_code for answer in answers} == {200}
        named = [answer.headers["x-lclsc-version"] for answer in answers]
        assert named == [answer.json()["predictions"][0]["by"] for answer in answers]
        assert set(named) == {"1", "2"}

    run(test)


def test_a_request_under_way_is_finished_by_the_version_that_began_it(registry: Registry) -> None:
    async def test() -> None:
        async with served(registry) as server:
            old = server.rotation.active
            assert old is not None
            slow = asyncio.create_task(server.ask(sleep=2))
            await server.until(lambda: old.leases == 1)
            registry.alias = "2"
            await server.until_version("2")
            assert not old.ended.is_set()
            assert (await server.ask()).headers["x-lclsc-version"] == "2"
            assert (await slow).headers["x-lclsc-version"] == "1"
            await server.until(old.ended.is_set)

    run(test)


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        ({"broken": "no such module"}, "ended with code 1 (no such module)"),
        ({"probabilities": {"glioma": 0.75, "meningioma": 0.75}}, "do not add up to 1"),
        ({"probabilities": {"glioma": 1.0}}, "not those of its model card"),
    ],
)
def test_a_version_that_does_not_start_or_answer_leaves_the_old_one(
    registry: Registry, behaviour: dict[str, Any], cause: str
) -> None:
    async def test() -> None:
        registry.add("3", **behaviour)
        async with served(registry) as server:
            registry.alias = "3"
            await server.until(lambda: server.rotation.problem is not None)
            health = await server.health()
            assert (health["status"], health["version"]) == ("degraded", "1")
            assert cause in health["problem"]
            assert (await server.ask()).headers["x-lclsc-version"] == "1"
            registry.add("3")  # mended: it is tried again by itself
            await server.until_version("3")
            assert (await server.health())["status"] == "ok"

    run(test)


def test_without_a_first_version_there_is_no_server(registry: Registry) -> None:
    async def test() -> None:
        registry.add("1", broken="no such module")
        with pytest.raises(OutsideSystemError, match="no such module"):
            async with served(registry):
                pass

    run(test)


def test_a_slow_start_ends_in_time(registry: Registry) -> None:
    async def test() -> None:
        write_json(registry.folder / "1" / "serving_input_example.json", {"sleep": 60})
        with pytest.raises(OutsideSystemError, match="not ready after 2 s"):
            async with served(registry, start_seconds=2.0):
                pass

    run(test)


def test_a_version_that_crashes_is_started_again_and_waited_for(registry: Registry) -> None:
    async def test() -> None:
        async with served(registry) as server:
            broken_off = await server.ask(crash=True)
            assert broken_off.status_code == 502
            await server.until(lambda: server.rotation.active is None)
            assert (await server.client.get("/ping")).status_code == 503
            assert (await server.ask()).status_code == 200
            await server.until(lambda: server.rotation.problem is None)

    run(test)


def test_a_version_that_crashes_while_another_starts_is_not_asked_any_more(registry: Registry) -> None:
    async def test() -> None:
        write_json(registry.folder / "2" / "serving_input_example.json", {"sleep": 2})
        async with served(registry) as server:
            registry.alias = "2"
            await server.until(lambda: len(list((registry.folder.parent / "sockets").iterdir())) == 2)
            assert (await server.ask(crash=True)).status_code == 502
            await server.until(lambda: server.rotation.active is None)
            answer = await server.ask()
            assert (answer.status_code, answer.headers["x-lclsc-version"]) == (200, "2"), "it waited for the next one"

    run(test)


def test_after_the_end_a_request_is_told_that_there_is_nobody(registry: Registry) -> None:
    async def test() -> None:
        (registry.folder.parent / "sockets").mkdir()
        rotation = Rotation(registry, Terms(request_seconds=0.2), registry.folder.parent / "sockets", start)
        await rotation.begin()
        await rotation.close()
        with pytest.raises(TimeoutError):
            await rotation.lease()

    run(test)


def test_a_registry_that_is_away_changes_nothing_for_who_asks(registry: Registry) -> None:
    async def test() -> None:
        async with served(registry) as server:
            registry.down = True
            await server.until(lambda: server.rotation.problem is not None)
            assert "away" in (await server.health())["problem"]
            assert (await server.ask()).status_code == 200
            registry.down, registry.alias = False, "2"
            await server.until_version("2")

    run(test)


def test_a_version_that_started_while_the_registry_went_away_does_not_stay(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = registry.fetch

    def fetch_and_lose(number: str) -> Candidate:
        registry.down = number == "2"
        return fetch(number)

    monkeypatch.setattr(registry, "fetch", fetch_and_lose)

    async def test() -> None:
        async with served(registry) as server:  # looks for processes that are left, when it ends
            registry.alias = "2"
            await server.until(lambda: server.rotation.problem is not None)
            registry.alias, registry.down = "1", False
            await server.until(lambda: len(list((registry.folder.parent / "sockets").iterdir())) == 1)

    run(test)


def test_a_withdrawal_while_it_runs_is_said_and_stops_nobody(registry: Registry) -> None:
    async def test() -> None:
        async with served(registry) as server:
            registry.concerns["1"] = "Version 1 was made from 1 patients whose consent was withdrawn since."
            await server.until(lambda: server.rotation.problem is not None)
            health = await server.health()
            assert health["status"] == "degraded"
            assert "withdrawn" in health["problem"]
            assert (await server.ask()).status_code == 200
            registry.alias = "2"
            await server.until_version("2")
            assert (await server.health())["status"] == "ok"

    run(test)


def test_an_alias_that_moves_on_during_a_start_is_followed_to_its_end(registry: Registry) -> None:
    async def test() -> None:
        seen = []
        async with served(registry) as server:
            registry.alias = "2"
            await server.until(lambda: len(list((registry.folder.parent / "sockets").iterdir())) == 2)
            registry.alias = "1"
            for _ in range(20):
                seen.append((await server.ask()).headers["x-lclsc-version"])
                await asyncio.sleep(0.05)
        assert seen[-1] == "1"

    run(test)


def test_what_is_too_large_is_refused_declared_or_not(registry: Registry) -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 100

    async def test() -> None:
        async with served(registry, max_body_bytes=2000) as server:
            declared = await server.client.post("/invocations", content=b" " * 3000, headers=ASK)
            counted = await server.client.post("/invocations", content=in_pieces(), headers=ASK)
            assert (declared.status_code, counted.status_code) == (413, 413)
            assert "larger than" in counted.json()["message"]
            assert (await server.ask()).status_code == 200

    run(test)


def test_errors_name_their_cause_and_no_stack(registry: Registry) -> None:
    async def test() -> None:
        said = {
            "error_code": "INVALID_PARAMETER_VALUE",
            "message": "Failed on '…secret…'. \nError: no PNG",
            "stack_trace": "File x",
        }
        async with served(registry) as server:
            refused = await server.ask(refuse=said)
            assert refused.status_code == 400
            assert refused.json() == {"error_code": "INVALID_PARAMETER_VALUE", "message": "no PNG"}
            assert refused.headers["x-lclsc-version"] == "1"
            untyped = await server.client.post("/invocations", content=b"{}")
            assert untyped.status_code == 415
            assert (await server.client.get("/invocations")).status_code == 405

    run(test)


def test_a_version_that_talks_much_goes_on_answering(registry: Registry) -> None:
    async def test() -> None:
        async with served(registry) as server:
            for _ in range(3):
                assert (await server.ask(say=1_000_000)).status_code == 200

    run(test)


def test_an_answer_that_takes_too_long_is_given_up(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(front_door, "GRACE_SECONDS", 0.0)
        async with served(registry, request_seconds=1.0) as server:
            assert (await server.ask(sleep=3)).status_code == 504
            assert (await server.ask()).status_code == 200
            assert server.rotation.active is not None
            assert server.rotation.active.leases == 0

    run(test)


def test_a_token_is_asked_for_where_one_is_set(registry: Registry) -> None:
    async def test() -> None:
        async with served(registry, token="a secret") as server:
            for given in ({}, {"authorization": "Bearer another"}, {"authorization": "a secret"}):
                for answer in (
                    await server.client.post("/invocations", json={}, headers=given),
                    await server.client.get("/version", headers=given),
                ):
                    assert answer.status_code == 401
            right = {"authorization": "Bearer a secret"}
            assert (await server.client.post("/invocations", json={}, headers=right)).status_code == 200
            assert (await server.client.get("/version", headers=right)).json()["version"] == "1"
            assert (await server.client.get("/ping")).status_code == 200
        assert "a secret" not in repr(Terms(token="a secret"))

    run(test)


def test_a_name_that_a_web_page_made_up_does_not_lead_here(registry: Registry) -> None:
    async def test() -> None:
        async with served(registry) as server:
            for host, status in (("evil.example", 400), ("localhost:5001", 200), ("127.0.0.1:5001", 200)):
                assert (await server.client.get("/ping", headers={"host": host})).status_code == status

    run(test)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "server.example"])
def test_an_open_address_needs_a_token(host: str) -> None:
    with pytest.raises(WrongUseError, match="LCLSC_SERVE_TOKEN"):
        checked(Terms(host=host))
    assert checked(Terms(host=host, token="a secret")).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert checked(Terms(host=host)).is_local


def test_a_version_made_from_a_withdrawn_patient_is_refused_and_one_tested_on_them_is_remarked_on() -> None:
    roles = [("a", "train"), ("b", "validation"), ("c", "test")]
    videos = [{"patient_id": patient, "role": role} for patient, role in roles]
    assert withdrawal("2", {"videos": videos, "withdrawn": []}) == ()
    for patient in "ab":
        with pytest.raises(StageError, match="Version 2 was made from 1 patient"):
            withdrawal("2", {"videos": videos, "withdrawn": [patient]})
    (remark,) = withdrawal("2", {"videos": videos, "withdrawn": ["c"]})
    assert json.dumps(remark).count("1 of its test patients")
