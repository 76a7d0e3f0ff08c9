"""Records what the dashboards are judged by: an incident and a calm time, played by real Dovecots and real clients.

    python3 tests/dashboards/record.py incident|calm [MINUTES]

Six hosts, each a Dovecot with an exporter beside it, live through a quarter of an hour in real time (MINUTES: the same, faster).
Every page of every exporter is written down as it was served, under its time, with the labels `instance` and `job` that a
Prometheus would give it, and with `up`. Only what is this machine's is replaced: the lab's directory and its ports.
Run it as root; EXPORTER names the program, as for the tests.

    mail1  2.3, a process per client; fills up, turns clients away; cured by a higher process_limit, set before the
           reload, which makes client_limit of auth too low
    mail2  2.4, a process per client; the same, cured by performance mode
    mail3  2.3, performance mode; comes near its capacity
    mail4  2.4, performance mode; clients that do not log in fill it, and some are thrown out for others
    mail5  2.3, a process per client, the exporter as nobody; comes near its limit; the exporter is down for a minute
    mail6  2.4, clients without TLS; imap is full, and users who have logged in are lost
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import lzma
import random
import re
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from imap_clients import HOST
from lab import PASSWORD, PERFORMANCE_MODE, USERS, Dovecot, Exporter, http_get, session
from recording import INTERVAL, RECORDINGS

MINUTES = 16
PATIENCE = 12  # seconds a client waits for its turn
STAY = 240  # seconds that a client stays, in the mean
PIDS = Path("/sys/fs/cgroup/pids")  # of a cgroup file system of the first version
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
PORTS = {"imap": 143, "imaps": 993}
LOGIN = "imap-login"

Course = Sequence[tuple[float, float]]  # (minute, clients), with straight lines between


@dataclasses.dataclass
class Host:
    name: str
    generation: str
    settings: dict[str, str | int]  # of imap-login
    incident: Course
    calm: Course
    kind: str = "idle"  # over TLS, so that a client keeps its imap-login process; or "plain", or "silent"
    others: dict[str, dict[str, str | int]] = dataclasses.field(default_factory=dict)  # settings of other services
    unprivileged: bool = False

    @property
    def services(self) -> dict[str, dict[str, str | int]]:
        return {LOGIN: self.settings, **self.others}


def hosts() -> list[Host]:
    shared = {**PERFORMANCE_MODE, "process_min_avail": 2}
    full: Course = [(0, 14), (3, 15), (6.5, 52), (MINUTES, 50)]
    return [
        Host("mail1", "2.3", {"process_limit": 40}, full, [(0, 12), (8, 19), (MINUTES, 15)],
             others={"auth": {"client_limit": 160}}),
        Host("mail2", "2.4", {"process_limit": 40}, full, [(0, 15), (5, 11), (MINUTES, 18)]),
        Host("mail3", "2.3", {**shared, "process_limit": 2, "client_limit": 40},
             [(0, 32), (3, 35), (9, 70), (MINUTES, 68)], [(0, 28), (9, 36), (MINUTES, 30)]),
        Host("mail4", "2.4", {**shared, "process_limit": 2, "client_limit": 10},
             [(0, 5), (6, 6), (7, 26), (10, 26), (11, 5), (MINUTES, 6)], [(0, 5), (8, 8), (MINUTES, 6)], kind="silent"),
        Host("mail5", "2.3", {"process_limit": 30},
             [(0, 9), (3, 10), (8, 26), (MINUTES, 26)], [(0, 8), (7, 12), (MINUTES, 10)], unprivileged=True),
        Host("mail6", "2.4", {"process_limit": 30}, [(0, 5), (6, 5), (7.5, 16), (9.5, 16), (10, 7), (MINUTES, 6)],
             [(0, 4), (6, 6), (MINUTES, 5)], kind="plain", others={"imap": {"process_limit": 12}}),
    ]  # fmt: skip


# --- Clients ------------------------------------------------------------------

_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_TLS.check_hostname = False
_TLS.verify_mode = ssl.CERT_NONE


async def client(ports: dict[str, int], kind: str, user: str, stay: float) -> None:
    """One session, from connect until the client has stayed or the server ends it."""
    tls = kind == "idle"
    port = ports["imaps" if tls else "imap"]
    writer = None
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection(HOST, port, ssl=_TLS if tls else None)
                await reader.readuntil(b"\r\n")
                if kind != "silent":
                    for tag, command in enumerate((f"LOGIN {user} {PASSWORD}", "SELECT INBOX")):
                        writer.write(f"{tag} {command}\r\n".encode())
                        while not (line := await reader.readuntil(b"\r\n")).startswith(b"%d " % tag):
                            pass
                        if b" OK " not in line:
                            return
                    writer.write(b"9 IDLE\r\n")
            async with asyncio.timeout(stay):
                await reader.read()
        finally:
            if writer is not None:
                writer.transport.abort()


async def people(ports: dict[str, int], kind: str, wanted: Callable[[], float], numbers: random.Random) -> None:
    """Keeps as many clients as are wanted, those that try to get in included; they come and go."""
    users = itertools.cycle(range(1, USERS + 1))
    present: set[asyncio.Task[None]] = set()
    try:
        while True:
            present = {task for task in present if not task.done()}
            missing = round(wanted()) - len(present)
            for _ in range(min(missing, 4)):
                stay = numbers.expovariate(1 / STAY)
                present.add(asyncio.create_task(client(ports, kind, f"u{next(users)}", stay)))
            for task in list(present)[: max(-missing, 0)]:
                task.cancel()
            await asyncio.sleep(1)
    finally:
        for task in present:
            task.cancel()


def at(course: Course, minute: float) -> float:
    for (left, low), (right, high) in itertools.pairwise(course):
        if minute <= right:
            return low + (high - low) * (minute - left) / (right - left)
    return course[-1][1]


# --- Pages --------------------------------------------------------------------


class Recording:
    """Samples by family and series, in the order of their time."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, dict[str, list[str]]]] = {}

    def add(self, family: str, kind: str, series: str, value: str, seconds: int) -> None:
        samples = self._families.setdefault(family, (kind, {}))[1].setdefault(series, [])
        samples.append(f"{series} {value} {seconds}\n")

    def page(self, text: str, labels: str, seconds: int) -> None:
        family = kind = ""
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                family, kind = line.removeprefix("# TYPE ").split(" ")
            elif not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                name, _, own = series.partition("{")
                series = f"{name}{{{labels},{own}" if own else f"{name}{{{labels}}}"
                self.add(family, kind, series, value, seconds)

    def text(self) -> str:
        parts = []
        for family, (kind, series) in self._families.items():
            parts.append(f"# TYPE {family} {kind}\n")
            parts += itertools.chain.from_iterable(series.values())
        return "".join([*parts, "# EOF\n"])


def anonymous(page: str, dovecot: Dovecot) -> str:
    page = page.replace(str(dovecot.log_path), "/var/log/mail.log").replace(str(dovecot.base_dir), "/run/dovecot")
    for listener, port in dovecot.ports.items():
        page = re.sub(rf'(?<=[,{{])port="{port}"', f'port="{PORTS[listener]}"', page)
    return page


async def scrape(recording: Recording, host: Host, dovecot: Dovecot, exporter: Exporter, seconds: int) -> None:
    labels = f'instance="{host.name}.example.org:9166",job="dovecot"'
    up = 0
    with contextlib.suppress(OSError):
        page = (await asyncio.to_thread(http_get, exporter.address, "/metrics", {"Accept": OPEN_METRICS}))[2]
        recording.page(anonymous(page, dovecot), labels, seconds)
        up = 1
    recording.add("up", "gauge", f"up{{{labels}}}", str(up), seconds)


# --- The play -----------------------------------------------------------------


@dataclasses.dataclass
class Stage:
    dovecots: dict[str, Dovecot]
    exporters: dict[str, Exporter]
    hosts: dict[str, Host]

    def configure(self, name: str, **settings: str | int) -> None:
        self.hosts[name].settings = {**self.hosts[name].settings, **settings}
        self.dovecots[name].write_config(services=self.hosts[name].services)

    def reload(self, name: str) -> None:
        self.dovecots[name].reload()


def acts(stage: Stage) -> dict[str, list[tuple[float, Callable[[], object]]]]:
    """What happens at which minute, beside the clients."""
    return {
        "incident": [
            (9, lambda: stage.configure("mail1", process_limit=80)),
            (10, lambda: stage.reload("mail1")),
            (11, lambda: stage.configure("mail2", **PERFORMANCE_MODE, client_limit=20, process_limit=10)),
            (11.05, lambda: stage.reload("mail2")),
            (13, lambda: stage.exporters["mail5"].stop()),
            (14, lambda: stage.exporters["mail5"].start()),
        ],
        "calm": [(6, lambda: stage.reload("mail4")), (10, lambda: stage.reload("mail1"))],
    }


async def play(scene: str, minutes: float) -> Recording:
    recording, numbers = Recording(), random.Random(1)
    with contextlib.ExitStack() as stack:
        stage = Stage({}, {}, {host.name: host for host in hosts()})
        for host in stage.hosts.values():
            # By its name an exporter that is not root tells one Dovecot from the others.
            name = f"{host.name}-{scene}"
            dovecot = Dovecot(host.generation, services=host.services, instance_name=name)
            group = PIDS / f"record-{name}"
            group.mkdir()
            stack.callback(group.rmdir)
            stack.enter_context(dovecot)
            (group / "pids.max").write_text("250")
            for pid in session(dovecot.master_pid):
                (group / "cgroup.procs").write_text(str(pid))
            dovecot.log_path.chmod(0o644)
            exporter = Exporter.unprivileged(dovecot) if host.unprivileged else Exporter(dovecot)
            stage.dovecots[host.name] = dovecot
            stage.exporters[host.name] = stack.enter_context(exporter)
        begin = time.time()

        def minute() -> float:
            return (time.time() - begin) / 60 * MINUTES / minutes

        def wanted(host: Host) -> Callable[[], float]:
            return lambda: at(getattr(host, scene), minute())

        crowds: list[Awaitable[None]] = [
            asyncio.create_task(people(stage.dovecots[host.name].ports, host.kind, wanted(host), numbers))
            for host in stage.hosts.values()
        ]
        todo = acts(stage)[scene]
        while minute() < MINUTES:
            seconds = round(time.time())
            await asyncio.gather(
                *(scrape(recording, host, stage.dovecots[host.name], stage.exporters[host.name], seconds)
                  for host in stage.hosts.values())
            )  # fmt: skip
            while todo and todo[0][0] <= minute():
                await asyncio.to_thread(todo.pop(0)[1])
            for crowd in crowds:
                if crowd.done():  # type: ignore[attr-defined]
                    await crowd  # tells why
            await asyncio.sleep(seconds + INTERVAL - time.time())
        for crowd in crowds:
            crowd.cancel()  # type: ignore[attr-defined]
        await asyncio.gather(*crowds, return_exceptions=True)
    return recording


def main() -> None:
    scene, minutes = sys.argv[1], float((sys.argv[2:] or [MINUTES])[0])
    text = asyncio.run(play(scene, minutes)).text()
    if found := re.search(r"/tmp/|dovecot-lab", text):
        raise SystemExit(f"of this machine: {text[found.start() - 100 : found.end() + 100]}")
    (RECORDINGS / f"{scene}.om.xz").write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
