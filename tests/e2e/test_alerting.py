"""The way of an alert with real parts: Dovecot, exporter, Prometheus, Alertmanager, webhook.

The rules and routes are those of alerts/. Only their durations are made shorter, for all but the
first test, so that hours pass in minutes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import imaplib
import json
import re
import socket
import subprocess
import tempfile
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from imap_clients import HOST, Client, Clients
from lab import (
    PERFORMANCE_MODE,
    REPOSITORY,
    Alertmanager,
    Dovecot,
    Exporter,
    Prometheus,
    Webhook,
    free_port,
    wait_until,
)

RULES = REPOSITORY / "alerts/dovecot.rules.yml"
ROUTES = REPOSITORY / "alerts/alertmanager.yml"
GENERATIONS = ("2.3", "2.4")
SERVICE = "imap-login"
PATIENCE = 120
CHECK = unittest.TestCase()
BOUND = 10  # seconds from the first client that is turned away to the page
SOURCE_UP = "dovecot_exporter_source_up"
TURNED_AWAY = "DovecotClientsTurnedAway"
LOGINS_LOST = "DovecotLoginsLost"
AT_LIMIT = "DovecotServiceAtLimit"
NEAR_LIMIT = "DovecotServiceNearLimit"
NEAR_CAPACITY = "DovecotServiceNearCapacity"
NOT_IN_FORCE = "DovecotLimitNotInForce"
NEXT_LIMIT = "DovecotNextLimitTooSmall"
MASTER_DOWN = "DovecotMasterDown"
SOURCE_DOWN = "DovecotExporterSourceDown"

# --- shorter durations --------------------------------------------------------

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(?:\d+(?:ms|[smhdw]))+")
_KEYS = "for|keep_firing_for|interval|query_offset|group_wait|group_interval|repeat_interval"
_KEY_LINE = re.compile(rf"(\s*(?:- )?(?:{_KEYS}): *)(.*)")
# Within an expression; a word that ends in a duration (`increase5m`) is none.
_RANGE = re.compile(r"(?<=\[)[^]]*(?=\])|(?<=\boffset )\S[\w.]*")
_PROSE = re.compile(r"(\s*(?:- )?)(?:annotations|labels|group_by|equal|(?:\w+_)?matchers):(.*)")


def shorter(text: str, times: int) -> str:
    """The rules or routes in `text`, with every duration divided; refuses what it does not understand.

    Prometheus scrapes and evaluates once a second here. Where 15 s are usual, a range of a 15th holds
    as many samples, and `for` asks as many of them.
    """
    return "".join(_shorter_lines(text, times))


def _shorter_lines(text: str, times: int) -> Iterator[str]:
    prose: int | None = None  # the indentation of the key whose value is no expression
    for line in text.splitlines(keepends=True):
        indent = len(line) - len(line.lstrip(" "))
        if prose is not None and (not line.strip() or indent > prose):
            yield line
            continue
        prose = None
        if line.lstrip().startswith("#"):
            yield line
        elif match := _PROSE.match(line):
            if not match[2].strip():
                prose = len(match[1])
            yield line
        elif match := _KEY_LINE.fullmatch(line.rstrip("\n")):
            yield f"{match[1]}{_divided(match[2], times)}\n"
        else:
            # Two of them in a subquery.
            yield _RANGE.sub(lambda found: ":".join(_divided(part, times) for part in found[0].split(":")), line)


def _divided(duration: str, times: int) -> str:
    if not _DURATION.fullmatch(duration):
        raise ValueError(f"not understood as a duration: {duration!r}")
    milliseconds = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([a-z]+)", duration))
    # Up, for there is no shorter unit, and 0 would mean something else.
    return f"{-(-milliseconds // times)}ms"


class Shorter(unittest.TestCase):
    def test_rules(self) -> None:
        """Compared as Prometheus understands either file, in its own writing of expressions."""
        whole, divided = map(self.read_by_prometheus, (RULES.read_text(), shorter(RULES.read_text(), 15)))
        for one, other in zip(whole, divided, strict=True):
            with self.subTest(one["name"]):
                self.assertEqual(other["name"], one["name"])
                for key in ("duration", "keepFiringFor", "interval"):
                    self.assertEqual(15 * other.get(key, 0), one.get(key, 0))
                self.assertEqual(self.in_milliseconds(other["query"], 15), self.in_milliseconds(one["query"], 1))
                self.assertEqual(other.get("annotations"), one.get("annotations"))
        # There was something to compare.
        self.assertGreater(sum(len(re.findall(r"\[|offset", rule["query"])) for rule in whole), 10)
        for key in ("duration", "keepFiringFor", "interval"):
            self.assertTrue(any(rule.get(key) for rule in whole), key)

    def read_by_prometheus(self, rules: str) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "rules.yml")
            file.write_text(rules)
            with Prometheus([], [file]) as prometheus:
                groups = wait_until(lambda: prometheus.api("rules")["groups"], PATIENCE, "the rules")
                return [
                    # 1 s is the lab's, of groups that have no interval of their own.
                    {**rule, "interval": 0 if group["interval"] == 1 else group["interval"]}
                    for group in sorted(groups, key=lambda group: group["name"])
                    for rule in group["rules"]
                ]

    def in_milliseconds(self, query: str, times: int) -> str:
        units = {**_UNITS, "y": 365 * _UNITS["d"]}

        def sum_up(duration: re.Match[str]) -> str:
            parts = re.findall(r"(\d+)([a-z]+)", duration[0])
            return str(times * sum(int(number) * units[unit] for number, unit in parts))

        return re.sub(r"(?<!\w)(?:\d+(?:ms|[smhdwy]))+(?!\w)", sum_up, query)

    def test_routes(self) -> None:
        keys = rf"^ *(?:{_KEYS}): (.*)$"
        texts = ROUTES.read_text(), shorter(ROUTES.read_text(), 15)
        whole, divided = (re.findall(keys, text, re.M) for text in texts)
        self.assertEqual(whole[:3], ["1m", "5m", "3d"])
        self.assertEqual(divided[:4], ["4000ms", "20000ms", "17280000ms", "67ms"])
        self.assertEqual(len(whole), len(divided))

    def test_refuses_what_it_does_not_understand(self) -> None:
        keys = "for: five minutes", "for: 300", "interval: 1.5m", "keep_firing_for:"
        ranges = "a[300]", "a[$x]", "a[1d:]", "a offset -5m", "a offset 300"
        for line in (*keys, *(f"expr: {expression}" for expression in ranges)):
            with self.subTest(line), self.assertRaises(ValueError):
                shorter(f"      {line}\n", 15)

    def test_leaves_the_rest(self) -> None:
        rest = (
            "# for: 5m\n  - record: a:increase5m\n    expr: b:max1h\n"
            "    labels:\n      horizon: 4h\n    annotations:\n      summary: |\n        a[5m]\n"
        )
        self.assertEqual(shorter(rest, 15), rest)


# --- the stage ----------------------------------------------------------------


@dataclasses.dataclass
class Stage:
    """One Dovecot with its exporter, and those who watch all of them."""

    dovecot: Dovecot
    exporter: Exporter
    prometheus: Prometheus
    alertmanager: Alertmanager
    webhook: Webhook
    clients: Clients
    until_the_end: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

    @property
    def instance(self) -> str:
        return self.exporter.address

    def told(self, receiver: str, status: str, alert: str, **labels: str) -> list[tuple[float, dict[str, Any]]]:
        """When this receiver was told of the alert, and how."""
        wanted = {"alertname": alert, "instance": self.instance, **labels}.items()
        return [
            (message.at, told)
            for message in list(self.webhook.messages)
            if message.receiver == receiver
            for told in message.payload["alerts"]
            if told["status"] == status and wanted <= told["labels"].items()
        ]

    def await_told(self, receiver: str, status: str, alert: str, **labels: str) -> tuple[float, dict[str, Any]]:
        """The first time that it was told."""
        what = f"{receiver} to be told that {alert} of {self.instance} is {status}"
        return wait_until(lambda: self.told(receiver, status, alert, **labels), PATIENCE, what, every=0.1)[0]

    def await_state(self, alert: str, state: str) -> None:
        """Until Prometheus has the alert in this state: pending, firing."""
        wait_until(
            lambda: self.query("ALERTS{%s}", alertname=alert, alertstate=state),
            PATIENCE,
            f"{alert} of {self.instance} to be {state}",
            every=0.25,
        )

    def query(self, expression: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Asks Prometheus about this instance; `%s` stands for the labels."""
        labels["instance"] = self.instance
        matchers = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
        return self.prometheus.query(expression % matchers)

    def await_value(self, metric: str, value: float, **labels: str) -> None:
        wait_until(
            lambda: [found for _, found in self.query(metric + "{%s}", **labels)] == [value],
            PATIENCE,
            f"{metric} {labels} of {self.instance} to be {value}",
            every=0.25,
        )

    def await_inhibited(self, alert: str, by: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Until Alertmanager says that it holds the alert back because of the other."""

        def inhibited() -> bool:
            meanwhile()
            alerts = self.alertmanager.alerts(instance=self.instance)
            others = {other["fingerprint"] for other in alerts if other["labels"]["alertname"] == by}
            return any(
                one["status"]["state"] == "suppressed" and others & set(one["status"]["inhibitedBy"])
                for one in alerts
                if one["labels"]["alertname"] == alert
            )

        wait_until(inhibited, PATIENCE, f"{alert} of {self.instance} to be inhibited by {by}", every=0.25)

    def await_calm(self) -> None:
        """Until nothing fires nor is about to."""
        wait_until(lambda: not self.query("ALERTS{%s}"), PATIENCE, f"{self.instance} to be calm", every=0.5)

    def fired(self) -> set[str]:
        """All that ever fired, by Prometheus' own record."""
        history = 'count by (alertname) (count_over_time(ALERTS{alertstate="firing",%s}[1h]))'
        return {labels["alertname"] for labels, _ in self.query(history)}

    def numbers(self, alert: dict[str, Any]) -> list[int]:
        """Those in the description, in their order."""
        description = alert["annotations"]["description"].replace(self.instance, "")
        return [int(number) for number in re.findall(r"\d+", description)]

    def assert_told_numbers(self, alert: dict[str, Any], *numbers: int) -> None:
        """The first ones are these; what is advised after them is not compared."""
        told = self.numbers(alert)[: len(numbers)]
        CHECK.assertEqual(told, list(numbers), alert["annotations"]["description"])

    def replace(self, old: list[Client], count: int) -> list[Client]:
        """Users who are cut off connect again, as mail programs do."""
        if not all(client.closed_by_server(PATIENCE) for client in old):
            raise AssertionError("a client from before still holds its connection")
        self.clients.close(old)
        return self.clients.idle(count)


# --- at once ------------------------------------------------------------------


def routes(webhook: Webhook, times: int = 1) -> str:
    """alerts/alertmanager.yml, with the webhook in place of the example's."""
    text = ROUTES.read_text()
    example = "http://127.0.0.1:8080/"
    if text.count(example) != 2:
        raise ValueError(f"{ROUTES} should have {example} once for each receiver")
    return shorter(text.replace(example, f"http://{webhook.address}/"), times)


class FirstPage(unittest.TestCase):
    """With the files as they are."""

    def test_within_ten_seconds_of_the_first_client_turned_away(self) -> None:
        webhook = self.enterContext(Webhook())
        alertmanager = self.enterContext(Alertmanager(routes(webhook)))
        pairs = []
        for generation in GENERATIONS:
            dovecot = self.enterContext(Dovecot(generation, services={SERVICE: {"process_limit": 5}}))
            pairs.append((dovecot, self.enterContext(Exporter(dovecot))))
        targets = [exporter.address for _, exporter in pairs]
        prometheus = self.enterContext(Prometheus(targets, [RULES], alertmanager=alertmanager))
        for dovecot, exporter in pairs:
            with self.subTest(dovecot.generation):
                clients = self.enterContext(Clients(dovecot))
                stage = Stage(dovecot, exporter, prometheus, alertmanager, webhook, clients)
                clients.idle(5)
                stage.await_value("dovecot_service_processes", 5, service=SERVICE)
                # Who knocks now is turned away: no earlier than this.
                knocked = time.monotonic()
                clients.knock(5, PATIENCE, until=lambda: dovecot.warnings(SERVICE))
                warned = time.monotonic()
                at, alert = stage.await_told("pager", "firing", TURNED_AWAY)
                print(
                    f"Dovecot {dovecot.generation}: paged {at - knocked:.2f} s after the first knock, "
                    f"{at - warned:.2f} s after its warning was seen in the log",
                    flush=True,
                )
                self.assertLess(at - knocked, BOUND)
                self.assertEqual(alert["labels"]["service"], SERVICE)


# --- stories ------------------------------------------------------------------
#
# Each is lived by a Dovecot of either generation, all at the same time.

USERS = 8  # five that have a mailbox open, three that would like to


def option_1(stage: Stage) -> None:
    """Clients are turned away until process_limit is raised."""
    stage.clients.idle(5)
    stage.await_value("dovecot_service_processes", 5, service=SERVICE)
    are_turned_away(stage)
    cure(stage, {SERVICE: {"process_limit": 20}})


def option_2(stage: Stage) -> None:
    """A full service pages before anybody knocks; then somebody does; then clients share processes."""
    holders = len(stage.clients.idle(5))
    _, alert = stage.await_told("pager", "firing", AT_LIMIT)
    status = stage.dovecot.service_status(SERVICE)
    limits = status["process_limit"], status["client_limit"]
    stage.assert_told_numbers(alert, holders, limits[0] * limits[1], *limits)
    CHECK.assertEqual(stage.dovecot.warnings(), [], "nobody has knocked")
    stage.await_inhibited(NEAR_LIMIT, by=AT_LIMIT)
    are_turned_away(stage)
    cure(stage, {SERVICE: {**PERFORMANCE_MODE, "client_limit": 100, "process_limit": 5}})


def are_turned_away(stage: Stage) -> None:
    """Users who come to a full house, again and again until all alerts have come that should."""

    def knock() -> None:
        stage.clients.knock(USERS - 5, timeout=1)

    # Over the first few samples increase() extrapolates a lot, and would make two of one warning.
    scrapes = "count_over_time(up{%s}[1m])"
    wait_until(lambda: stage.query(scrapes)[0][1] > 10, PATIENCE, "some scrapes", every=0.25)
    knock()
    _, alert = stage.await_told("pager", "firing", TURNED_AWAY)
    status = stage.dovecot.service_status(SERVICE)
    # Who is logged in is not turned out to make room.
    counts = 0, status["process_count"], status["process_limit"]
    if stage.numbers(alert)[0] == 0:
        # That Dovecot stopped listening may be seen a moment before its line in the log.
        stage.assert_told_numbers(alert, 0, *counts)
    else:
        stage.assert_told_numbers(alert, len(stage.dovecot.warnings()), *counts)
    stage.await_inhibited(AT_LIMIT, by=TURNED_AWAY, meanwhile=knock)
    stage.await_inhibited(NEAR_LIMIT, by=TURNED_AWAY, meanwhile=knock)
    CHECK.assertEqual(stage.told("tickets", "firing", NEAR_LIMIT), [])


def cure(stage: Stage, services: dict[str, dict[str, Any]]) -> None:
    """The remedy is put in force, all users come back, and the pager is told that it is over."""
    old = list(stage.clients.held)
    stage.dovecot.write_config(services=services)
    stage.dovecot.reload()
    before = stage.dovecot.warnings()
    users = stage.replace(old, USERS)
    stage.await_told("pager", "resolved", TURNED_AWAY)
    stage.await_calm()
    CHECK.assertEqual(stage.dovecot.warnings(), before)
    CHECK.assertFalse(any(client.closed_by_server(0.01) for client in users))
    CHECK.assertEqual(stage.told("tickets", "firing", NEAR_LIMIT), [])
    CHECK.assertEqual(stage.fired(), {TURNED_AWAY, AT_LIMIT, NEAR_LIMIT})


def capacity(stage: Stage) -> None:
    """Clients share processes, and there are nearly as many as those may take."""
    users = stage.clients.idle(8)
    _, alert = stage.await_told("tickets", "firing", NEAR_CAPACITY)
    status = stage.dovecot.service_status(SERVICE)
    limits = status["process_limit"], status["client_limit"]
    room = limits[0] * limits[1]
    stage.assert_told_numbers(alert, len(users), room, 100 * len(users) // room, *limits)
    stage.clients.close(users[4:])
    stage.await_told("tickets", "resolved", NEAR_CAPACITY)
    stage.await_calm()
    CHECK.assertEqual(stage.fired(), {NEAR_CAPACITY})


def lost_logins(stage: Stage) -> None:
    """imap is full; after that Dovecot is down for a while."""
    stage.clients.logged_in(3)
    with CHECK.assertRaises((imaplib.IMAP4.error, OSError)):
        stage.clients.logged_in(1)
    _, alert = stage.await_told("pager", "firing", LOGINS_LOST, service="imap")
    status = stage.dovecot.service_status("imap")
    lost = stage.dovecot.log_text().count("(destination service { process_limit } reached?)")
    stage.assert_told_numbers(alert, lost, status["process_count"], status["process_limit"])
    stage.await_told("pager", "firing", TURNED_AWAY, service="imap")
    stage.clients.close()
    stage.dovecot.stop()
    stage.await_told("pager", "firing", MASTER_DOWN)
    stage.dovecot.start()
    stage.await_told("pager", "resolved", MASTER_DOWN)
    stage.await_told("pager", "resolved", LOGINS_LOST)
    stage.await_calm()
    CHECK.assertEqual(stage.fired(), {LOGINS_LOST, TURNED_AWAY, MASTER_DOWN})


def limits_on_disk(stage: Stage) -> None:
    """process_limit is raised, Dovecot not reloaded; when it is, auth and anvil are too small."""
    dovecot, services = stage.dovecot, {SERVICE: {"process_limit": 1200}}
    dovecot.write_config(services=services)
    _, alert = stage.await_told("tickets", "firing", NOT_IN_FORCE, service=SERVICE)
    command = [dovecot.doveconf, "-c", dovecot.config, "-h", f"service/{SERVICE}/process_limit"]
    on_disk = int(subprocess.run(command, check=True, capture_output=True).stdout)
    stage.assert_told_numbers(alert, on_disk, dovecot.service_status(SERVICE)["process_limit"])
    dovecot.reload()
    stage.await_told("tickets", "resolved", NOT_IN_FORCE, service=SERVICE)
    for service in ("auth", "anvil"):
        _, alert = stage.await_told("tickets", "firing", NEXT_LIMIT, service=service)
        said = rf"service {service} {{ client_limit=(\d+) }} is lower than required under max\. load \((\d+)\)"
        client_limit, required = map(int, re.findall(said, dovecot.log_text())[-1])
        stage.assert_told_numbers(alert, client_limit, required)
        services[service] = {"client_limit": required}
    dovecot.write_config(services=services)
    dovecot.reload()
    stage.await_told("tickets", "resolved", NEXT_LIMIT, service="auth")
    # It goes on over a reload, as small as it was.
    CHECK.assertIn("restart", alert["annotations"]["description"])
    CHECK.assertEqual([one for one in stage.told("tickets", "resolved", NEXT_LIMIT, service="anvil")], [])
    dovecot.stop()
    dovecot.start()
    stage.await_told("tickets", "resolved", NEXT_LIMIT, service="anvil")
    stage.await_calm()
    # Two minutes are two seconds here, which a restart may take.
    CHECK.assertEqual(stage.fired() - {MASTER_DOWN}, {NOT_IN_FORCE, NEXT_LIMIT})


def blind(stage: Stage) -> None:
    """The exporter is not root, and first may read all that it needs."""
    dovecot = stage.dovecot
    for source, up in (("log", 1), ("limits", 1), ("master", 0)):
        stage.await_value(SOURCE_UP, up, source=source)
    # Rotated by somebody who does not know that Dovecot makes its new log for root alone.
    dovecot.log_path.rename(dovecot.log_path.with_suffix(".1"))
    dovecot.admin("log", "reopen")
    wait_until(dovecot.log_path.exists, PATIENCE, "the new log")
    dovecot.write_config(settings="this is no setting")
    for source in ("log", "limits"):
        stage.await_told("tickets", "firing", SOURCE_DOWN, source=source)
        stage.await_value(SOURCE_UP, 0, source=source)
    dovecot.log_path.chmod(0o644)
    dovecot.write_config(settings="")
    for source in ("log", "limits"):
        stage.await_told("tickets", "resolved", SOURCE_DOWN, source=source)
    stage.await_calm()
    CHECK.assertEqual(stage.fired(), {SOURCE_DOWN})
    # Calm although the master's socket, which is for root, never could be read.
    stage.await_value(SOURCE_UP, 0, source="master")


def everyday_life(stage: Stage) -> None:
    """A full house for less than `for`, a reload, restarts, and 2 of 2 processes where one is kept ready."""
    users = stage.clients.idle(5)
    stage.await_state(AT_LIMIT, "pending")
    stage.clients.close(users[3:])
    stage.await_calm()
    everything_restarts(stage)
    pop3 = socket.create_connection((HOST, stage.dovecot.ports["pop3"]), PATIENCE)
    stage.until_the_end.enter_context(pop3)
    stage.await_value("dovecot_service_processes", 2, service="pop3-login")


def kept_processes(stage: Stage) -> None:
    """Performance mode with process_min_avail = process_limit: always as many processes as there may be."""
    stage.clients.idle(3)
    everything_restarts(stage)
    stage.await_value("dovecot_service_processes", 2, service=SERVICE)


def everything_restarts(stage: Stage) -> None:
    """A reload alone, a restart of Dovecot, one of the exporter, each seen by Prometheus; users come back."""
    old = list(stage.clients.held)
    stage.dovecot.reload()
    stage.await_value("dovecot_master_reloads_total", 1)
    old = stage.replace(old, len(old))
    stage.dovecot.stop()
    stage.await_value("dovecot_master_up", 0)
    stage.dovecot.start()
    stage.replace(old, len(old))
    stage.await_value("dovecot_master_up", 1)
    stage.exporter.stop()
    stage.await_value("up", 0)
    stage.exporter.start()
    stage.await_value("up", 1)


Story = Callable[[Stage], None]
PERFORMANCE_10 = {**PERFORMANCE_MODE, "client_limit": 10}
STORIES: dict[Story, dict[str, Any]] = {
    option_1: {"services": {SERVICE: {"process_limit": 5}}},
    option_2: {"services": {SERVICE: {"process_limit": 5}}},
    capacity: {"services": {SERVICE: {**PERFORMANCE_10, "process_limit": 1}}},
    lost_logins: {"services": {"imap": {"process_limit": 3}}},
    limits_on_disk: {"services": {SERVICE: {"process_limit": 5}}},
    blind: {"services": {SERVICE: {"process_limit": 5}}},
    everyday_life: {
        "protocols": ("imap", "pop3"),
        "services": {SERVICE: {"process_limit": 5}, "pop3-login": {"process_limit": 2, "process_min_avail": 1}},
    },
    kept_processes: {"services": {SERVICE: {**PERFORMANCE_10, "process_limit": 2, "process_min_avail": 2}}},
}
# What is in a configuration does not vary from scrape to scrape, so an hour of it can be shorter still.
STILL = (limits_on_disk,)


class Stories(unittest.TestCase):
    """Durations are a 15th of what they are in alerts/."""

    @classmethod
    def setUpClass(cls) -> None:
        # Entered first, left last: what a thread started ends with it.
        threads = cls.enterClassContext(concurrent.futures.ThreadPoolExecutor(len(STORIES) * len(GENERATIONS)))
        until_the_end = cls.enterClassContext(contextlib.ExitStack())
        webhook = until_the_end.enter_context(Webhook())
        alertmanager = until_the_end.enter_context(Alertmanager(routes(webhook, 15)))
        pairs = {}
        for story, options in STORIES.items():
            for generation in GENERATIONS:
                # By the name an exporter knows its own even while that is down and all others are not.
                options = {**options, "instance_name": f"{story.__name__}-{generation[-1]}"}
                dovecot = until_the_end.enter_context(Dovecot(generation, **options))
                address = f"--web.listen-address=127.0.0.1:{free_port()}"  # kept over a restart
                if story is blind:
                    dovecot.log_path.chmod(0o644)
                    exporter = Exporter.unprivileged(dovecot, address)
                else:
                    exporter = Exporter(dovecot, address)
                pairs[story, generation] = dovecot, until_the_end.enter_context(exporter)
        servers = {}
        directory = Path(until_the_end.enter_context(tempfile.TemporaryDirectory()))
        for times in (15, 60):
            rules = directory / f"{times}.yml"
            rules.write_text(shorter(RULES.read_text(), times))
            targets = [pair[1].address for (story, _), pair in pairs.items() if (story in STILL) == (times == 60)]
            servers[times] = until_the_end.enter_context(Prometheus(targets, [rules], alertmanager=alertmanager))
        cls.stages, cls.endings = {}, {}
        for (story, generation), (dovecot, exporter) in pairs.items():
            clients = until_the_end.enter_context(Clients(dovecot))
            prometheus = servers[60 if story in STILL else 15]
            stage = Stage(dovecot, exporter, prometheus, alertmanager, webhook, clients, until_the_end)
            cls.stages[story, generation] = stage
            cls.endings[story, generation] = threads.submit(live, story, stage)

    def assert_ends_well(self, story: Story) -> None:
        for generation in GENERATIONS:
            with self.subTest(generation):
                self.endings[story, generation].result()

    def test_option_1(self) -> None:
        self.assert_ends_well(option_1)

    def test_option_2(self) -> None:
        self.assert_ends_well(option_2)

    def test_capacity(self) -> None:
        self.assert_ends_well(capacity)

    def test_lost_logins(self) -> None:
        self.assert_ends_well(lost_logins)

    def test_limits_on_disk(self) -> None:
        self.assert_ends_well(limits_on_disk)

    def test_blind(self) -> None:
        self.assert_ends_well(blind)

    def test_everyday_life(self) -> None:
        self.assert_quiet(everyday_life)

    def test_kept_processes(self) -> None:
        self.assert_quiet(kept_processes)

    def assert_quiet(self, story: Story) -> None:
        self.assert_ends_well(story)
        # Nothing has come yet; nor does it while the others live on, which is longer than any `for`.
        concurrent.futures.wait(self.endings.values())
        for generation in GENERATIONS:
            with self.subTest(generation):
                stage = self.stages[story, generation]
                self.assertEqual(stage.fired(), set())
                told = [alert for message in stage.webhook.messages for alert in message.payload["alerts"]]
                of_this = {"instance": stage.instance}.items()
                self.assertEqual([alert for alert in told if of_this <= alert["labels"].items()], [])
                # As full of processes as at first: that is what kept quiet.
                service = "pop3-login" if story is everyday_life else SERVICE
                status = stage.dovecot.service_status(service)
                self.assertEqual(status["process_count"], status["process_limit"])


def live(story: Story, stage: Stage) -> None:
    """The story, with what is needed to understand its failure."""
    began = time.monotonic()
    try:
        story(stage)
    except BaseException as error:
        error.add_note("\n".join(["", "Dovecot:", *stage.dovecot.log_text().splitlines()[-10:]]))
        error.add_note("\n".join(["Exporter:", *stage.exporter.stderr[-10:]]))
        error.add_note(f"Failed scrapes: {stage.query('sum_over_time((up{%s} == bool 0)[1h:1s])')}")
        error.add_note(f"Alerts now: {[labels for labels, _ in stage.query('ALERTS{%s}')]}")
        error.add_note(f"Told until {time.monotonic() - began:.1f} s after the beginning:")
        for message in stage.webhook.messages:
            for alert in message.payload["alerts"]:
                if alert["labels"].get("instance") == stage.instance:
                    words = message.receiver, alert["status"], alert["labels"]
                    error.add_note(f"{message.at - began:.1f} s: {words}")
        raise


if __name__ == "__main__":
    unittest.main()
