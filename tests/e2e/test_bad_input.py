"""What goes wrong: one clear line each, the page stays, and an end comes at once when asked for."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
import unittest
from pathlib import Path

from imap_clients import Clients
from lab import Dovecot, Exporter, Series, exporter_path, session, wait_until

SERVICE = "imap-login"
PATIENCE = 30
MASTER_UP = ("dovecot_master_up", frozenset[tuple[str, str]]())
# Scrapes that find the same trouble again.
ROUNDS = 3


def source_up(page: dict[Series, float]) -> dict[str, float]:
    return {
        dict(labels)["source"]: value
        for (name, labels), value in page.items()
        if name == "dovecot_exporter_source_up"
    }


def services(page: dict[Series, float], name: str) -> set[str]:
    return {dict(labels)["service"] for metric, labels in page if metric == name}


class CannotStart(unittest.TestCase):
    """Bad flags and a taken port end it with 2."""

    def assert_refused(self, *flags: str, words: tuple[str, ...]) -> None:
        run = subprocess.run([exporter_path(), *flags], capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual((run.returncode, run.stdout), (2, ""))
        [line] = run.stderr.splitlines()
        for word in words:
            self.assertIn(word, line)

    def test_unknown_flag(self) -> None:
        self.assert_refused("--nonsense", words=("--nonsense", "--help"))
        self.assert_refused("nonsense", words=("nonsense", "--help"))

    def test_malformed_process_limit(self) -> None:
        for value in ("imap-login", "imap-login=", "=5", "imap-login=x", "imap-login=0", "imap-login=-1", "a b=5"):
            with self.subTest(value):
                words = (f"'{value}'", "--dovecot.process-limit", "SERVICE=N", "imap-login=500")
                self.assert_refused(f"--dovecot.process-limit={value}", words=words)

    def test_port_taken(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            self.assert_refused(
                f"--web.listen-address={address}", words=(address, "in use", "--web.listen-address")
            )

    def test_every_address(self) -> None:
        """Whatever the host does with IPv6 sockets that nobody says more of; in a network of their own."""
        inside = """
            set -e
            ip link set lo up
            echo "$1" > /proc/sys/net/ipv6/bindv6only
            "$2" --web.listen-address=:9166 --dovecot.doveconf= --dovecot.config=/nonexistent 2>/dev/null &
            trap "kill $!" EXIT
            curl --silent --retry 20 --retry-connrefused --retry-delay 1 'http://[::1]:9166/-/healthy'
            curl --silent http://127.0.0.1:9166/-/healthy
        """
        for bindv6only in "01":
            command = ["unshare", "--net", "sh", "-c", inside, "sh", bindv6only, exporter_path()]
            run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            self.assertEqual((run.returncode, run.stdout.split()), (0, ["Healthy.", "Healthy."]), run.stderr)

    def test_help_and_version_are_no_failures(self) -> None:
        for flag in ("--help", "--version"):
            run = subprocess.run([exporter_path(), flag], capture_output=True, text=True, timeout=PATIENCE)
            self.assertEqual((run.returncode, run.stderr), (0, ""))


class BadSource:
    """A source that fails is a gauge at 0 and one line; the page stays, and so does the exporter."""

    generation: str

    def setUp(self: unittest.TestCase) -> None:
        name = f"bad-{os.getpid()}"
        self.dovecot = self.enterContext(
            Dovecot(self.generation, instance_name=name, services={SERVICE: {"process_limit": 5}})
        )

    def script(self, text: str) -> Path:
        path = self.dovecot.lab / "doveconf-of-the-test"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def assert_one_line(self: unittest.TestCase, exporter: Exporter, source: str, *words: str) -> dict:
        """The source is down, with one line that says why; returns the page."""
        wait_until(lambda: source_up(exporter.metrics())[source] == 0, PATIENCE, f"{source} to be down")
        # Nothing is said again, however often it fails again.
        for _ in range(ROUNDS):
            page = exporter.metrics()
        self.assertEqual(source_up(page)[source], 0)
        lines = [re.sub(r"\\(.)", r"\1", line) for line in exporter.stderr]
        troubles = [line for line in lines if re.search(r"level=(warn|error)", line)]
        [line] = [line for line in troubles if f"source={source}" in line]
        for word in words:
            self.assertIn(word, line)
        return page

    def assert_others_up(self: unittest.TestCase, page: dict[Series, float], *down: str) -> None:
        # Whether the master answers is a matter of who asks.
        self.assertEqual({source for source, up in source_up(page).items() if not up} - {"master"}, set(down))

    def assert_log_up(self: unittest.TestCase, page: dict[Series, float]) -> None:
        """The page is there. Not all of /proc need be: without doveconf nothing tells this Dovecot from
        others that may run on this machine."""
        self.assertEqual(source_up(page)["log"], 1)
        self.assertIn(SERVICE, services(page, "dovecot_service_drop_warnings_total"))

    def test_doveconf_absent(self: unittest.TestCase) -> None:
        absent = "--dovecot.doveconf=/no/such/doveconf"
        # Then it reads the files itself.
        with Exporter(self.dovecot, absent) as exporter:
            self.assertEqual(source_up(exporter.metrics())["limits"], 1)
            self.assertEqual(sum("without doveconf" in line for line in exporter.stderr), 1)
        with Exporter(self.dovecot, absent, "--dovecot.config=/no/such.conf") as exporter:
            words = ("/no/such.conf", "/no/such/doveconf", "--dovecot.doveconf", "--dovecot.process-limit")
            self.assert_log_up(self.assert_one_line(exporter, "limits", *words))

    def test_doveconf_fails(self: unittest.TestCase) -> None:
        for said, words in (
            ("echo 'Warning: this' >&2; echo 'Fatal: that' >&2; exit 89", ("Fatal: that", "mend")),
            ("exit 1", ("exit status: 1",)),
            ("kill -9 $$", ("signal: 9",)),
            ("exit 0", ("no services", "--dovecot.doveconf")),
            ("head -c 100000 /dev/urandom", ("no services", "--dovecot.doveconf")),
        ):
            program = self.script(said)
            with self.subTest(said), Exporter(self.dovecot, f"--dovecot.doveconf={program}") as exporter:
                page = self.assert_one_line(exporter, "limits", str(program), *words)
                self.assert_log_up(page)
                self.assertEqual(services(page, "dovecot_service_process_limit_configured"), set())

    def leave_nothing(self: unittest.TestCase, leader: int) -> None:
        """Whatever the test shows, what hangs is gone after it."""
        self.addCleanup(lambda: [os.kill(pid, signal.SIGKILL) for pid in session(leader)])

    def test_doveconf_hangs(self: unittest.TestCase) -> None:
        # It is asked two things at once. Its child hangs with it, and holds its standard output.
        program = self.script("sleep 1000\nexit 0")
        with Exporter(self.dovecot, f"--dovecot.doveconf={program}") as exporter:
            began = time.monotonic()
            self.leave_nothing(exporter.pid)
            self.assertEqual(len(session(exporter.pid)), 5)
            slowest = 0.0
            while len(session(exporter.pid)) > 1:
                self.assertLess(time.monotonic() - began, PATIENCE)
                before = time.monotonic()
                page = exporter.metrics()
                slowest = max(slowest, time.monotonic() - before)
                self.assert_log_up(page)
            # It was given its time, but no more.
            self.assertGreater(time.monotonic() - began, 5)
            self.assertLess(time.monotonic() - began, 15)
            self.assertLess(slowest, 2)
            self.assert_one_line(exporter, "limits", str(program), "10 s", "killed", "by hand")
            self.assertEqual(session(exporter.pid), [exporter.pid])

    def test_an_end_while_doveconf_hangs(self: unittest.TestCase) -> None:
        program = self.script("exec sleep 1000")
        exporter = self.enterContext(Exporter(self.dovecot, f"--dovecot.doveconf={program}"))
        pid = exporter.pid
        self.leave_nothing(pid)
        self.assertEqual(len(session(pid)), 3)
        code, seconds = exporter.stop()
        self.assertEqual(code, 0)
        self.assertLess(seconds, 1)
        # What it started it does not leave behind.
        wait_until(lambda: not session(pid), 5, "the hanging doveconf to end")

    def test_config_unreadable(self: unittest.TestCase) -> None:
        with Exporter.unprivileged(self.dovecot) as exporter:
            self.assertEqual(source_up(exporter.metrics())["limits"], 1)
            self.dovecot.config.chmod(0o600)
            page = self.assert_one_line(
                exporter, "limits", str(self.dovecot.config), "Permission denied", "let the user of the exporter read"
            )
            # What was known stays known.
            limit = "dovecot_service_process_limit", frozenset({("service", SERVICE)})
            self.assertEqual(page[limit], 5)
            self.dovecot.config.chmod(0o644)
            wait_until(lambda: source_up(exporter.metrics())["limits"], PATIENCE, "the limits to be up again")
        self.dovecot.config.chmod(0o600)
        with Exporter.unprivileged(self.dovecot) as exporter:
            self.assert_one_line(exporter, "limits", str(self.dovecot.config), "Permission denied")

    def test_config_absent(self: unittest.TestCase) -> None:
        path = self.dovecot.lab / "no.conf"
        with Exporter(self.dovecot, f"--dovecot.config={path}") as exporter:
            self.assert_one_line(exporter, "limits", str(path), "No such file", "mend")

    def test_log_unreadable(self: unittest.TestCase) -> None:
        wait_until(self.dovecot.log_path.exists, PATIENCE, "the log")
        self.dovecot.log_path.chmod(0o600)
        key = "dovecot_exporter_log_read_errors_total", frozenset({("log", str(self.dovecot.log_path))})
        with Exporter.unprivileged(self.dovecot) as exporter:
            wait_until(lambda: exporter.metrics().get(key, 0) > 2, PATIENCE, "three attempts to read")
            page = self.assert_one_line(exporter, "log", str(self.dovecot.log_path), "let the user of the exporter read")
            self.assert_others_up(page, "log")
            # What was there before stays uncounted, what comes once it may be read is counted.
            self.dovecot.log_path.chmod(0o644)
            wait_until(lambda: source_up(exporter.metrics())["log"], PATIENCE, "the log to be up")
            clients = self.enterContext(Clients(self.dovecot))
            clients.idle(5)
            clients.knock(3, timeout=PATIENCE, until=self.dovecot.warnings)
            warnings = {"service": SERVICE, "limit": "process_limit"}
            wait_until(
                lambda: exporter.value("dovecot_service_drop_warnings_total", **warnings)
                == len(self.dovecot.warnings()),
                PATIENCE,
                "the warning to be counted",
            )

    def test_log_is_a_directory(self: unittest.TestCase) -> None:
        path = self.dovecot.lab / "folder"
        path.mkdir()
        key = "dovecot_exporter_log_read_errors_total", frozenset({("log", str(path))})
        with Exporter(self.dovecot, f"--dovecot.log-file={path}") as exporter:
            wait_until(lambda: exporter.metrics().get(key, 0) > 2, PATIENCE, "three attempts to read")
            page = self.assert_one_line(exporter, "log", str(path), "no regular file", "--dovecot.log-file")
            self.assert_others_up(page, "log")

    def test_log_absent(self: unittest.TestCase) -> None:
        path = self.dovecot.lab / "later.log"
        with Exporter(self.dovecot, f"--dovecot.log-file={path}") as exporter:
            page = self.assert_one_line(exporter, "log", str(path), "waited for")
            self.assert_others_up(page, "log")
            path.touch()
            wait_until(lambda: source_up(exporter.metrics())["log"], PATIENCE, "the log to be up")

    def assert_blind(self: unittest.TestCase, exporter: Exporter, *words: str) -> None:
        page = self.assert_one_line(exporter, "procfs", *words)
        self.assert_others_up(page, "procfs")
        # Only the master itself may tell then.
        self.assertEqual(page.get(MASTER_UP), 1 if source_up(page)["master"] else None)
        self.assertEqual(services(page, "dovecot_service_processes"), set())
        # All else is there.
        self.assertIn(SERVICE, services(page, "dovecot_service_process_limit"))
        self.assertIn(SERVICE, services(page, "dovecot_service_drop_warnings_total"))

    def test_no_proc(self: unittest.TestCase) -> None:
        empty = self.dovecot.lab / "empty"
        empty.mkdir()
        for path in (empty, self.dovecot.lab / "nowhere", self.dovecot.config, Path("/usr")):
            with self.subTest(path), Exporter(self.dovecot, f"--path.procfs={path}") as exporter:
                self.assert_blind(exporter, str(path), "--path.procfs")

    def test_a_pid_namespace_of_its_own(self: unittest.TestCase) -> None:
        exporter = Exporter(self.dovecot)
        exporter.command[:0] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with exporter:
            self.assert_blind(exporter, "/proc", "PID name space")
            self.assert_ends(exporter, signal.SIGTERM)

    def test_a_pid_namespace_that_sees_the_hosts_proc(self: unittest.TestCase) -> None:
        host = self.dovecot.lab / "host-proc"
        host.mkdir()
        exporter = Exporter(self.dovecot, f"--path.procfs={host}")
        mounts = f'mount --bind /proc {host} && mount -t proc proc /proc && exec "$@"'
        exporter.command[:0] = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "sh", "-c", mounts, "sh"]
        self.enterContext(Clients(self.dovecot)).idle(4)
        with exporter:
            page = exporter.metrics()
            self.assert_others_up(page)
            self.assertEqual(page[MASTER_UP], 1)
            self.assertEqual(page["dovecot_service_processes", frozenset({("service", SERVICE)})], 4)

    def assert_ends(self: unittest.TestCase, exporter: Exporter, signal_number: int) -> None:
        """The program itself, not what wraps it, gets the signal; ends within a second, with 0."""
        [pid] = [
            pid
            for pid in session(exporter.pid)
            if Path(f"/proc/{pid}/exe").resolve() == Path(exporter_path()).resolve()
        ]
        began = time.monotonic()
        os.kill(pid, signal_number)
        code = exporter.process.wait(PATIENCE)
        self.assertLess(time.monotonic() - began, 1)
        self.assertEqual(code, 0)
        self.assertEqual(exporter.stop()[0], 0)

    def test_ends_at_once(self: unittest.TestCase) -> None:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            for wrapper in ([], ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]):
                for busy in (False, True):
                    with self.subTest(signal_number=signal_number, wrapper=wrapper, busy=busy):
                        exporter = Exporter(self.dovecot)
                        exporter.command[:0] = wrapper
                        with exporter:
                            if busy:
                                self.keep_busy(exporter)
                            self.assert_ends(exporter, signal_number)

    def keep_busy(self: unittest.TestCase, exporter: Exporter) -> None:
        """50 half-open connections, and scrapes under way."""
        host, port = exporter.address.rsplit(":", 1)
        for number in range(50):
            half_open = self.enterContext(socket.create_connection((host, int(port)), PATIENCE))
            half_open.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n"[: number % 33])
        scraped = threading.Event()

        def scrape() -> None:
            try:
                while True:
                    with socket.create_connection((host, int(port)), PATIENCE) as connection:
                        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                        if connection.recv(15) == b"HTTP/1.1 200 OK":
                            scraped.set()
            except OSError:
                pass  # it has ended, as it should

        for _ in range(4):
            thread = threading.Thread(target=scrape, daemon=True)
            thread.start()
            self.addCleanup(thread.join)
        self.assertTrue(scraped.wait(PATIENCE))


class BadSource23(BadSource, unittest.TestCase):
    generation = "2.3"


class BadSource24(BadSource, unittest.TestCase):
    generation = "2.4"


if __name__ == "__main__":
    unittest.main()
