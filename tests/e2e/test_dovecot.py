"""The exporter beside real Dovecots: what it shows against what doveadm, doveconf, the log and /proc say."""

from __future__ import annotations

import collections
import itertools
import os
import re
import signal
import subprocess
import time
import unittest
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lab
from imap_clients import Clients, Outcome
from lab import Dovecot, Exporter, Series, wait_until

SERVICE = "imap-login"
ALL_PROTOCOLS = ("imap", "pop3", "submission", "sieve", "lmtp")
# How doveadm writes "unlimited".
UNLIMITED = 2**32 - 1
# The machine may be busy, and a doveadm or doveconf takes a while then.
PATIENCE = 30

PROCESSES = "dovecot_service_processes"
PROCESS_LIMIT = "dovecot_service_process_limit"
CONFIGURED = "dovecot_service_process_limit_configured"
CLIENT_LIMIT = "dovecot_service_client_limit"
SOURCE_INFO = "dovecot_exporter_limit_source_info"
WARNINGS = "dovecot_service_drop_warnings_total"
LAST_WARNING = "dovecot_service_last_drop_warning_timestamp_seconds"

_numbers = itertools.count(1)


def by_service(page: Mapping[Series, float], name: str) -> dict[str, float]:
    """The values of a metric whose only label is `service`."""
    return {dict(labels)["service"]: value for (metric, labels), value in page.items() if metric == name}


def doveadm_limits(dovecot: Dovecot, field: str) -> dict[str, float]:
    numbers = {service: int(row[field]) for service, row in dovecot.services().items()}
    return {service: float("inf") if value == UNLIMITED else value for service, value in numbers.items()}


def executables(dovecot: Dovecot, services: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Per service the words of its command, as doveconf has them."""
    services = list(services)
    keys = [f"service/{service}/executable" for service in services]
    output = subprocess.check_output([dovecot.doveconf, "-c", dovecot.config, "-h", *keys], text=True)
    lines = [tuple(line.split()) for line in output.splitlines()]
    return dict(zip(services, lines, strict=True))


def walk(master: int) -> collections.Counter[str]:
    """The master's children by what they run: imap-login, auth, "auth -w"."""
    found: collections.Counter[str] = collections.Counter()
    for stat in lab.process_stats():
        if stat.parent != master or stat.state in "ZX":
            continue
        try:
            command = Path(f"/proc/{stat.pid}/cmdline").read_bytes().decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if match := re.match(r"dovecot[^/\0]*/([^ \0]+)([^\0]*)\0(-w\0)?", command):
            worker = match[1] == "auth" and (match[3] or match[2].startswith(" worker: "))
            found[f"{match[1]} -w" if worker else match[1]] += 1
        else:
            found[command] += 1
    return found


def warnings_by_limit(dovecot: Dovecot) -> collections.Counter[tuple[str, str]]:
    """Warning lines of the log by service and the limit they name."""
    form = re.compile(r"service\(([a-z0-9_-]+)\): (process_limit|client_limit)[ /]")
    return collections.Counter(form.search(line).groups() for line in dovecot.warnings())


def counted(page: Mapping[Series, float]) -> dict[tuple[str, str], float]:
    """The exporter's warnings, without those that never came."""
    labels = {labels: value for (name, labels), value in page.items() if name == WARNINGS}
    return {(dict(key)["service"], dict(key)["limit"]): value for key, value in labels.items() if value}


class Beside:
    """What the tests of both generations share."""

    generation: str

    def run_dovecot(self: unittest.TestCase, **options: Any) -> Dovecot:
        # A name of its own: other Dovecots may run on this machine.
        name = f"lab-{os.getpid()}-{next(_numbers)}"
        return self.enterContext(Dovecot(self.generation, **{"instance_name": name, **options}))

    def run_exporter(self: unittest.TestCase, dovecot: Dovecot, *arguments: str) -> Exporter:
        return self.enterContext(Exporter(dovecot, *arguments))

    def clients(self: unittest.TestCase, dovecot: Dovecot, **options: int) -> Clients:
        return self.enterContext(Clients(dovecot, **options))

    def await_equal(
        self: unittest.TestCase, actual: Callable[[], Any], expected: Callable[[], Any] | Any, what: str
    ) -> None:
        """Waits until both are the same, and shows the difference if they never are."""
        want = expected if callable(expected) else lambda: expected
        try:
            wait_until(lambda: actual() == want(), PATIENCE, what)
        except TimeoutError:
            self.assertEqual(actual(), want(), what)

    def await_value(self, exporter: Exporter, expected: float | None, name: str, **labels: str) -> None:
        self.await_equal(lambda: exporter.value(name, **labels), expected, f"{name} {labels}")


class Limits(Beside):
    """process_limit and client_limit of every service are those that the master goes by."""

    def assert_limits(self: Any, dovecot: Dovecot, unknown: frozenset[str] = frozenset()) -> None:
        """Without doveconf, what the exporter has to leave out are limits of the services `unknown`."""
        # Who may ask the master need not read the configuration.
        alone = "--dovecot.master-socket="
        services = set(dovecot.services())
        self.assertIn(SERVICE, services)
        for make in (Exporter, Exporter.unprivileged):
            with self.subTest(make=make), make(dovecot, alone) as exporter:
                page = exporter.metrics()
                self.assertEqual(page["dovecot_exporter_source_up", frozenset({("source", "limits")})], 1)
                for name, field in ((PROCESS_LIMIT, "process_limit"), (CLIENT_LIMIT, "client_limit")):
                    self.assertEqual(by_service(page, name), doveadm_limits(dovecot, field), name)
                # Before any edit the same is on disk.
                configured = by_service(page, CONFIGURED)
                self.assertLessEqual(configured.items(), by_service(page, PROCESS_LIMIT).items())
                self.assertLessEqual({SERVICE, "imap", "auth", "anvil"}, configured.keys())
            with self.subTest(make=make, doveconf=""), make(dovecot, "--dovecot.doveconf=", alone) as exporter:
                page = exporter.metrics()
                up = page["dovecot_exporter_source_up", frozenset({("source", "limits")})]
                self.assertEqual(up, 0 if unknown else 1, exporter.stderr)
                for name, field in ((PROCESS_LIMIT, "process_limit"), (CLIENT_LIMIT, "client_limit")):
                    shown, expected = by_service(page, name), doveadm_limits(dovecot, field)
                    self.assertLessEqual(shown.items(), expected.items(), name)
                    # Releases of one generation differ in these.
                    new = {"indexer-worker"}
                    old = {"auth-worker", "dns-client", "health-check", "tcpwrap"}
                    sometimes = old if self.generation == "2.3" else new
                    self.assertLessEqual(expected.keys() - shown.keys(), unknown | sometimes, name)
                self.assertEqual(exporter.value(SOURCE_INFO, service="auth", source="config"), 1)
                self.assertEqual(sum("without doveconf" in line for line in exporter.stderr), 1)

    def test_defaults(self) -> None:
        self.assert_limits(self.run_dovecot(instance_name=None))

    def test_every_protocol(self) -> None:
        dovecot = self.run_dovecot(protocols=ALL_PROTOCOLS)
        self.assert_limits(dovecot)
        with Exporter(dovecot) as exporter:
            self.assertLess(len(exporter.metrics()), 500)

    def test_changed_defaults_and_the_clamp(self: Any) -> None:
        settings = "default_process_limit = 77\ndefault_client_limit = 555\n"
        services = {
            SERVICE: {"restart_request_count": 3, "client_limit": 10},
            "pop3-login": {"restart_request_count": "unlimited", "process_min_avail": 2},
            "submission-login": {"restart_request_count": 20, "client_limit": 4},
            "imap": {"restart_request_count": 5, "process_limit": 9},
            "lmtp": {"process_limit": 0 if self.generation == "2.3" else 12},
        }
        dovecot = self.run_dovecot(protocols=ALL_PROTOCOLS, services=services, settings=settings)
        # The witness shows that the configuration does what its name says.
        self.assertEqual(dovecot.service_status(SERVICE)["client_limit"], 3)
        self.assertEqual(dovecot.service_status("pop3-login")["client_limit"], 555)
        self.assertEqual(dovecot.service_status("auth")["client_limit"], 555)
        self.assertEqual(dovecot.service_status(SERVICE)["process_limit"], 77)
        self.assert_limits(dovecot)

    def test_a_service_of_ones_own(self: Any) -> None:
        listener = f"inet_listener extra {{\n    port = {lab.free_port()}\n  }}\n"
        settings = (
            f"service extra {{\n  executable = imap-login\n  process_limit = 6\n  {listener}}}\n"
            "service my-script {\n  executable = script /bin/true\n  client_limit = 1\n"
            "  unix_listener my-script {\n  }\n}\n"
        )
        dovecot = self.run_dovecot(settings=settings)
        self.assertEqual(dovecot.service_status("extra")["process_limit"], 6)
        self.assert_limits(dovecot)
        page = self.run_exporter(dovecot).metrics()
        # Nothing in /proc tells which of the two an imap-login process serves.
        self.assertNotIn("extra", by_service(page, PROCESSES))
        self.assertNotIn(SERVICE, by_service(page, PROCESSES))

    def test_variables(self: Any) -> None:
        form = "$default_process_limit" if self.generation == "2.3" else "$SET:default_process_limit"
        # 2.3 takes what the lines above say, 2.4 the setting's default.
        settings = f"default_process_limit = 66\nservice imap {{\n  process_limit = {form}\n}}\n"
        dovecot = self.run_dovecot(settings=settings)
        want = 66 if self.generation == "2.3" else 100
        self.assertEqual(dovecot.service_status("imap")["process_limit"], want)
        # Other releases of 2.4 may do otherwise.
        self.assert_limits(dovecot, frozenset() if self.generation == "2.3" else frozenset({"imap"}))

    def test_a_configuration_that_dovecot_would_not_start_with(self: Any) -> None:
        # doveconf shows its settings all the same, and exits with 0.
        dovecot = self.run_dovecot()
        exporters = [self.run_exporter(dovecot), self.run_exporter(dovecot, "--dovecot.doveconf=")]
        for exporter in exporters:
            self.assertEqual(exporter.value(CONFIGURED, service="auth"), 1)
        dovecot.write_config(settings="service auth {\n  process_limit = 2\n}\n")
        for exporter in exporters:
            self.await_value(exporter, 0, "dovecot_exporter_source_up", source="limits")
            self.assertIsNone(exporter.value(CONFIGURED, service="auth"))
            [line] = [line for line in exporter.stderr if "source=limits" in line]
            self.assertRegex(line, r"auth\)?: process_limit must be 1")

    def test_a_file_that_only_dovecot_may_read(self: Any) -> None:
        dovecot = self.run_dovecot()
        secret = dovecot.lab / "secret.conf"
        secret.write_text(f"service {SERVICE} {{\n  process_limit = 7\n}}\n")
        secret.chmod(0o600)
        after = "service imap {\n  process_limit = 8\n}\n"
        dovecot.write_config(settings=f"!include_try {secret}\n{after}")
        dovecot.reload()
        self.await_equal(lambda: dovecot.service_status(SERVICE)["process_limit"], 7, "the reload")
        exporter = self.enterContext(Exporter.unprivileged(dovecot, "--dovecot.doveconf="))
        page = exporter.metrics()
        # It may set everything but what is set again after it.
        self.assertEqual(by_service(page, PROCESS_LIMIT), {"imap": 8})
        self.assertEqual(by_service(page, CLIENT_LIMIT), {})
        self.assertEqual(exporter.value("dovecot_exporter_source_up", source="limits"), 0)
        [line] = [line for line in exporter.stderr if "source=limits" in line]
        self.assertIn(f"{secret} may set any limit", line)
        secret.chmod(0o644)
        self.await_value(exporter, 7, PROCESS_LIMIT, service=SERVICE)
        self.await_value(exporter, 1, "dovecot_exporter_source_up", source="limits")


class Limits23(Limits, unittest.TestCase):
    generation = "2.3"


class Limits24(Limits, unittest.TestCase):
    generation = "2.4"

    def test_unlimited(self) -> None:
        services = {
            SERVICE: {"process_limit": "unlimited"},
            "imap": {"client_limit": "unlimited"},
            "auth": {"client_limit": "unlimited"},
            "lmtp": {"client_limit": "unlimited", "restart_request_count": "unlimited"},
        }
        dovecot = self.run_dovecot(protocols=ALL_PROTOCOLS, services=services)
        self.assertEqual(dovecot.service_status(SERVICE)["process_limit"], UNLIMITED)
        self.assertEqual(dovecot.service_status("auth")["client_limit"], UNLIMITED)
        self.assert_limits(dovecot)

    def test_settings_for_all_services_at_once(self) -> None:
        # Each overrides what Dovecot itself has for a service, but not what the service's own block says.
        one = {"process_limit": 1}  # demanded of these
        single = {name: one for name in ("anvil", "auth", "config", "dict-expire", "indexer", "log", "stats")}
        lasting = {name: {"restart_request_count": "unlimited"} for name in single}
        for setting, services, (service, field, value) in (
            ("service_client_limit = 7", {"imap": {"client_limit": 3}}, ("dict", "client_limit", 7)),
            ("service_process_limit = 31", single, ("imap", "process_limit", 31)),
            ("service_restart_request_count = 5", lasting, (SERVICE, "client_limit", 5)),
            # It is so already, but not for services for which Dovecot has something else.
            ("service_restart_request_count = unlimited", {}, (SERVICE, "client_limit", 1000)),
        ):
            with self.subTest(setting):
                dovecot = self.run_dovecot(services=services, settings=f"{setting}\n")
                self.assertEqual(dovecot.service_status(service)[field], value)
                self.assert_limits(dovecot)


    def test_groups(self) -> None:
        group = f"group @lim big {{\n  service {SERVICE} {{\n    process_limit = 321\n  }}\n%s}}\n@lim = big\n"
        inner = "  service imap {\n    process_limit = 9\n    client_limit = 2\n  }\n"
        services = {"imap": {"client_limit": 3, "restart_request_count": 5}}
        dovecot = self.run_dovecot(services=services, settings=group % inner)
        for service, field, value in (
            (SERVICE, "process_limit", 321),
            ("imap", "process_limit", 9),
            ("imap", "client_limit", 3),
        ):
            self.assertEqual(dovecot.service_status(service)[field], value)
        self.assert_limits(dovecot)

    def test_a_group_that_doveconf_cannot_show(self) -> None:
        listener = "  service imap {\n    process_limit = 9\n    unix_listener extra {\n    }\n  }\n"
        services = {"imap": {"client_limit": 2, "restart_request_count": 3}}
        dovecot = self.run_dovecot(services=services, settings=f"group @lim big {{\n{listener}}}\n@lim = big\n")
        self.assertEqual(dovecot.service_status("imap")["process_limit"], 9)
        exporter = self.run_exporter(dovecot)
        self.assertEqual(exporter.value("dovecot_exporter_source_up", source="limits"), 0)
        # But we can.
        page = self.run_exporter(dovecot, "--dovecot.doveconf=", "--dovecot.master-socket=").metrics()
        for name, field in ((PROCESS_LIMIT, "process_limit"), (CLIENT_LIMIT, "client_limit")):
            self.assertEqual(by_service(page, name), doveadm_limits(dovecot, field), name)


class Processes(Beside):
    """The count of every service is the master's own, and what a walk of /proc finds."""

    def assert_counts(self: Any, dovecot: Dovecot, exporter: Exporter) -> dict[str, int]:
        """Compares when master and /proc agree, thrice; returns doveadm's counts."""
        commands = executables(dovecot, dovecot.services())
        users = collections.Counter(commands.values())
        alone = {service for service, command in commands.items() if users[command] == 1}
        self.assertLess(len(alone), len(commands))  # dict and dict-async, for one

        def expected() -> dict[str, int]:
            return {
                service: int(row["process_count"])
                for service, row in dovecot.services().items()
                if service in alone
            }

        def in_proc() -> dict[str, int]:
            found = walk(dovecot.master_pid)
            # Only of auth does the second word matter: -w.
            return {
                service: found[" ".join(commands[service][: 2 if commands[service][0] == "auth" else 1])]
                for service in alone
            }

        def quiet() -> tuple[dict[str, int], dict[str, float]] | None:
            # A process that came or went during the scrape would make either side right.
            before, walked = expected(), in_proc()
            page = exporter.metrics()
            after = in_proc()
            if before == walked == after == expected():
                return before, by_service(page, PROCESSES)
            return None

        for _ in range(3):
            want, shown = wait_until(quiet, PATIENCE, "Dovecot's processes to come to rest")
            self.assertEqual(shown, want)
        return want

    def wait_for_logins(self, dovecot: Dovecot, count: int) -> None:
        wait_until(
            lambda: dovecot.service_status(SERVICE)["process_count"] == count,
            PATIENCE,
            f"{count} {SERVICE} processes",
        )

    def test_who_holds_a_process(self: Any) -> None:
        # Each title form, as both root and nobody, and once with Dovecot's own instance name.
        for verbose, make, options in (
            (False, Exporter, {}),
            (True, Exporter.unprivileged, {}),
            (True, Exporter, {"instance_name": None}),
        ):
            with self.subTest(verbose_proctitle=verbose, make=make, **options):
                dovecot = self.run_dovecot(verbose_proctitle=verbose, **options)
                exporter = self.enterContext(make(dovecot))
                counts = self.assert_counts(dovecot, exporter)
                self.assertEqual(counts[SERVICE], 0)
                clients = self.clients(dovecot, at_once=4)
                clients.idle(5)
                counts = self.assert_counts(dovecot, exporter)
                self.assertEqual((counts[SERVICE], counts["imap"]), (5, 5))
                # A plain login gives its imap-login back, ...
                clients.logged_in(3)
                clients.idle(2, tls=False)
                self.wait_for_logins(dovecot, 5)
                counts = self.assert_counts(dovecot, exporter)
                self.assertEqual((counts[SERVICE], counts["imap"]), (5, 10))
                # ... who has not logged in yet holds one.
                clients.pre_auth(3)
                clients.pre_auth(2, tls=True)
                counts = self.assert_counts(dovecot, exporter)
                self.assertEqual((counts[SERVICE], counts["imap"]), (10, 10))
                clients.close()
                self.wait_for_logins(dovecot, 0)
                wait_until(
                    lambda: dovecot.service_status("imap")["process_count"] == 0, PATIENCE, "imap to end"
                )
                counts = self.assert_counts(dovecot, exporter)
                self.assertEqual((counts[SERVICE], counts["imap"]), (0, 0))
                dovecot.close()

    def test_auth_workers_are_not_auth(self: Any) -> None:
        form = "passdb {\n  driver = pam\n}\n" if self.generation == "2.3" else "passdb pam {\n}\n"
        for verbose in (False, True):
            with self.subTest(verbose_proctitle=verbose):
                dovecot = self.run_dovecot(verbose_proctitle=verbose, settings=form)
                exporter = self.run_exporter(dovecot)
                # Unknown to the password file, so PAM is asked, which is a worker's work.
                for client in self.clients(dovecot).pre_auth(3):
                    connection = client.connection
                    connection.send(b"a LOGIN nosuch%d x\r\n" % id(client))
                wait_until(
                    lambda: int(dovecot.service_status("auth-worker")["process_count"]) > 0,
                    PATIENCE,
                    "an auth worker",
                )
                counts = self.assert_counts(dovecot, exporter)
                self.assertEqual(counts["auth"], 1)
                self.assertGreater(counts["auth-worker"], 0)
                dovecot.close()

    def test_performance_mode(self: Any) -> None:
        settings = {**lab.PERFORMANCE_MODE, "process_limit": 2, "process_min_avail": 2, "client_limit": 10}
        dovecot = self.run_dovecot(services={SERVICE: settings}, verbose_proctitle=True)
        exporter = self.run_exporter(dovecot)
        self.wait_for_logins(dovecot, 2)
        self.clients(dovecot).idle(8)
        self.assertEqual(self.assert_counts(dovecot, exporter)[SERVICE], 2)

    def test_two_instances(self: Any) -> None:
        one, other = self.run_dovecot(), self.run_dovecot()
        self.clients(one).idle(5)
        self.clients(other).idle(2)
        for make in (Exporter, Exporter.unprivileged):
            with self.subTest(make=make), make(one) as of_one, make(other) as of_other:
                self.assertEqual(self.assert_counts(one, of_one)[SERVICE], 5)
                self.assertEqual(self.assert_counts(other, of_other)[SERVICE], 2)
                one.stop()
                page = of_one.metrics()
                self.assertEqual(page["dovecot_master_up", frozenset()], 0)
                self.assertEqual(set(by_service(page, PROCESSES).values()), {0})
                self.assertEqual(self.assert_counts(other, of_other)[SERVICE], 2)
                one.start()
                self.clients(one).idle(5)

    def test_two_instances_of_one_name(self: Any) -> None:
        one = self.run_dovecot()
        other = self.run_dovecot(instance_name=one.options.instance_name)
        self.clients(one).idle(5)
        # Who may read master.pid can tell them apart, ...
        exporter = self.run_exporter(one)
        self.assertEqual(self.assert_counts(one, exporter)[SERVICE], 5)
        # ... who may not says that he cannot.
        blind = self.enterContext(Exporter.unprivileged(one))
        page = blind.metrics()
        self.assertEqual(page["dovecot_exporter_source_up", frozenset({("source", "procfs")})], 0)
        self.assertNotIn(("dovecot_master_up", frozenset()), page)
        self.assertEqual(by_service(page, PROCESSES), {})
        [line] = wait_until(lambda: [line for line in blind.stderr if "source=procfs" in line], PATIENCE, "the reason")
        for word in (str(one.master_pid), str(other.master_pid), "--dovecot.config", "instance_name"):
            self.assertIn(word, line)


class Processes23(Processes, unittest.TestCase):
    generation = "2.3"


class Processes24(Processes, unittest.TestCase):
    generation = "2.4"


class Story(Beside):
    """Overload, the two remedies, and Dovecot's comings and goings."""

    def run_exporter(self: Any, dovecot: Dovecot, *arguments: str) -> Exporter:
        # Who may ask the master knows more (test_master.py); here it must do without, as where it is not root.
        return super().run_exporter(dovecot, "--dovecot.master-socket=", *arguments)

    def knock_until_warned(self, dovecot: Dovecot, clients: Clients) -> None:
        seen = len(dovecot.warnings(SERVICE))
        clients.knock(5, timeout=PATIENCE, until=lambda: len(dovecot.warnings(SERVICE)) > seen)

    def source(self, exporter: Exporter) -> set[str]:
        """Where the limit comes from."""
        name = "dovecot_exporter_limit_source_info"
        labels = [dict(labels) for metric, labels in exporter.metrics() if metric == name]
        return {label["source"] for label in labels if label["service"] == SERVICE}

    def test_option_1_a_higher_limit(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        elsewhere = dovecot.lab / "elsewhere.log"
        elsewhere.touch()
        told = self.run_exporter(dovecot)
        # This one reads nothing of the reload in a log and must see it in /proc.
        untold = self.run_exporter(dovecot, f"--dovecot.log-file={elsewhere}")
        nobody = self.enterContext(Exporter.unprivileged(dovecot))
        exporters = [told, untold, nobody]
        clients = self.clients(dovecot)
        clients.idle(5)
        self.knock_until_warned(dovecot, clients)
        self.await_value(told, 5, PROCESS_LIMIT, service=SERVICE)
        for exporter in exporters:
            self.await_value(exporter, 5, CONFIGURED, service=SERVICE)

        dovecot.write_config(services={SERVICE: {"process_limit": 8}})
        for exporter in exporters:
            self.await_value(exporter, 8, CONFIGURED, service=SERVICE)
            self.assertEqual(exporter.value(PROCESS_LIMIT, service=SERVICE), 5)
        self.assertEqual(dovecot.service_status(SERVICE)["process_limit"], 5)

        dovecot.reload()
        self.assertEqual(dovecot.service_status(SERVICE)["process_limit"], 8)
        for exporter in exporters:
            self.await_value(exporter, 8, PROCESS_LIMIT, service=SERVICE)
            page = exporter.metrics()
            self.assertEqual(by_service(page, PROCESS_LIMIT), doveadm_limits(dovecot, "process_limit"))
            self.assertEqual(by_service(page, CONFIGURED)[SERVICE], 8)
        self.assertEqual(told.value("dovecot_master_reloads_total"), 1)
        self.assertEqual(untold.value("dovecot_master_reloads_total"), 0)

        # It heals: eight have room, and a further edit waits for its own reload again.
        wait_until(lambda: not dovecot.processes("imap"), PATIENCE, "the old clients to be sent away")
        clients.close()
        clients.idle(8)
        self.await_value(told, 8, PROCESSES, service=SERVICE)
        dovecot.write_config(services={SERVICE: {"process_limit": 12}})
        for exporter in exporters:
            self.await_value(exporter, 12, CONFIGURED, service=SERVICE)
            self.assertEqual(exporter.value(PROCESS_LIMIT, service=SERVICE), 8)

    def test_a_configuration_that_dovecot_cannot_read(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        # doveadm could not read the other one either.
        good = dovecot.lab / "good.conf"
        good.write_text(dovecot.config.read_text())
        exporter = self.run_exporter(dovecot)
        limits = {name: by_service(exporter.metrics(), name) for name in (PROCESS_LIMIT, CLIENT_LIMIT)}
        self.assertEqual(limits[PROCESS_LIMIT][SERVICE], 5)

        dovecot.write_config(services={SERVICE: {"process_limit": 8}}, settings="nonsense = {{{\n")
        self.await_value(exporter, 0, "dovecot_exporter_source_up", source="limits")
        before = dovecot.log_text().count("master: Error: ")
        os.kill(dovecot.master_pid, signal.SIGHUP)
        wait_until(
            lambda: dovecot.log_text().count("master: Error: ") > before, PATIENCE, "Dovecot to give up"
        )
        # The exporter has read of it, too, and nothing has changed, here as there.
        self.await_value(exporter, 1, "dovecot_master_reloads_total")
        output = dovecot.admin("-c", str(good), "-f", "flow", "service", "status", SERVICE)
        self.assertIn(" process_limit=5 ", output)
        for name, values in limits.items():
            self.assertEqual(by_service(exporter.metrics(), name), values)
        [line] = [line for line in exporter.stderr if "source=limits" in line]
        for word in ("level=warn", str(dovecot.config), "mend the configuration"):
            self.assertIn(word, line)

        dovecot.write_config(settings="")
        self.await_value(exporter, 1, "dovecot_exporter_source_up", source="limits")
        self.await_value(exporter, 8, CONFIGURED, service=SERVICE)
        self.assertEqual(exporter.value(PROCESS_LIMIT, service=SERVICE), 5)
        dovecot.reload()
        self.await_value(exporter, 8, PROCESS_LIMIT, service=SERVICE)

    def test_the_newest_warning_tells_the_limit(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        alone = self.run_exporter(dovecot, "--dovecot.doveconf=/bin/false")
        flagged = self.run_exporter(
            dovecot, "--dovecot.doveconf=/bin/false", f"--dovecot.process-limit={SERVICE}=7"
        )
        self.assertEqual((alone.value(PROCESS_LIMIT, service=SERVICE), self.source(alone)), (100, {"default"}))
        self.assertEqual((flagged.value(PROCESS_LIMIT, service=SERVICE), self.source(flagged)), (7, {"flag"}))
        self.assertEqual(by_service(alone.metrics(), CONFIGURED), {})

        clients = self.clients(dovecot)
        clients.idle(5)
        self.knock_until_warned(dovecot, clients)
        self.await_value(alone, 5, PROCESS_LIMIT, service=SERVICE)
        self.assertEqual(self.source(alone), {"warning"})
        self.await_equal(lambda: bool(counted(flagged.metrics())), True, "the warning to be counted")
        self.assertEqual((flagged.value(PROCESS_LIMIT, service=SERVICE), self.source(flagged)), (7, {"flag"}))

        # A reload makes the number stale, the next warning brings the new one.
        dovecot.write_config(services={SERVICE: {"process_limit": 3}})
        dovecot.reload()
        self.await_value(alone, 100, PROCESS_LIMIT, service=SERVICE)
        wait_until(lambda: not dovecot.processes("imap"), PATIENCE, "the old clients to be sent away")
        clients.close()
        clients.idle(3)
        self.knock_until_warned(dovecot, clients)
        self.await_value(alone, 3, PROCESS_LIMIT, service=SERVICE)

    def test_option_2_performance_mode(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        exporter = self.run_exporter(dovecot)
        self.assertEqual(exporter.value("dovecot_service_restart_request_limit", service=SERVICE), 1)
        settings = {**lab.PERFORMANCE_MODE, "process_limit": 1, "client_limit": 10}
        dovecot.write_config(services={SERVICE: settings})
        dovecot.reload()
        self.await_value(exporter, 10, CLIENT_LIMIT, service=SERVICE)

        status = dovecot.service_status(SERVICE)
        self.assertEqual((status["process_limit"], status["client_limit"]), (1, 10))
        key = f"service/{SERVICE}/process_min_avail"
        output = subprocess.check_output([dovecot.doveconf, "-c", dovecot.config, "-h", key], text=True)
        page = exporter.metrics()
        for name, value in {
            PROCESS_LIMIT: 1,
            "dovecot_service_connection_capacity": 10,
            "dovecot_service_restart_request_limit": float("inf"),
            "dovecot_service_process_min_avail": int(output),
        }.items():
            self.assertEqual(by_service(page, name)[SERVICE], value, name)
        self.assertEqual(int(output), 1)

        clients = self.clients(dovecot)
        self.await_equal(lambda: len(dovecot.processes(SERVICE)), 1, "the one process")
        clients.idle(10)
        self.await_value(exporter, 1, PROCESSES, service=SERVICE)
        self.knock_until_warned(dovecot, clients)
        # The line names the other limit now.
        self.await_equal(
            lambda: counted(exporter.metrics()), lambda: dict(warnings_by_limit(dovecot)), "the warnings"
        )
        self.assertEqual(set(counted(exporter.metrics())), {(SERVICE, "client_limit")})

    def test_high_security_with_one_process(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 1}})
        exporter = self.run_exporter(dovecot)
        clients = self.clients(dovecot)
        clients.idle(1)
        self.knock_until_warned(dovecot, clients)
        word = "service_count" if self.generation == "2.3" else "restart_request_count"
        self.assertIn(f"client_limit/{word} (1) reached", dovecot.warnings()[0])
        self.await_equal(
            lambda: counted(exporter.metrics()), lambda: dict(warnings_by_limit(dovecot)), "the warnings"
        )
        self.assertEqual(set(counted(exporter.metrics())), {(SERVICE, "client_limit")})
        self.assertEqual(exporter.value(PROCESS_LIMIT, service=SERVICE), 1)

    def test_another_service_is_full(self: Any) -> None:
        dovecot = self.run_dovecot(services={"imap": {"process_limit": 3}})
        exporter = self.run_exporter(dovecot)
        clients = self.clients(dovecot)
        clients.idle(3)
        # The fourth is not served, and need not be for long.
        [client] = clients.pre_auth(1)
        client.connection.send(b"a LOGIN u900 pass\r\n")
        wait_until(lambda: dovecot.warnings("imap"), PATIENCE, "the warning")
        clients.close()
        self.await_equal(
            lambda: counted(exporter.metrics()), lambda: dict(warnings_by_limit(dovecot)), "the warnings"
        )
        self.assertEqual(set(counted(exporter.metrics())), {("imap", "process_limit")})

    def test_dovecot_stopped_and_started(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        exporter = self.run_exporter(dovecot)
        self.assertEqual(exporter.value("dovecot_master_up"), 1)
        clients = self.clients(dovecot)
        clients.idle(5)
        self.knock_until_warned(dovecot, clients)
        dovecot.stop()
        clients.close()
        known = len(dovecot.warnings(SERVICE))
        self.await_value(exporter, known, WARNINGS, service=SERVICE, limit="process_limit")
        last = exporter.value(LAST_WARNING, service=SERVICE)
        page = exporter.metrics()
        self.assertEqual(page["dovecot_master_up", frozenset()], 0)
        self.assertEqual(page["dovecot_exporter_source_up", frozenset({("source", "procfs")})], 1)
        self.assertEqual(by_service(page, PROCESSES)[SERVICE], 0)
        self.assertEqual(by_service(page, PROCESS_LIMIT)[SERVICE], 5)

        # It comes back with another limit.
        dovecot.write_config(services={SERVICE: {"process_limit": 6}})
        dovecot.start()
        self.assertEqual(exporter.value("dovecot_master_up"), 1)
        self.await_value(exporter, 6, PROCESS_LIMIT, service=SERVICE)
        page = exporter.metrics()
        self.assertEqual(by_service(page, PROCESS_LIMIT), doveadm_limits(dovecot, "process_limit"))
        self.assertEqual(counted(page), {(SERVICE, "process_limit"): known})
        self.assertEqual(by_service(page, LAST_WARNING)[SERVICE], last)
        clients.idle(6)
        self.await_value(exporter, 6, PROCESSES, service=SERVICE)
        self.knock_until_warned(dovecot, clients)
        self.await_equal(
            lambda: counted(exporter.metrics()), lambda: dict(warnings_by_limit(dovecot)), "the warnings"
        )
        self.assertGreater(exporter.value(WARNINGS, service=SERVICE, limit="process_limit"), known)

    def test_exporter_first(self: Any) -> None:
        name = f"lab-{os.getpid()}-{next(_numbers)}"
        services = {SERVICE: {"process_limit": 5}}
        dovecot = Dovecot(self.generation, instance_name=name, services=services)
        self.addCleanup(dovecot.close)
        hidden = dovecot.config.with_suffix(".later")
        dovecot.config.rename(hidden)
        exporter = self.run_exporter(dovecot)
        self.assertFalse(dovecot.log_path.exists())

        # Every series an alert needs is there.
        def zeros() -> dict[Series, float | None]:
            page = exporter.metrics()
            wanted = [
                (WARNINGS, {("service", SERVICE), ("limit", "process_limit")}),
                (WARNINGS, {("service", SERVICE), ("limit", "client_limit")}),
                ("dovecot_master_reloads_total", set()),
                ("dovecot_exporter_source_up", {("source", "log")}),
                ("dovecot_exporter_source_up", {("source", "limits")}),
                ("dovecot_exporter_log_read_errors_total", {("log", str(dovecot.log_path))}),
                ("dovecot_exporter_log_unanchored_warnings_total", {("log", str(dovecot.log_path))}),
            ]
            return {key: page.get(key) for key in [(name, frozenset(labels)) for name, labels in wanted]}

        self.assertEqual(set(zeros().values()), {0})
        hidden.rename(dovecot.config)
        self.await_value(exporter, 5, PROCESS_LIMIT, service=SERVICE)
        # Now that the instance's name is known: none of that name runs.
        self.await_value(exporter, 0, "dovecot_master_up")
        self.assertEqual(exporter.value(PROCESSES, service=SERVICE), 0)

        dovecot.start()
        self.assertEqual(exporter.value("dovecot_master_up"), 1)
        self.await_value(exporter, 1, "dovecot_exporter_source_up", source="log")
        clients = self.clients(dovecot)
        clients.idle(5)
        self.assertEqual(exporter.value(PROCESSES, service=SERVICE), 5)
        self.knock_until_warned(dovecot, clients)
        self.await_equal(
            lambda: counted(exporter.metrics()), lambda: dict(warnings_by_limit(dovecot)), "the warnings"
        )
        # Not a line of the log was missed.
        self.await_equal(
            lambda: exporter.value("dovecot_exporter_log_lines_total", log=str(dovecot.log_path)),
            lambda: dovecot.log_text().count("\n"),
            "lines of the log",
        )

    def test_log_path_is_found_in_a_configuration_that_comes_later(self: Any) -> None:
        name = f"lab-{os.getpid()}-{next(_numbers)}"
        services = {SERVICE: {"process_limit": 5}}
        dovecot = Dovecot(self.generation, instance_name=name, services=services)
        self.addCleanup(dovecot.close)
        hidden = dovecot.config.with_suffix(".later")
        dovecot.config.rename(hidden)
        flags = [f"--dovecot.config={dovecot.config}", f"--dovecot.doveconf={dovecot.doveconf}"]
        exporter = self.enterContext(Exporter(None, *flags))
        self.assertEqual(exporter.value("dovecot_exporter_source_up", source="limits"), 0)
        hidden.rename(dovecot.config)
        self.await_value(exporter, 5, PROCESS_LIMIT, service=SERVICE)
        dovecot.start()
        clients = self.clients(dovecot)
        clients.idle(5)
        self.knock_until_warned(dovecot, clients)
        self.await_equal(
            lambda: counted(exporter.metrics()), lambda: dict(warnings_by_limit(dovecot)), "the warnings"
        )

    def test_log_path_is_found(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        flags = [f"--dovecot.config={dovecot.config}", f"--dovecot.doveconf={dovecot.doveconf}"]
        exporter = self.enterContext(Exporter(None, *flags))
        clients = self.clients(dovecot)
        clients.idle(5)
        self.knock_until_warned(dovecot, clients)
        self.await_equal(
            lambda: counted(exporter.metrics()), lambda: dict(warnings_by_limit(dovecot)), "the warnings"
        )

    def test_sighup_reads_again(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        # A change that no look at the configuration's files shows.
        value, calls = dovecot.lab / "value", dovecot.lab / "calls"
        value.write_text("5")
        program = dovecot.lab / "another-doveconf"
        change = f's/process_limit = 5$/process_limit = \'$(cat {value})\'/'
        program.write_text(f"#!/bin/sh\necho >>{calls}\n{dovecot.doveconf} \"$@\" | sed '{change}'\n")
        program.chmod(0o755)
        exporter = self.run_exporter(dovecot, f"--dovecot.doveconf={program}")
        self.assertEqual(exporter.value(CONFIGURED, service=SERVICE), 5)
        value.write_text("9")
        before = calls.read_text()
        os.kill(exporter.pid, signal.SIGHUP)
        self.await_value(exporter, 9, CONFIGURED, service=SERVICE)
        self.assertGreater(len(calls.read_text()), len(before))
        # Dovecot has not read it.
        self.assertEqual(exporter.value(PROCESS_LIMIT, service=SERVICE), 5)
        self.assertEqual(exporter.stop()[0], 0)


class Story23(Story, unittest.TestCase):
    generation = "2.3"


class Story24(Story, unittest.TestCase):
    generation = "2.4"


class Overload(Beside, unittest.TestCase):
    """Minutes of overload, both generations side by side."""

    SECONDS = 130

    def overload(self, generation: str) -> dict[str, Any]:
        """Runs in a thread of its own from beginning to end, and brings what there is to compare."""
        name = f"lab-{os.getpid()}-{next(_numbers)}"
        options = {"instance_name": name, "services": {SERVICE: {"process_limit": 5}}}
        with (
            Dovecot(generation, **options) as dovecot,
            Exporter(dovecot) as exporter,
            Clients(dovecot) as clients,
        ):
            clients.idle(5)
            quiet = counted(exporter.metrics())
            deadline = time.monotonic() + self.SECONDS
            samples: collections.Counter[tuple[float, int]] = collections.Counter()
            greeted = 0
            while time.monotonic() < deadline:
                outcomes = clients.knock(20, timeout=12)
                greeted += outcomes[Outcome.GREETED]
                # Stuck: the five keep their processes.
                page = exporter.metrics()
                samples[by_service(page, PROCESSES)[SERVICE], len(dovecot.processes(SERVICE))] += 1
            stuck = len(dovecot.warnings())
            # Then it loosens: two leave, and who knocks is let in and pushed out again.
            clients.close(clients.held[:2])
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                clients.knock(20, timeout=3)
            clients.close()

            def last() -> tuple[float, float]:
                shown = exporter.value(LAST_WARNING, service=SERVICE)
                return shown, int(dovecot.service_status(SERVICE)["last_drop_warning"])

            # What it said last may still be on its way from the log to the exporter.
            file = str(dovecot.log_path)
            wait_until(
                lambda: exporter.value("dovecot_exporter_log_position_bytes", log=file)
                == dovecot.log_path.stat().st_size,
                PATIENCE,
                "the log to be read",
            )
            shown, told = last()
            dovecot.stop()
            try:
                wait_until(
                    lambda: counted(exporter.metrics()) == dict(warnings_by_limit(dovecot)),
                    PATIENCE,
                    "the counter",
                )
            except TimeoutError:
                pass  # the comparison follows, and says what differs
            return {
                "quiet": quiet,
                "samples": samples,
                "greeted": greeted,
                "stuck": stuck,
                "counted": counted(exporter.metrics()),
                "logged": dict(warnings_by_limit(dovecot)),
                "last": (shown, told),
                "unanchored": exporter.value("dovecot_exporter_log_unanchored_warnings_total", log=file),
            }

    def test_every_warning_is_counted(self) -> None:
        generations = ("2.3", "2.4")
        with ThreadPoolExecutor(len(generations)) as pool:
            results = dict(zip(generations, pool.map(self.overload, generations)))
        for generation, result in results.items():
            with self.subTest(generation):
                self.assertEqual(result["quiet"], {})
                self.assertEqual(result["greeted"], 0)
                self.assertEqual(set(result["samples"]), {(5, 5)})
                # One in about ten seconds, and more when it loosens.
                self.assertGreaterEqual(result["stuck"], self.SECONDS // 15)
                self.assertGreater(result["logged"][SERVICE, "process_limit"], result["stuck"])
                self.assertEqual(result["counted"], result["logged"])
                self.assertEqual(result["unanchored"], 0)
                shown, told = result["last"]
                self.assertGreater(told, 0)
                self.assertLess(abs(shown - told), 2)


if __name__ == "__main__":
    unittest.main()
