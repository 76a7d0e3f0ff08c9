#!/usr/bin/env python3
"""Measures what the rules and the dashboards cost a Prometheus that scrapes 1,000 exporters of 20 services each.

    fleet.py                  the full run, about a quarter of an hour, 4 GiB of memory and of disk
    fleet.py --instances N    another number of exporters
    fleet.py --quick          50 of them and a short run, to see that everything can be measured

It prints tables and ends with 1 if something took a second or longer, or if the rules did not find what they are made
to find here. Needs root, tests/e2e/install-packages.sh and a built exporter; $EXPORTER is another one. What is measured,
and what the figures mean: docs/BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.dont_write_bytecode = True
REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests/e2e"))
from imap_clients import Clients  # noqa: E402
from lab import Dovecot, Exporter, Prometheus, free_port, http_get, parse_metrics, wait_until  # noqa: E402

RULES = REPOSITORY / "alerts/dovecot.rules.yml"
DASHBOARDS = REPOSITORY / "dashboards"
BOUND = 1.0  # seconds
MINUTE, HOUR, DAY, WEEK = 60, 3600, 86400, 604800
SCRAPE_INTERVAL = 15
TURNS = 5  # of a query
PROTOCOLS = ("imap", "pop3", "submission", "sieve", "lmtp")
# Sockets of services that the page says little of until they have a process. 20 services then have all metrics.
KNOCK_AT = ("lmtp", "dict", "indexer", "indexer-worker", "auth-worker")
SERVICES = 20
BUSY = "imap-login"
# Of 1,000 instances how many have which fault, most of them in BUSY; the others are well.
ROLES = {
    "full": 100,  # at the limit, turns clients away
    "growing": 20,  # reaches it in a week
    "surging": 10,  # reaches it in hours
    "shared": 30,  # performance mode, near capacity
    "blind": 30,  # the master's socket does not answer
    "blind and shared": 10,
    "changed": 20,  # another process_limit on disk
    "small": 20,  # auth takes too few connections
    "behind": 10,  # the log is not read to its end
    "down": 5,  # no Dovecot
    "gone": 5,  # no exporter
}
# Who must have which alert, pending or firing.
EXPECTED = {
    "DovecotClientsTurnedAway": "full",
    "DovecotLoginsLost": "full",
    "DovecotServiceAtLimit": "full",
    "DovecotServiceNearLimit": "growing",
    "DovecotServiceNearCapacity": "shared",
    "DovecotLimitNotInForce": "changed",
    "DovecotNextLimitTooSmall": "small",
    "DovecotMasterDown": "down",
    "DovecotExporterSourceDown": "blind and shared",
    "DovecotExporterLogNotRead": "behind",
    "DovecotExporterDown": "gone",
    "DovecotServiceLimitPredicted 1w": "growing",
    "DovecotServiceLimitPredicted 4h": "surging",
}
# What only the master's socket tells.
FROM_MASTER = re.compile(
    r"dovecot_service_(connections|processes_(counted|available)|listen_paused|process_starts_total)$"
)
IN_USE = "instance_service:dovecot_service_clients:in_use"
CAPACITY = "instance_service:dovecot_service_clients:capacity"
RATIO = "instance_service:dovecot_service_clients_per_capacity:ratio"
FULLEST = "instance:dovecot_service_clients_per_capacity:max"
JOB_RATIO = "job_service:dovecot_service_clients_per_capacity:ratio"
WORKERS = ("auth-worker", "indexer-worker")  # have no capacity, say the rules
WITHOUT_TREND = ("anvil", "auth", *WORKERS, "config", "indexer", "log", "stats")


# --- the instances ----------------------------------------------------------------


class Line(NamedTuple):
    """Of a page: a series, or a comment, which has no name."""

    text: str  # up to the value
    name: str
    labels: str
    service: str
    value: str


def real_page() -> list[Line]:
    """What the exporter says of a Dovecot that has every protocol and some clients."""
    with contextlib.ExitStack() as stack:
        dovecot = stack.enter_context(Dovecot("2.4", protocols=PROTOCOLS))
        exporter = stack.enter_context(Exporter(dovecot))
        stack.enter_context(Clients(dovecot)).idle(5)
        for name in KNOCK_AT:
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(dovecot.base_dir / name))

        def complete() -> str | None:
            page = exporter.get("/metrics", Accept="application/openmetrics-text;version=1.0.0")[2]
            return page if page.count("\ndovecot_service_connections{") == SERVICES else None

        page = wait_until(complete, 30, f"{SERVICES} services on the page")
    return [parse_line(line) for line in page.splitlines()]


def parse_line(line: str) -> Line:
    if line.startswith("#"):
        return Line(line, "", "", "", "")
    series, value = line.rsplit(" ", 1)
    name, _, labels = series.partition("{")
    service = re.search(r'service="([^"]+)"', labels)
    return Line(series + " ", name, labels.rstrip("}"), service[1] if service else "", value)


@dataclasses.dataclass(eq=False)
class Fleet:
    page: list[Line]
    size: int
    now: int  # all curves refer to it, so that the time of day makes no difference

    def instance(self, number: int) -> str:
        return f"mail{number:03}.example.org:9166"

    def role(self, number: int) -> str:
        """The same parts of a smaller fleet."""
        return [*ROLES, "well"][bisect.bisect(list(itertools.accumulate(ROLES.values())), number * 1000 // self.size)]


class Settings(NamedTuple):
    """Of a service."""

    process_limit: float
    client_limit: float
    process_min_avail: float
    restart_request_limit: float

    @property
    def capacity(self) -> float:
        return self.process_limit * self.client_limit


@functools.cache
def settings_of(fleet: Fleet, role: str) -> dict[str, Settings]:
    """By service."""
    found = {(line.name, line.service): float(line.value) for line in fleet.page if line.service}
    services = [service for name, service in found if name == "dovecot_service_connections"]
    settings = {
        service: Settings(*(found[f"dovecot_service_{name}", service] for name in Settings._fields))
        for service in services
    }
    if role.endswith("shared"):
        settings[BUSY] = Settings(4, 1000, 4, math.inf)
    return settings


@functools.cache
def usual(number: int, service: str) -> float:
    """How full a service is at its best hour."""
    return random.Random(f"{number} {service}").uniform(0.02, 0.45)


def fullness(role: str, number: int, service: str, age: float) -> float:
    """Clients per capacity, `age` seconds before the fleet's present, which is the peak of a day's curve."""
    day = 0.75 + 0.25 * math.cos(2 * math.pi * age / DAY)
    match role if service == BUSY else "":
        case "full":
            return 1
        case "growing":
            return 0.9 * day * max(1 - 0.5 * age / WEEK, 0.1)
        case "surging":
            return 0.4 * day + 0.15 * min(max(2 - age / HOUR, 0), 3)
        case "shared":
            return 0.9 * day
    return usual(number, service) * day


def clients_of(fleet: Fleet, number: int, age: float) -> dict[str, int]:
    """By service; they vary from minute to minute."""
    role = fleet.role(number)
    wave = 1 if role == "full" else 1 + 0.02 * math.sin(age / MINUTE + number)
    return {
        service: int(settings.capacity * fullness(role, number, service, age) * wave)
        for service, settings in settings_of(fleet, role).items()
    }


def page_of(fleet: Fleet, number: int, moment: float) -> Iterator[tuple[Line, str]]:
    """What an instance answers to a scrape: lines, and the values."""
    role, age = fleet.role(number), fleet.now - moment // MINUTE * MINUTE
    settings, clients = settings_of(fleet, role), clients_of(fleet, number, age)
    for line in fleet.page:
        name, service = line.name, line.service
        if role.startswith("blind") and FROM_MASTER.match(name):
            continue
        if service in settings:
            yield line, value_of(line, role, clients[service], settings[service], age)
        elif name == "dovecot_master_up" and role == "down":
            yield line, "0"
        elif name == "dovecot_exporter_source_up" and role.startswith("blind") and "master" in line.labels:
            yield line, "0"
        elif name == "dovecot_exporter_log_size_bytes" and role == "behind":
            yield line, "1000000000"
        else:
            yield line, line.value


def value_of(line: Line, role: str, clients: int, settings: Settings, age: float) -> str:
    """Of a series of a service."""
    full = role == "full" and line.service == BUSY
    passed = 30 * DAY - age
    alone = settings.client_limit == 1
    processes = min(clients + settings.process_min_avail, settings.process_limit) if alone else 1
    value: float
    match line.name.removeprefix("dovecot_service_"):
        case "process_limit" | "client_limit" | "process_min_avail" | "restart_request_limit" as name:
            value = getattr(settings, name)
        case "process_limit_configured":
            value = settings.process_limit + (50 if role == "changed" and line.service == BUSY else 0)
        case "connection_capacity":
            value = settings.capacity
        case "client_limit_required":
            value = 2000 if role == "small" else 500
        case "connections":
            value = clients
        case "processes" | "processes_peak" | "processes_counted":
            value = processes
        case "processes_available":
            value = processes - clients if alone else processes
        case "resident_memory_bytes":
            value = processes * 4_500_000
        case "process_starts_total":
            value = passed // 10
        case "listen_paused":
            value = full
        case "at_process_limit_seconds_total" if full:
            value = passed
        case "drop_warnings_total" if full and "process_limit" in line.labels:
            value = passed // 12
        case "queue_full_kills_total" if full:
            value = passed // 120
        case "handover_failures_total" if role == "full" and line.service == "imap":
            value = passed // 120
        case _:
            return line.value
    return "inf" if value == math.inf else str(int(value))


def serve(fleet: Fleet, listener: socket.socket) -> None:
    """All instances at one port, each at a path of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                number = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1][1:])
                if fleet.role(number) == "gone":
                    break
                # Not compressed: on loopback that would only cost.
                body = "".join(f"{line.text}{value}\n" for line, value in page_of(fleet, number, time.time())).encode()
                kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(answer, sock=listener, backlog=1000) as server:
            await server.serve_forever()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(run())


# --- the rules, and the history they look at ------------------------------------------


class Group(NamedTuple):
    """Of rules."""

    name: str
    interval: int
    recorded: tuple[str, ...]


Span = tuple[int, int]  # of ages
DURATION = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}


def seconds(duration: str) -> int:
    return sum(int(number) * DURATION[unit] for number, unit in re.findall(r"(\d+)([smhdw])", duration or ""))


def read_groups(text: str) -> list[Group]:
    groups = []
    for block in re.split(r"(?m)^  - name: ", text)[1:]:
        interval = re.search(r"(?m)^    interval: (\w+)", block)
        recorded = re.findall(r"(?m)^      - record: (\S+)", block)
        groups.append(Group(block.split()[0], seconds(interval[1]) if interval else SCRAPE_INTERVAL, tuple(recorded)))
    return groups


def looked_at(text: str) -> dict[str, list[Span]]:
    """What of each recorded series the rules reach back to: ranges, subqueries and offsets."""
    spans: dict[str, list[Span]] = {}
    reference = r"(\w*instance\w*:[\w:]+)(?:\{[^}]*\})?(?:\[(\w+)(?::\w*)?\])?(?:\s+offset\s+(\w+))?"
    for name, window, offset in re.findall(reference, text):
        if window or offset:
            back = seconds(offset)
            spans.setdefault(name, []).append((back + seconds(window) + HOUR // 2, max(0, back - HOUR // 2)))
    return {name: merge(some) for name, some in spans.items()}


def merge(spans: list[Span]) -> list[Span]:
    """Those that overlap become one."""
    merged: list[Span] = []
    for first, last in sorted(spans, reverse=True):
        if merged and first >= merged[-1][1]:
            merged[-1] = merged[-1][0], min(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def most(role: str, number: int, service: str, age: float, window: float) -> float:
    """The fullest moment of a window, by its ends and by the peak of the day."""
    ages = [age, age + window, *([math.ceil(age / DAY) * DAY] if age % DAY + window >= DAY else [])]
    return max(fullness(role, number, service, at) for at in ages)


def trend(name: str, role: str, number: int, service: str, age: float) -> float | None:
    """What the trend's rules record, per capacity, if anything."""

    def recorded(what: str, back: float = 0) -> float:
        return trend(what, role, number, service, age + back) or 0

    match name.removeprefix("instance_service:dovecot_service_clients:"):
        case "min5m" | "in_use":
            return fullness(role, number, service, age)
        case "max1h":
            return most(role, number, service, age, HOUR)
        case "max1d":
            return most(role, number, service, age, DAY)
        case "max3d":
            return most(role, number, service, age, 3 * DAY)
        case "max1d_min31h":
            return min(most(role, number, service, age + back * HOUR, DAY) for back in (0, 31))
        case "max1d_grown":
            grown = recorded("max1d_min31h")
            return grown if grown > max(recorded("max3d", days * DAY) for days in (6, 9, 12)) else None
        case "max1h_usual4h":
            return max(most(role, number, service, age + week * WEEK - 4 * HOUR, HOUR) for week in (1, 2))
        case "max1h_unusual":
            now, *then = (most(role, number, service, age + week * WEEK, HOUR) for week in (0, 1, 2))
            return now - max(then)
        case "max1h_predicted4h":
            unusual = recorded("max1h_unusual")
            grown = 4 * max(unusual - recorded("max1h_unusual", HOUR), 0)
            return recorded("max1h_usual4h") + unusual + grown if unusual > 0 else None
    raise RuntimeError(f"what was {name} in the past? Say so in bench/fleet.py")


def has_in_use(role: str, settings: Settings) -> bool:
    """Whether the rules know how many clients there are."""
    alone = settings.client_limit == 1 and settings.restart_request_limit == 1
    return role != "gone" and (alone or not role.startswith("blind"))


def long_history(
    fleet: Fleet, start: int, end: int, spans: dict[str, list[Span]], every: dict[str, int]
) -> Iterator[str]:
    """What the rules recorded in that time and look at: for each series its lines."""
    for name, some in spans.items():
        step = every[name]
        # A value holds for ten minutes, or for as long as there is no other.
        hold = max(10 * MINUTE, step)
        stamps = []
        for first, last in some:
            begin, stop = max(start, fleet.now - first), min(end, fleet.now - last)
            begin = -(-begin // step) * step
            stamps += [range(at, min(at + hold, stop), step) for at in range(begin, stop, hold)]
        if not stamps:
            continue
        texts = [list(map(str, some)) for some in stamps]
        for number in range(fleet.size):
            role = fleet.role(number)
            for service, settings in settings_of(fleet, role).items():
                if not has_in_use(role, settings) or service in WITHOUT_TREND:
                    continue
                series = f'{name}{{instance="{fleet.instance(number)}",job="dovecot",service="{service}"}} '
                for some, text in zip(stamps, texts):
                    share = trend(name, role, number, service, fleet.now - some[0])
                    if share is None:
                        continue
                    head = f"{series}{int(settings.capacity * share)} "
                    yield head + f"\n{head}".join(text) + "\n"


def last_hour(fleet: Fleet, start: int, end: int, names: set[str], host: int, of_host: set[str]) -> Iterator[str]:
    """What the dashboards draw, as it was scraped and recorded; the host dashboard's only of its host."""
    for minute in range(start, end, MINUTE):
        stamps = [str(stamp) for stamp in range(minute, minute + MINUTE, SCRAPE_INTERVAL)]
        in_use: Counter[str] = Counter()
        capacity: Counter[str] = Counter()

        def lines(name: str, labels: str, value: float | str) -> str:
            head = f"{name}{{{labels}}} {value} "
            return head + f"\n{head}".join(stamps) + "\n"

        for number in range(fleet.size):
            role = fleet.role(number)
            if role == "gone":
                continue
            wanted = names | of_host if number == host else names
            target = f'instance="{fleet.instance(number)}",job="dovecot"'
            if "up" in wanted:
                yield lines("up", target, 1)
            for line, value in page_of(fleet, number, minute):
                if line.name in wanted:
                    yield lines(line.name, f"{target},{line.labels}".rstrip(","), value)
            clients = clients_of(fleet, number, fleet.now - minute)
            ratios = []
            for service, settings in settings_of(fleet, role).items():
                if not has_in_use(role, settings):
                    continue
                labels = f'{target},service="{service}"'
                found: dict[str, float] = {IN_USE: clients[service]}
                if service not in WORKERS and settings.capacity > 1:
                    in_use[service] += clients[service]
                    capacity[service] += settings.capacity
                    ratios.append(clients[service] / settings.capacity)
                    found |= {CAPACITY: settings.capacity, RATIO: ratios[-1]}
                full = role == "full" and service == BUSY
                found |= {f"instance_service:dovecot_service_{what}:increase5m": count if full else 0
                          for what, count in (("drop_warnings", 25), ("queue_full_kills", 2.5))}
                for name in wanted & found.keys():
                    yield lines(name, labels, found[name])
            if FULLEST in wanted and ratios:
                yield lines(FULLEST, target, max(ratios))
        if JOB_RATIO in names:
            for service, count in capacity.items():
                yield lines(JOB_RATIO, f'job="dovecot",service="{service}"', in_use[service] / count)


# promtool cuts blocks at multiples of this.
BLOCK = 18 * HOUR


def backfill(data: Path, *parts: tuple[Any, ...]) -> int:
    """Writes a block of history; the number of samples. A part is a function that makes lines, and its arguments."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory:
        text, count = Path(directory, "history.om"), 0
        with text.open("w") as file:
            for function, *arguments in parts:
                for lines in function(*arguments):
                    count += lines.count("\n")
                    file.write(lines)
            file.write("# EOF\n")
        if count:
            subprocess.run(
                ["promtool", "tsdb", "create-blocks-from", "openmetrics"]
                + [f"--max-block-duration={BLOCK // HOUR}h", text, data],
                check=True, capture_output=True, env={**os.environ, "TMPDIR": directory},
            )
        return count


# --- the dashboards -----------------------------------------------------------------------


class Query(NamedTuple):
    """Of a dashboard."""

    what: str
    expression: str
    step: int  # 0 is a query of this moment


class Dashboard(NamedTuple):
    name: str
    variables: list[dict[str, Any]]
    queries: list[Query]

    def metrics(self) -> set[str]:
        """Whose past is drawn."""
        return {name for query in self.queries if query.step for name in re.findall(r"[\w:]+", query.expression)}


def read_dashboard(path: Path) -> Dashboard:
    model = json.loads(path.read_text())

    def panels(some: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for panel in some:
            yield panel
            yield from panels(panel.get("panels", []))

    queries = [
        Query(f"annotation: {annotation['name']}", annotation["expr"], step_of(annotation.get("step"), None))
        for annotation in model["annotations"]["list"]
        if "expr" in annotation
    ]
    for panel in panels(model["panels"]):
        for target in panel.get("targets", []):
            step = 0 if target.get("instant") else step_of(target.get("interval"), panel.get("maxDataPoints"))
            queries.append(Query(panel["title"], target["expr"], step))
    variables = [variable for variable in model["templating"]["list"] if variable["type"] == "query"]
    return Dashboard(path.stem, variables, queries)


def step_of(least: str | None, points: int | None) -> int:
    """As Grafana takes it for an hour: range by width, rounded, and no less than the scrape interval."""
    raw = HOUR / (points or 1600)
    rounded = next((nice for most, nice in ((17.5, 15), (25, 20), (45, 30), (90, 60), (210, 120)) if raw <= most), 300)
    return max(rounded, SCRAPE_INTERVAL, seconds(least or ""))


# --- the measurements ------------------------------------------------------------------------


class FleetPrometheus(Prometheus):
    """One that scrapes the fleet at `port`."""

    def __init__(self, fleet: Fleet, port: int) -> None:
        super().__init__([])
        self.data = self._directory / "data"
        rules = self._directory / "rules.yml"
        # Groups that run more rarely would not run while we look.
        rules.write_text(re.sub(r"(?m)^    interval: \w+", "    interval: 1m", RULES.read_text()))
        self.config.write_text(json.dumps({
            "global": {"scrape_interval": f"{SCRAPE_INTERVAL}s", "evaluation_interval": f"{SCRAPE_INTERVAL}s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{
                "job_name": "dovecot",
                "static_configs": [{"targets": list(map(fleet.instance, range(fleet.size)))}],
                "relabel_configs": [
                    {"source_labels": ["__address__"], "target_label": "instance"},
                    {"source_labels": ["__address__"], "regex": r"mail(\d+)\..*", "target_label": "__metrics_path__",
                     "replacement": "/$1"},
                    {"target_label": "__address__", "replacement": f"127.0.0.1:{port}"},
                ],
            }],
        }))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def own(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The metrics of itself."""
        return parse_metrics(http_get(self.address, "/metrics", {"Accept": "text/plain;version=0.0.4"})[2])

    def evaluations(self) -> Iterator[tuple[str, float, float]]:
        """Of each group of rules the name, and of its last evaluation the moment and the duration."""
        own = self.own()
        for (name, labels), value in own.items():
            if name == "prometheus_rule_group_last_duration_seconds":
                moment = own["prometheus_rule_group_last_evaluation_timestamp_seconds", labels]
                yield dict(labels)["rule_group"].rpartition(";")[2], moment, value


def timed(prometheus: FleetPrometheus, path: str, **parameters: str) -> tuple[list[float], Any]:
    """How long a query took, some times over, and the last answer."""
    url = f"http://{prometheus.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    times = []
    # Of one that takes too long, one time is enough.
    while len(times) < TURNS and sum(times) < 5 * BOUND:
        before = time.perf_counter()
        with urllib.request.urlopen(url, timeout=180) as response:
            answer = response.read()
        times.append(time.perf_counter() - before)
    return times, json.loads(answer)["data"]


class Table:
    """Prints, and remembers whether all was within the bound."""

    fine = True

    def row(self, what: str, times: list[float], note: str = "") -> None:
        value = statistics.median(times)
        self.fine &= value < BOUND
        met = "yes" if value < BOUND else "NO"
        print(f"| {what:<64} | {value:7.3f} | {max(times):7.3f} | {met:<3} | {note:<28} |", flush=True)

    def head(self, what: str, note: str) -> None:
        print(f"\n| {what:<64} | median  | longest | < 1 | {note:<28} |")
        print(f"|{'-' * 66}|{'-' * 9}|{'-' * 9}|-----|{'-' * 30}|")

    def check(self, what: str, found: float, right: float, fine: bool) -> None:
        self.fine &= fine
        print(f"{'ok ' if fine else 'NOT'} {what}: {found:,.0f}, expected {right:,.0f}", flush=True)


def measure_rules(prometheus: FleetPrometheus, length: int, table: Table) -> None:
    """How long the evaluations of the groups take."""
    seen: dict[tuple[str, float], float] = {(name, moment): 0 for name, moment, _ in prometheus.evaluations()}
    old = set(seen)
    end = time.monotonic() + length
    while time.monotonic() < end:
        time.sleep(2)
        seen |= {(name, moment): duration for name, moment, duration in prometheus.evaluations()}
    times: dict[str, list[float]] = {}
    for key in seen.keys() - old:
        times.setdefault(key[0], []).append(seen[key])
    table.head("group of rules", "evaluations")
    for group in prometheus.api("rules")["groups"]:
        table.row(group["name"], times[group["name"]], f"{len(times[group['name']])}")
        for rule in group["rules"]:
            labels = rule.get("labels", {})
            what = f"- {rule['name']} {labels.get('horizon', '')}"
            alerts = f"{len(rule['alerts'])} alerts" if "alerts" in rule else ""
            print(f"| {what:<64} | {rule['evaluationTime']:7.3f} |         |     | {alerts:<28} |")
            if rule["health"] != "ok":
                table.fine = False
                print(f"NOT ok: {rule.get('lastError')}")


def check_rules(prometheus: FleetPrometheus, fleet: Fleet, table: Table) -> None:
    """Whether the rules found what is there, or their cost means nothing."""
    print()
    roles = [fleet.role(number) for number in range(fleet.size)]
    ratios = sum(
        has_in_use(role, settings) and service not in WORKERS and settings.capacity > 1
        for role in roles
        for service, settings in settings_of(fleet, role).items()
    )
    found = prometheus.query(f"count({RATIO})")[0][1]
    table.check(f"series of {RATIO}", found, ratios, found == ratios)
    alerts: Counter[str] = Counter()
    for group in prometheus.api("rules")["groups"]:
        for rule in group["rules"]:
            name = f"{rule['name']} {rule.get('labels', {}).get('horizon', '')}".rstrip()
            hosts = {alert["labels"].get("instance") for alert in rule.get("alerts", [])}
            alerts[name] += len(hosts)
    for name, role in EXPECTED.items():
        # Of the well some are near their limits, too.
        table.check(f"hosts with {name}", alerts[name], roles.count(role), alerts[name] >= roles.count(role))
    states = Counter(alert["state"] for alert in prometheus.api("alerts")["alerts"])
    print("   alerts:", ", ".join(f"{count} {state}" for state, count in states.items()))


def measure_templates(prometheus: FleetPrometheus, fleet: Fleet, table: Table) -> None:
    """A query as the descriptions of alerts have them."""
    table.head("queries in the descriptions of alerts", "")
    times = []
    for number in range(min(100, fleet.size)):
        labels = f'{{job="dovecot",instance="{fleet.instance(number)}",service="{BUSY}"}}'
        before = time.perf_counter()
        prometheus.query(f"dovecot_service_processes{labels}")
        times.append(time.perf_counter() - before)
    table.row("one of them, 100 hosts", times)


def measure_dashboard(prometheus: FleetPrometheus, fleet: Fleet, host: int, board: Dashboard, table: Table) -> None:
    """Each query of a dashboard, as Grafana sends it for the last hour."""
    table.head(board.name, "")
    now = time.time()
    chosen = {"__rate_interval": f"{4 * SCRAPE_INTERVAL}s", "__range": f"{HOUR}s"}

    def fill(expression: str) -> str:
        names = sorted(chosen, key=len, reverse=True)
        return re.sub(rf"\$({'|'.join(names)})\b", lambda found: chosen[found[1]], expression)

    for variable in board.variables:
        name = variable["name"]
        query = variable["query"]["query"] if isinstance(variable["query"], dict) else variable["query"]
        what, inner = re.fullmatch(r"(\w+)\((.*)\)", query, re.DOTALL).groups()
        if what == "label_values":
            series, _, label = inner.rpartition(",")
            parameters = {"match[]": fill(series), "start": str(now - HOUR)}
            times, _ = timed(prometheus, f"label/{label.strip()}/values", **parameters)
            one = re.escape(fleet.instance(host))
            chosen[name] = (variable.get("allValue") or ".+") if variable.get("includeAll") else one
        else:
            times, data = timed(prometheus, "query", query=fill(inner))
            texts = [json.dumps(result["metric"]).replace('": "', '="') for result in data["result"]]
            pattern = variable.get("regex", "").strip("/")
            chosen[name] = "|".join(re.search(pattern, text)[1] for text in texts) if texts else "none"
        # In a string of PromQL.
        chosen[name] = chosen[name].replace("\\", "\\\\")
        table.row(f"variable: {name}", times)
    panels: dict[str, list[tuple[list[float], str]]] = {}
    for query in board.queries:
        parameters = {"query": fill(query.expression)}
        if query.step:
            parameters |= {"start": str(now - HOUR), "end": str(now), "step": str(query.step)}
        times, data = timed(prometheus, "query_range" if query.step else "query", **parameters)
        note = f"{len(data['result'])} series" + (f", step {query.step} s" if query.step else "")
        panels.setdefault(query.what, []).append((times, note))
    for what, some in panels.items():
        times, note = max(some, key=lambda one: statistics.median(one[0]))
        table.row(what, times, note + (f", of {len(some)}" if len(some) > 1 else ""))


def cpu(pid: int) -> float:
    """CPU seconds of a process with all its threads: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures what rules and dashboards cost a Prometheus of a fleet.")
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="50 instances and a short run")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("must be root, as Dovecot's master is")
    size = 50 if options.quick else options.instances
    # Ranges of five minutes are to be full, and then each group is to run some times.
    warm_up, length = (75, 75) if options.quick else (6 * MINUTE, 3 * MINUTE)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that all is removed
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s, load {os.getloadavg()[0]:.1f}] {text}", flush=True)

    fleet, host, table = Fleet(real_page(), size, int(time.time())), 0, Table()
    say(f"{size:,} instances, {sum(bool(line.name) for line in fleet.page)} series each")
    boards = [read_dashboard(path) for path in sorted(DASHBOARDS.glob("*.json"))]
    text = RULES.read_text()
    groups, spans = read_groups(text), looked_at(text)
    every = {name: group.interval for group in groups for name in group.recorded}
    spans = {name: some for name, some in spans.items() if name in every}
    names: set[str] = set().union(*(board.metrics() for board in boards if "fleet" in board.name))
    of_host: set[str] = set().union(*(board.metrics() for board in boards if "host" in board.name))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", free_port()), backlog=1000))
        prometheus = FleetPrometheus(fleet, listener.getsockname()[1])
        stack.callback(prometheus.close)
        data = prometheus.data
        oldest = max((first for some in spans.values() for first, _ in some), default=0)
        cut = (fleet.now - HOUR) // MINUTE * MINUTE
        edges = [*range((fleet.now - oldest) // BLOCK * BLOCK, cut, BLOCK), cut]
        with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
            jobs = [
                pool.submit(backfill, data, (long_history, fleet, *window, spans, every))
                for window in zip(edges, edges[1:])
            ]
            samples = sum(job.result() for job in jobs)
        end = int(time.time()) // MINUTE * MINUTE
        undrawn = {name: some for name, some in spans.items() if name not in names}
        samples += backfill(
            data,
            (long_history, fleet, cut, end, undrawn, every),
            (last_hour, fleet, max(end - HOUR, cut), end, names, host, of_host),
        )
        say(f"{samples:,} samples of history")
        server = multiprocessing.Process(target=serve, args=(fleet, listener), daemon=True)
        server.start()
        stack.callback(server.kill)
        stack.enter_context(prometheus)
        start = time.monotonic()
        time.sleep(warm_up)
        say("measuring")
        used = cpu(prometheus.pid)
        measured = time.monotonic()
        measure_rules(prometheus, length, table)
        share = (cpu(prometheus.pid) - used) / (time.monotonic() - measured)
        check_rules(prometheus, fleet, table)
        measure_templates(prometheus, fleet, table)
        for board in boards:
            measure_dashboard(prometheus, fleet, host, board, table)
        status = Path(f"/proc/{prometheus.pid}/status").read_text()
        memory = {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024**2 for name in ("VmRSS", "VmHWM")}
        series = prometheus.own()["prometheus_tsdb_head_series", frozenset()]
        disk = sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) / 1024**2
        served = cpu(server.pid) / (time.monotonic() - start)
        print(f"\nPrometheus: {series:,.0f} series, {memory['VmRSS']:.1f} GiB (peak {memory['VmHWM']:.1f}), "
              f"{disk:,.0f} MiB on disk, {share:.2f} of a core for scrapes and rules; "
              f"the simulated exporters: {served:.2f} of a core.")
    say("all is under a second" if table.fine else "NOT all is as it should be")
    return 0 if table.fine else 1


if __name__ == "__main__":
    sys.exit(main())
