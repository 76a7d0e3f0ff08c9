"""The master's status socket: every value against doveadm at the same moment, and what the socket may do to us."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lab
from imap_clients import Clients
from lab import Dovecot, Exporter, Series, wait_until
from test_dovecot import (
    CLIENT_LIMIT,
    CONFIGURED,
    PATIENCE,
    PROCESS_LIMIT,
    SERVICE,
    UNLIMITED,
    WARNINGS,
    Beside,
    by_service,
    counted,
    warnings_by_limit,
)

COUNTED = "dovecot_service_processes_counted"
AVAILABLE = "dovecot_service_processes_available"
CONNECTIONS = "dovecot_service_connections"
PAUSED = "dovecot_service_listen_paused"
STARTS = "dovecot_service_process_starts_total"
OF_MASTER = (COUNTED, AVAILABLE, CONNECTIONS, PAUSED, STARTS)
UP = "dovecot_exporter_source_up"
SOURCE = "dovecot_exporter_limit_source_info"
# All that may ever be sent, a connection each. The same socket takes STOP.
VERSION = b"VERSION\tmaster-client\t1\t0\n"
ALLOWED = {VERSION + b"SERVICE-STATUS\nPROCESS-STATUS\n", VERSION + b"ERROR-LOG\n"}

Values = dict[str, dict[str, float]]


def doveadm(dovecot: Dovecot) -> Values:
    """What doveadm shows, under the names of the metrics."""
    services = dovecot.services()
    header, *rows = dovecot.admin("-f", "tab", "process", "status").splitlines()
    processes = [dict(zip(header.split("\t"), row.split("\t"), strict=True)) for row in rows]

    def limit(number: int) -> float:
        return float("inf") if number == UNLIMITED else number

    def in_use(service: str, client_limit: int) -> int:
        mine = [row for row in processes if row["name"] == service]
        return sum(client_limit - int(row["available_count"]) for row in mine)

    return {
        COUNTED: {name: row["process_count"] for name, row in services.items()},
        AVAILABLE: {name: row["process_avail"] for name, row in services.items()},
        PROCESS_LIMIT: {name: limit(row["process_limit"]) for name, row in services.items()},
        CLIENT_LIMIT: {name: limit(row["client_limit"]) for name, row in services.items()},
        PAUSED: {name: float(row["listen_pending"] == "y") for name, row in services.items()},
        STARTS: {name: row["process_total"] for name, row in services.items()},
        CONNECTIONS: {name: in_use(name, row["client_limit"]) for name, row in services.items()},
    }


def plus(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    return {name: before[name] + count for name, count in now.items()}


def any_of(counts: Mapping[str, float]) -> dict[str, float]:
    """Those that are not 0."""
    return {name: count for name, count in counts.items() if count}


class Relay:
    """Stands where the master's socket would, passes everything on, and notes what is sent; or misbehaves."""

    def __init__(self, master: Path) -> None:
        self._master = master
        self._directory = tempfile.TemporaryDirectory(prefix="relay-", dir="/tmp")
        self.path = Path(self._directory.name, "master")
        self.sent: list[bytearray] = []
        # What to do with a connection instead of passing it on.
        self.instead: Callable[[socket.socket], None] | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._ended = threading.Event()
        self._accept = threading.Thread(target=self._serve, daemon=True)
        self._accept.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accept.join()
        self._listener.close()
        self._directory.cleanup()

    @property
    def flag(self) -> str:
        return f"--dovecot.master-socket={self.path}"

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        sent = bytearray()
        self.sent.append(sent)
        with connection, socket.socket(socket.AF_UNIX) as master, contextlib.suppress(OSError):
            # Before anything is done about it, so that nothing is missed of what was sent.
            sent += connection.recv(4096)
            if self.instead is None:
                master.connect(str(self._master))
                master.sendall(sent)
                back = threading.Thread(target=_pump, args=(master, connection), daemon=True)
            else:
                back = threading.Thread(target=self.instead, args=(connection,), daemon=True)
            back.start()
            while data := connection.recv(4096):
                sent += data
                master.sendall(data)
            with contextlib.suppress(OSError):
                master.shutdown(socket.SHUT_RDWR)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)


class Master(Beside):
    """All that the socket tells is shown, as doveadm shows it."""

    def assert_equal(
        self: Any,
        dovecot: Dovecot,
        exporter: Exporter,
        before: Mapping[str, float] | None = None,
        anvil_is_known: bool = True,
    ) -> Values:
        """Compares when doveadm says the same before and after a scrape; `before` was started before a reload."""

        def quiet() -> tuple[Values, dict[Series, float]] | None:
            expected = doveadm(dovecot)
            page = exporter.metrics()
            return (expected, page) if expected == doveadm(dovecot) else None

        expected, page = wait_until(quiet, PATIENCE, "Dovecot's processes to come to rest")
        if before is not None:
            expected[STARTS] = plus(before, expected[STARTS])
        # Of these nothing need be shown but their limits, because they never had a process; no users are theirs.
        started = expected[STARTS]
        quiet = {name for name, count in started.items() if count == 0 and f"{name}-login" not in started}
        quiet = {name for name in quiet if not name.endswith("-login") and name not in ("auth", "anvil")}
        for name, values in expected.items():
            shown = by_service(page, name)
            if name in (CLIENT_LIMIT, CONNECTIONS) and not anvil_is_known:
                self.assertNotIn("anvil", shown)
                values = {service: value for service, value in values.items() if service != "anvil"}
            if name not in (PROCESS_LIMIT, CLIENT_LIMIT):
                values = {service: value for service, value in values.items() if service in shown or service not in quiet}
            self.assertEqual(shown, values, name)
        self.assertEqual(page[UP, frozenset({("source", "master")})], 1)
        self.assertEqual({dict(labels)["source"] for name, labels in page if name == SOURCE}, {"master"})
        return expected

    def await_connections(self: Any, dovecot: Dovecot, count: int, service: str = SERVICE) -> None:
        """Processes tell the master once a second."""
        self.await_equal(lambda: doveadm(dovecot)[CONNECTIONS][service], count, "the master to hear of it")

    def test_high_security_mode(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 6}})
        exporter = self.run_exporter(dovecot)
        self.assertEqual(self.assert_equal(dovecot, exporter)[CONNECTIONS][SERVICE], 0)
        clients = self.clients(dovecot)
        clients.idle(4)
        clients.pre_auth(1)
        clients.logged_in(3)
        self.await_connections(dovecot, 5)
        shown = self.assert_equal(dovecot, exporter)
        self.assertEqual((shown[CONNECTIONS]["imap"], shown[PAUSED][SERVICE]), (7, 0))
        self.assertEqual(exporter.value("dovecot_service_connection_capacity", service=SERVICE), 6)
        # One more fills it, and who knocks then has the master stop listening.
        clients.idle(1)
        with ThreadPoolExecutor(1) as pool:
            ended = threading.Event()
            knocking = pool.submit(clients.knock, 5, PATIENCE, ended.is_set)
            try:
                self.await_equal(lambda: doveadm(dovecot)[PAUSED][SERVICE], 1, "the master to stop listening")
                shown = self.assert_equal(dovecot, exporter)
            finally:
                ended.set()
            knocking.result()
        self.assertEqual((shown[PAUSED][SERVICE], shown[CONNECTIONS][SERVICE]), (1, 6))

    def performance_mode(self: Any, process_limit: int, client_limit: int) -> None:
        settings = {**lab.PERFORMANCE_MODE, "process_limit": process_limit, "client_limit": client_limit}
        dovecot = self.run_dovecot(services={SERVICE: settings})
        exporter = self.run_exporter(dovecot)
        self.await_equal(lambda: len(dovecot.processes(SERVICE)), 1, "the spare process")
        clients = self.clients(dovecot)
        clients.idle(20)
        self.await_connections(dovecot, 20)
        shown = self.assert_equal(dovecot, exporter)
        self.assertEqual((shown[CONNECTIONS][SERVICE], shown[COUNTED][SERVICE]), (20, process_limit))
        self.assertEqual(exporter.value("dovecot_service_connection_capacity", service=SERVICE), 20)
        clients.close(clients.held[:7])
        self.await_connections(dovecot, 13)
        self.assertEqual(self.assert_equal(dovecot, exporter)[CONNECTIONS][SERVICE], 13)

    def test_performance_mode_with_one_process(self: Any) -> None:
        self.performance_mode(1, 20)

    def test_performance_mode_with_two_processes(self: Any) -> None:
        self.performance_mode(2, 10)

    def reload(self: Any, shutdown_clients: str) -> None:
        settings = f"shutdown_clients = {shutdown_clients}\n"
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}}, settings=settings)
        exporter = self.run_exporter(dovecot)
        clients = self.clients(dovecot)
        clients.idle(4)
        self.await_connections(dovecot, 4)
        before = self.assert_equal(dovecot, exporter)[STARTS]
        self.assertEqual(before[SERVICE], 4)
        dovecot.write_config(services={SERVICE: {"process_limit": 8}})
        self.await_value(exporter, 8, CONFIGURED, service=SERVICE)
        self.assertEqual(exporter.value(PROCESS_LIMIT, service=SERVICE), 5)
        dovecot.reload()
        # At once: the socket tells. anvil goes on, and is in the new count all the same.
        self.assertEqual(exporter.value(PROCESS_LIMIT, service=SERVICE), 8)
        before["anvil"] -= 1
        shown = self.assert_equal(dovecot, exporter, before)
        self.assertEqual(shown[CONNECTIONS]["imap"], 0)
        if shutdown_clients == "no":
            # They are still there, and the master does not know them any more.
            self.assertEqual(len(dovecot.processes("imap")), 4)
        clients.idle(8)
        self.await_connections(dovecot, 8)
        shown = self.assert_equal(dovecot, exporter, before)
        self.assertEqual((shown[COUNTED][SERVICE], shown[STARTS][SERVICE]), (8, 4 + doveadm(dovecot)[STARTS][SERVICE]))
        dovecot.reload()
        before = shown[STARTS]
        before["anvil"] -= 1
        self.assert_equal(dovecot, exporter, before)

    def test_anvil_outlives_a_reload(self: Any) -> None:
        """With the client_limit of its start, whatever master and doveconf say."""
        dovecot = self.run_dovecot(services={"anvil": {"client_limit": 300}})
        exporter = self.run_exporter(dovecot)
        clients = self.clients(dovecot)
        clients.pre_auth(3)

        def used(client_limit: int) -> int:
            header, process = dovecot.admin("-f", "tab", "process", "status", "anvil").splitlines()
            return client_limit - int(process.split("\t")[header.split("\t").index("available_count")])

        def shown(one: Exporter) -> list[float | None]:
            capacity = "dovecot_service_connection_capacity"
            return [one.value(name, service="anvil") for name in (CLIENT_LIMIT, capacity, CONNECTIONS)]

        self.await_equal(lambda: used(300) > 3 and shown(exporter) == [300, 300, used(300)], True, "anvil's clients")
        for client_limit in (900, 200):
            dovecot.write_config(services={"anvil": {"client_limit": client_limit}}, settings="shutdown_clients = no")
            dovecot.reload()
            self.await_equal(lambda: doveadm(dovecot)[CLIENT_LIMIT]["anvil"], client_limit, "the master's new limit")
            # Until anvil has told the new list of services of itself, the master takes it for idle.
            wait_until(lambda: used(300) > 0, PATIENCE, "anvil to tell what is left")
            known = used(300) if client_limit > 300 else None
            self.await_equal(lambda: shown(exporter), [300, 300, known], "anvil as it is")
        self.assertEqual(shown(self.run_exporter(dovecot)), [None, None, None])
        clients.close()
        dovecot.stop()
        dovecot.start()
        self.await_equal(lambda: shown(exporter)[:2], [200, 200], "the new anvil")

    def test_reload_that_ends_clients(self: Any) -> None:
        self.reload("yes")

    def test_reload_that_keeps_clients(self: Any) -> None:
        self.reload("no")

    def test_reload_that_fails(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        exporter = self.run_exporter(dovecot)
        clients = self.clients(dovecot)
        clients.idle(2)
        self.await_connections(dovecot, 2)
        before = self.assert_equal(dovecot, exporter)
        # For doveadm, which could not read the other one either.
        good = dovecot.lab / "good.conf"
        good.write_text(dovecot.config.read_text())
        dovecot.write_config(services={SERVICE: {"process_limit": 8}}, settings="nonsense = {{{\n")
        self.await_value(exporter, 0, UP, source="limits")
        errors = dovecot.log_text().count("master: Error: ")
        os.kill(dovecot.master_pid, signal.SIGHUP)
        wait_until(lambda: dovecot.log_text().count("master: Error: ") > errors, PATIENCE, "Dovecot to give up")
        broken, dovecot.config = dovecot.config, good
        shown = self.assert_equal(dovecot, exporter)
        self.assertEqual(exporter.value(UP, source="limits"), 0)
        for name in (PROCESS_LIMIT, CLIENT_LIMIT, STARTS):
            self.assertEqual(shown[name], before[name], name)
        dovecot.config = broken
        dovecot.write_config(settings="")
        self.assert_equal(dovecot, exporter)

    def test_reload_that_fails_late(self: Any) -> None:
        """For reasons that doveconf does not look at; nobody but the log tells of it."""
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        # Tells when it has been run.
        doveconf, runs = dovecot.lab / "doveconf-and-tell", dovecot.lab / "runs"
        doveconf.write_text(f'#!/bin/sh\n{dovecot.doveconf} "$@"\ncode=$?\necho >> {runs}\nexit $code\n')
        doveconf.chmod(0o755)
        exporter = self.run_exporter(dovecot, "--dovecot.master-socket=", f"--dovecot.doveconf={doveconf}")
        certificate = {"2.3": "ssl_cert = </nonexistent", "2.4": "ssl_server_cert_file = /nonexistent"}
        for settings, user in ((certificate[self.generation], {}), ("", {"user": "nonesuch"})):
            with self.subTest(settings=settings, user=user):
                dovecot.write_config(services={SERVICE: {"process_limit": 8, **user}}, settings=settings)
                self.await_value(exporter, 8, CONFIGURED, service=SERVICE)
                failures = dovecot.log_text().count("master: Error: ")
                reloads = exporter.value("dovecot_master_reloads_total")
                os.kill(dovecot.master_pid, signal.SIGHUP)
                wait_until(lambda: dovecot.log_text().count("master: Error: ") > failures, PATIENCE, "Dovecot to give up")
                self.await_value(exporter, reloads + 1, "dovecot_master_reloads_total")
                # The limit is read again once the configuration changes, and is still another one then.
                dovecot.write_config(services={SERVICE: {"process_limit": 9, **user}}, settings=settings)
                self.await_value(exporter, 9, CONFIGURED, service=SERVICE)
                self.assertEqual(exporter.value(PROCESS_LIMIT, service=SERVICE), 5)
        # One that goes well and one that fails, and nobody looks between them.
        dovecot.write_config(services={SERVICE: {"process_limit": 7}}, settings="")
        self.await_value(exporter, 7, CONFIGURED, service=SERVICE)
        before = runs.stat().st_size
        dovecot.reload()
        wait_until(lambda: runs.stat().st_size >= before + 2, PATIENCE, "what is on disk to be read")
        failures = dovecot.log_text().count("master: Error: ")
        dovecot.write_config(services={SERVICE: {"process_limit": 9, "user": "nonesuch"}})
        os.kill(dovecot.master_pid, signal.SIGHUP)
        wait_until(lambda: dovecot.log_text().count("master: Error: ") > failures, PATIENCE, "Dovecot to give up")
        self.await_value(exporter, 9, CONFIGURED, service=SERVICE)
        dovecot.write_config(services={SERVICE: {"process_limit": 8}})
        self.await_value(exporter, 8, CONFIGURED, service=SERVICE)
        self.assertEqual(exporter.value(PROCESS_LIMIT, service=SERVICE), 7)

    def test_another_master(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        exporter = self.run_exporter(dovecot)
        clients = self.clients(dovecot)
        clients.idle(3)
        self.await_connections(dovecot, 3)
        before = self.assert_equal(dovecot, exporter)[STARTS]
        dovecot.stop()
        page = exporter.metrics()
        self.assertEqual(page[UP, frozenset({("source", "master")})], 0)
        for name in set(OF_MASTER) - {STARTS}:
            self.assertEqual(by_service(page, name), {}, name)
        self.assertEqual(any_of(by_service(page, STARTS)), any_of(before))
        self.assertEqual(page["dovecot_master_up", frozenset()], 0)
        clients.close()
        dovecot.start()
        self.assert_equal(dovecot, exporter, before)
        lines = [line for line in exporter.stderr if "source=master" in line]
        self.assertEqual([line.split(" level=")[-1].split()[0] for line in lines], ["warn", "info"], lines)
        self.assertIn("start Dovecot", lines[0])

    def test_counts_outlive_the_exporter(self: Any) -> None:
        dovecot = self.run_dovecot()
        exporter = self.run_exporter(dovecot, f"--state.file={dovecot.lab / 'state.json'}")
        self.clients(dovecot).idle(3)
        self.await_connections(dovecot, 3)
        before = self.assert_equal(dovecot, exporter)[STARTS]
        dovecot.reload()
        before["anvil"] -= 1
        before = self.assert_equal(dovecot, exporter, before)[STARTS]
        exporter.stop()
        exporter.start()
        self.assertEqual(any_of(by_service(exporter.metrics(), STARTS)), any_of(before))
        exporter.stop()
        # What was started meanwhile shows; what was started before a reload that nobody saw cannot.
        dovecot.reload()
        exporter.start()
        before["anvil"] -= 1
        # anvil is older than what the exporter has seen, so with which client_limit it started nobody tells.
        self.assert_equal(dovecot, exporter, before, anvil_is_known=False)

    def test_nobody_does_without(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        dovecot.log_path.chmod(0o644)
        nobody = self.enterContext(Exporter.unprivileged(dovecot))
        never = self.run_exporter(dovecot, "--dovecot.master-socket=")
        self.clients(dovecot).idle(3)
        self.await_value(nobody, 3, "dovecot_service_processes", service=SERVICE)

        def steady(exporter: Exporter) -> dict[Series, float]:
            differs = re.compile(r"process_|dovecot_exporter_(scrape_duration|log_last_read)")
            page = exporter.metrics()
            return {series: value for series, value in page.items() if not differs.match(series[0])}

        down = {(UP, frozenset({("source", "master")})): 0}
        self.await_equal(lambda: steady(nobody), lambda: {**steady(never), **down}, "the same pages")
        for name in OF_MASTER:
            self.assertEqual(by_service(nobody.metrics(), name), {}, name)
        [line] = [line for line in nobody.stderr if "source=master" in line]
        for word in (f"{dovecot.base_dir}/master", "root", "setfacl", "stop Dovecot"):
            self.assertIn(word, line)
        self.assertFalse([line for line in never.stderr if "source=master" in line])
        # It works as the line says, and without a word in Dovecot's log.
        seen = len(dovecot.log_text())
        (dovecot.base_dir / "master").chmod(0o666)
        self.assert_equal(dovecot, nobody)
        self.assertNotIn("master-client", dovecot.log_text()[seen:])

    def test_churn(self: Any) -> None:
        services = {SERVICE: {"process_limit": 400}, "stats": {"client_limit": 4000}}
        dovecot = self.run_dovecot(services=services)
        exporter = self.run_exporter(dovecot)
        storm = self.clients(dovecot).start_login_storm(8, workers=8)
        shown = [exporter.value(STARTS, service=SERVICE)]
        wait_until(lambda: doveadm(dovecot)[STARTS][SERVICE] > 50, PATIENCE, "the storm")
        self.assertEqual(exporter.value(UP, source="master"), 1)

        def scrape(seconds: float) -> None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                shown.append(exporter.value(STARTS, service=SERVICE))

        scrape(2)
        known = doveadm(dovecot)[STARTS][SERVICE]
        scrape(0.01)
        dovecot.reload()
        scrape(2)
        again = exporter.value(STARTS, service=SERVICE)
        succeeded, failed = storm.result()
        self.assertEqual(shown, sorted(shown))
        self.assertNotIn(None, shown)
        self.assertGreater(again, known)
        # Across the reload nothing is counted twice, and only what nobody could read is missing.
        page = lambda: exporter.value(STARTS, service=SERVICE) - doveadm(dovecot)[STARTS][SERVICE]
        before = page()
        self.assertGreaterEqual(before, known)
        self.assertLess(before, known + 100)
        print(f"\n{self.generation}: {succeeded} logins, {failed} failed, {known} known, {before} before the reload")
        # Then they keep step.
        self.assertEqual(page(), before)
        storm = self.clients(dovecot).start_login_storm(4, workers=8)
        storm.result()
        self.assertEqual(page(), before)

    def test_only_two_questions(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 2}})
        with Relay(dovecot.base_dir / "master") as relay:
            given = {"flags": [relay.flag, f"--state.file={dovecot.lab / 'state.json'}"]}
            quiet = self.run_exporter(dovecot, *given["flags"])
            loud = self.enterContext(Exporter(None, *self.with_log_master(dovecot), relay.flag))
            for exporter in (quiet, loud):
                clients = self.clients(dovecot)
                clients.idle(2)
                clients.knock(5, timeout=1)
                exporter.metrics()
                exporter.get("/")
                exporter.get("/-/ready")
                os.kill(exporter.pid, signal.SIGHUP)
                dovecot.reload()
                exporter.metrics()
                clients.close()
                for answer in (b"", b"garbage\n", b"VERSION\tmaster-server\t1\t0\nSTOP\timap-login\n"):
                    relay.instead = lambda connection, answer=answer: (
                        connection.sendall(answer),
                        connection.shutdown(socket.SHUT_WR),
                    )
                    exporter.metrics()
                relay.instead = None
                exporter.metrics()
            if self.generation == "2.4":
                # The loud one asks by itself, too.
                count = len(relay.sent)
                wait_until(lambda: len(relay.sent) >= count + 2, PATIENCE, "questions")
            dovecot.stop()
            quiet.metrics()
            dovecot.start()
            quiet.metrics()
            for exporter in (quiet, loud):
                self.assertEqual(exporter.stop()[0], 0)
            self.assertEqual({bytes(sent) for sent in relay.sent}, ALLOWED)
        self.assertNotIn("master-client: ", dovecot.log_text().replace(UNKNOWN, ""))

    def with_log_master(self, dovecot: Dovecot) -> list[str]:
        """Flags for an exporter that is to read no log."""
        return [
            f"--dovecot.config={dovecot.config}",
            f"--dovecot.doveconf={dovecot.doveconf}",
            "--dovecot.log-master",
        ]

    @contextlib.contextmanager
    def misbehaving(self: Any) -> Iterator[tuple[Dovecot, Relay, Exporter]]:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        self.clients(dovecot).idle(3)
        with Relay(dovecot.base_dir / "master") as relay:
            yield dovecot, relay, self.run_exporter(dovecot, relay.flag)

    def test_a_socket_that_misbehaves(self: Any) -> None:
        version = b"VERSION\tmaster-server\t1\t0\n"

        def hang(_: socket.socket) -> None:
            pass

        def send(data: bytes, close: bool = True) -> Callable[[socket.socket], None]:
            def answer(connection: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    connection.sendall(data)
                    if close:
                        connection.shutdown(socket.SHUT_RDWR)

            return answer

        def trickle(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                connection.sendall(version)
                while True:
                    connection.sendall(b"a")
                    time.sleep(0.05)

        def flood(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                connection.sendall(version)
                while True:
                    connection.sendall(b"x" * 65536)

        def endless(connection: socket.socket) -> None:
            line = b"log\t1\t1\t1\t1000\t0\t0\t0\t0\tn\tn\tn\t1\n"
            with contextlib.suppress(OSError):
                connection.sendall(version + line + b"\n")
                while True:
                    connection.sendall(b"log\t1\t1000\t0\t0\t0\t0\n" * 1000)

        with self.misbehaving() as (dovecot, relay, exporter):
            self.assert_equal(dovecot, exporter)
            real = answer_of(dovecot)
            memory = exporter.value("process_resident_memory_bytes")
            for name, instead in {
                "in time": hang,
                "closed before": send(b""),
                "version": send(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
                "no services": send(version + b"\n\n"),
                "closed before the end": send(real[:-40]),
                "of no service": send(real.replace(b"\tn\t", b"\tx\t")),
                "in time: trickle": trickle,
                "too long": flood,
                "does not end": endless,
                "in time: half": send(real[:300], close=False),
            }.items():
                with self.subTest(name):
                    relay.instead = instead
                    with ThreadPoolExecutor(3) as pool:

                        def scrape(_: int) -> tuple[float, dict[Series, float]]:
                            before = time.monotonic()
                            page = exporter.metrics()
                            return time.monotonic() - before, page

                        scrapes = list(pool.map(scrape, range(3)))
                    for seconds, page in scrapes:
                        self.assertLess(seconds, 1)
                        self.assertEqual(page[UP, frozenset({("source", "master")})], 0)
                        for metric in set(OF_MASTER) - {STARTS}:
                            self.assertEqual(by_service(page, metric), {}, metric)
                        self.assertEqual(by_service(page, "dovecot_service_processes")[SERVICE], 3)
                        self.assertEqual(by_service(page, PROCESS_LIMIT)[SERVICE], 5)
                        self.assertEqual(page["dovecot_master_up", frozenset()], 1)
                    reasons = [line for line in exporter.stderr if "source=master" in line and "level=warn" in line]
                    # A slow machine does not get to the bound on bytes before that on time.
                    expected = "(does not end|in time)" if instead is endless else name.split(":")[0]
                    self.assertRegex(reasons[-1], expected)
                    relay.instead = None
                    self.assert_equal(dovecot, exporter)
            self.assertLess(exporter.value("process_resident_memory_bytes"), memory + (2 << 20))

    def test_a_master_that_hangs(self: Any) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 5}})
        exporter = self.run_exporter(dovecot)
        self.assert_equal(dovecot, exporter)
        master = dovecot.master_pid
        os.kill(master, signal.SIGSTOP)
        try:
            # More often than its backlog holds.
            for _ in range(20):
                before = time.monotonic()
                page = exporter.metrics()
                self.assertLess(time.monotonic() - before, 1)
                self.assertEqual(page[UP, frozenset({("source", "master")})], 0)
                self.assertEqual(page["dovecot_master_up", frozenset()], 1)
                self.assertEqual(by_service(page, PROCESS_LIMIT)[SERVICE], 5)
        finally:
            os.kill(master, signal.SIGCONT)
        self.assert_equal(dovecot, exporter)
        # One line when it began, of a time-out or of a full backlog, and one when it ended.
        lines = [line for line in exporter.stderr if "source=master" in line]
        self.assertLessEqual(len(lines), 3, lines)


# 2.3 has no ERROR-LOG, and says so in its log.
UNKNOWN = "master-client: Unknown command: ERROR-LOG"


def answer_of(dovecot: Dovecot) -> bytes:
    """What the real master answers to SERVICE-STATUS and PROCESS-STATUS."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(dovecot.base_dir / "master"))
        connection.sendall(VERSION + b"SERVICE-STATUS\nPROCESS-STATUS\n")
        answer = b""
        while answer.count(b"\n\n") < 2:
            answer += connection.recv(65536)
        return answer


class Master23(Master, unittest.TestCase):
    generation = "2.3"

    def test_no_error_log(self) -> None:
        dovecot = self.run_dovecot()
        exporter = self.enterContext(Exporter(None, *self.with_log_master(dovecot)))
        self.await_value(exporter, 0, UP, source="log")
        [line] = [line for line in exporter.stderr if "source=log" in line]
        for word in ("2.4", "--dovecot.log-file"):
            self.assertIn(word, line)
        # It is not asked again: it logs an error each time.
        for _ in range(3):
            exporter.metrics()
        dovecot.reload()
        self.assertEqual(dovecot.log_text().count(UNKNOWN), 1)
        self.assertEqual(exporter.value(UP, source="master"), 1)


class Master24(Master, unittest.TestCase):
    generation = "2.4"

    def test_unlimited(self) -> None:
        services = {
            SERVICE: {"process_limit": "unlimited", "client_limit": "unlimited", **lab.PERFORMANCE_MODE},
            "auth": {"client_limit": "unlimited"},
        }
        dovecot = self.run_dovecot(services=services)
        exporter = self.run_exporter(dovecot)
        self.clients(dovecot).idle(3)
        self.await_connections(dovecot, 3)
        shown = self.assert_equal(dovecot, exporter)
        for name in (PROCESS_LIMIT, CLIENT_LIMIT):
            self.assertEqual(shown[name][SERVICE], float("inf"))


class ErrorLog(Beside, unittest.TestCase):
    """The errors that the master remembers, instead of a log."""

    generation = "2.4"

    def overload(self, dovecot: Dovecot, clients: Clients, count: int) -> None:
        """Until there are so many warnings more."""
        seen = len(dovecot.warnings())
        deadline = time.monotonic() + 4 * PATIENCE
        while len(dovecot.warnings()) < seen + count:
            self.assertLess(time.monotonic(), deadline, "too few warnings")
            clients.knock(10, timeout=2, until=lambda: len(dovecot.warnings()) >= seen + count)

    def await_warnings(self, exporter: Exporter, dovecot: Dovecot) -> None:
        self.await_equal(
            lambda: counted(exporter.metrics()), lambda: dict(warnings_by_limit(dovecot)), "the warnings"
        )

    def test_every_warning_is_counted_once(self) -> None:
        services = {SERVICE: {"process_limit": 2}, "pop3-login": {"process_limit": 1}}
        dovecot = self.run_dovecot(services=services, protocols=("imap", "pop3"))
        flags = Master.with_log_master(self, dovecot)
        exporter = self.enterContext(Exporter(None, *flags, f"--state.file={dovecot.lab / 'state.json'}"))
        self.assertEqual(exporter.value(WARNINGS, service=SERVICE, limit="process_limit"), 0)
        clients = self.clients(dovecot)
        clients.pre_auth(2)
        self.overload(dovecot, clients, 3)
        self.await_warnings(exporter, dovecot)
        # A scrape alone shows what was logged just now, without waiting for the second to pass.
        self.assertEqual(exporter.value(UP, source="log"), 1)

        # What comes while no exporter runs counts when it runs again, ...
        exporter.stop()
        self.overload(dovecot, clients, 2)
        exporter.start()
        self.await_warnings(exporter, dovecot)
        # ... and once: looked at again and again.
        for _ in range(5):
            exporter.metrics()
        self.await_warnings(exporter, dovecot)

        # A reload forgets nothing, and counts.
        dovecot.reload()
        self.await_value(exporter, 1, "dovecot_master_reloads_total")
        self.await_warnings(exporter, dovecot)

        # Another master has forgotten all.
        clients.close()
        dovecot.stop()
        self.assertEqual(exporter.value(UP, source="log") in (0, 1), True)
        dovecot.start()
        self.await_value(exporter, 1, UP, source="log")
        self.await_warnings(exporter, dovecot)
        clients.pre_auth(2)
        self.overload(dovecot, clients, 2)
        self.await_warnings(exporter, dovecot)

        # And it did so while no exporter ran.
        exporter.stop()
        clients.close()
        dovecot.stop()
        dovecot.start()
        clients.pre_auth(2)
        self.overload(dovecot, clients, 1)
        exporter.start()
        self.await_warnings(exporter, dovecot)
        # What no line of the master's tells is not shown.
        page = exporter.metrics()
        for name in (
            "dovecot_service_queue_full_kills_total",
            "dovecot_service_handover_failures_total",
            "dovecot_user_connection_limit_rejections_total",
        ):
            self.assertFalse([labels for metric, labels in page if metric == name], name)
        failures = "dovecot_service_failures_total"
        reasons = {dict(labels)["reason"] for metric, labels in page if metric == failures}
        self.assertEqual(reasons, {"fork_failed", "throttled", "startup_timeout"})

    def test_what_was_there_at_the_start_does_not_count(self) -> None:
        dovecot = self.run_dovecot(services={SERVICE: {"process_limit": 2}})
        clients = self.clients(dovecot)
        clients.pre_auth(2)
        self.overload(dovecot, clients, 1)
        exporter = self.enterContext(Exporter(None, *Master.with_log_master(self, dovecot)))
        old = len(dovecot.warnings())
        self.overload(dovecot, clients, 1)
        self.await_equal(
            lambda: sum(counted(exporter.metrics()).values()), lambda: len(dovecot.warnings()) - old, "the new ones"
        )

    def test_exporter_first(self) -> None:
        dovecot = Dovecot("2.4", instance_name=f"ring-{os.getpid()}", services={SERVICE: {"process_limit": 2}})
        self.addCleanup(dovecot.close)
        exporter = self.enterContext(Exporter(None, *Master.with_log_master(self, dovecot)))
        self.assertEqual(exporter.value(UP, source="log"), 0)
        dovecot.start()
        clients = self.clients(dovecot)
        clients.pre_auth(2)
        self.overload(dovecot, clients, 1)
        self.await_warnings(exporter, dovecot)

    def test_nobody(self) -> None:
        dovecot = self.run_dovecot()
        exporter = Exporter.unprivileged(dovecot, "--dovecot.log-master")
        exporter.command = [flag for flag in exporter.command if not flag.startswith("--dovecot.log-file=")]
        with exporter:
            self.assertEqual(exporter.value(UP, source="log"), 0)
            self.assertEqual(len([line for line in exporter.stderr if "source=log" in line]), 1)


if __name__ == "__main__":
    unittest.main()
