"""Rotation of the log while warnings pour into it: none may be lost and none counted twice."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from lab import REPOSITORY, Dovecot, Exporter, Series, Server, wait_until

WITNESS = REPOSITORY / "target/witness"
SERVICE = "imap-login"
WARNINGS = "dovecot_service_drop_warnings_total"
ROTATIONS = "dovecot_exporter_log_rotations_total"
TRUNCATIONS = "dovecot_exporter_log_truncations_total"
LAST_READ = "dovecot_exporter_log_last_read_timestamp_seconds"
SERVICE_OF_WARNING = re.compile(
    rb" master: Warning: service\(([^)]+)\): process_limit \(\d+\) reached, client connections are being dropped\n"
)
RATE = 2000
TIMES = 20
# Lines between two rotations, and the bytes that one has at most.
APART = 1000
LINE = 120
# A reader that a busy machine keeps waiting for 30 ms loses 60 lines then, however often it looks. So the two that
# are compared go before all others.
FIRST = ("chrt", "--fifo", "1")
# Lines that all truncations together may cost beside twice what the follower loses, which may lose none by luck. The
# exporter, too, wakes at each line while somebody copies; without that it loses 40 and more.
A_HANDFUL = 10
PATIENCE = 60


def size(file: Path) -> int:
    """0 if there is none. The log is not opened between rotations: the exporter may notice who does."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def counted(page: Mapping[Series, float]) -> dict[str, float]:
    """The warnings of each service that had any."""
    series = ((dict(labels), value) for (name, labels), value in page.items() if name == WARNINGS)
    return {labels["service"]: value for labels, value in series if value and labels["limit"] == "process_limit"}


class Program(Server):
    """One of the witnesses; what it prints is in a file."""

    def __init__(self, folder: Path, name: str, *arguments: object, before: Sequence[str] = ()) -> None:
        super().__init__()
        self._command = [*before, WITNESS / name, *map(str, arguments)]
        self._output = folder / f"{name}.output"

    def start(self) -> None:
        with self._output.open("wb") as sink:
            self._spawn(self._command, stdout=sink)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def output(self) -> str:
        return self._output.read_text()

    def stop(self) -> str:
        """Ends it; all that it printed."""
        if self.process is None:
            return ""
        code = self._terminate(timeout=20)
        if code != 0:
            raise RuntimeError(f"{self._output.stem} ended with {code}")
        return self.output()


class OfAFlood(unittest.TestCase):
    """A writer of numbered warnings, 2,000 a second, and the exporter behind it."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rotation-")))
        # In a directory of its own: the exporter looks at the log's neighbours.
        self.log = self.folder / "log" / "dovecot.log"
        self.log.parent.mkdir(mode=0o700)
        self.log.touch(mode=0o600)

    def start_exporter(self, *before: str) -> None:
        """Starts it by the command BEFORE it."""
        self.exporter = Exporter(None, "--dovecot.doveconf=/bin/false", f"--dovecot.log-file={self.log}")
        self.exporter.command[:0] = before
        self.enterContext(self.exporter)

    # --- the ways to rotate

    def logrotate(self, *directives: str) -> None:
        """The real one; DIRECTIVES say how."""
        config = self.folder / "logrotate.conf"
        lines = "".join(f"  {line}\n" for line in ("rotate 30", *directives))
        config.write_text(f"{self.log} {{\n{lines}}}\n")
        config.chmod(0o600)
        subprocess.run(["/usr/sbin/logrotate", "-f", "-s", self.folder / "state", config], check=True)

    def postrotate(self) -> tuple[str, ...]:
        return "postrotate", f"kill -USR1 {self.writer.pid}", "endscript"

    def reopen(self) -> None:
        os.kill(self.writer.pid, signal.SIGUSR1)

    def next_name(self) -> Path:
        """A name that the log may get."""
        return self.log.with_name(f"{self.log.name}.{len(list(self.log.parent.iterdir()))}")

    # --- the writer

    def await_lines(self, file: Path, lines: int) -> None:
        """Waits for so many more lines than there are."""
        enough = size(file) + lines * LINE
        wait_until(lambda: size(file) >= enough, PATIENCE, f"{lines} lines more in {file.name}")

    def rotate_often(self, rotate: Callable[[], None]) -> int:
        """Starts the writer, rotates again and again, and ends it some time later; how many lines it wrote."""
        self.writer = self.enterContext(Program(self.folder, "write_log", self.log, RATE, 0))
        for _ in range(TIMES):
            self.await_lines(self.log, APART)
            rotate()
        self.await_lines(self.log, APART)
        return int(self.writer.stop())

    # --- what came of it

    def at_rest(self) -> dict[str, float]:
        """The values about the log, and the warnings, when all was read and nothing came for a while."""

        def read() -> dict[str, float] | None:
            page = self.exporter.metrics()
            values = {name: value for (name, labels), value in page.items() if ("log", str(self.log)) in labels}
            values[WARNINGS] = counted(page)[SERVICE]
            read_all = values["dovecot_exporter_log_position_bytes"] == self.log.stat().st_size
            return values if read_all and time.time() - values[LAST_READ] > 1 else None

        return wait_until(read, PATIENCE, "the exporter to come to rest")

    def assert_nothing_lost(self, rotate: Callable[[], None]) -> None:
        self.start_exporter()
        written = self.rotate_often(rotate)
        values = self.at_rest()
        self.assertGreaterEqual(written, (TIMES + 1) * APART)
        self.assertEqual(values[WARNINGS], written)
        self.assertEqual(values["dovecot_exporter_log_lines_total"], written)
        self.assertEqual(values[ROTATIONS], TIMES)
        self.assertEqual(values[TRUNCATIONS], 0)

    def assert_little_lost(self, style: str, rotate: Callable[[], None]) -> None:
        """What was written after the last look before a truncation is gone: for anybody."""
        self.start_exporter(*FIRST)
        follower = self.enterContext(Program(self.folder, "follow", self.log, before=FIRST))
        wait_until(lambda: "ready\n" in follower.output(), PATIENCE, "the follower")
        written = self.rotate_often(rotate)
        values = self.at_rest()
        said = dict(line.split() for line in follower.stop().splitlines() if " " in line)
        self.assertEqual(said["matched"], said["distinct"])
        lost, inevitable = written - values[WARNINGS], written - int(said["matched"])
        print(f"\n{style}: of {written} lines lost {lost:.0f}, by the follower {inevitable}", flush=True)
        self.assertGreaterEqual(written, (TIMES + 1) * APART)
        self.assertGreaterEqual(lost, 0)
        self.assertLessEqual(lost, 2 * inevitable + A_HANDFUL)
        self.assertEqual(values[TRUNCATIONS], TIMES)
        self.assertEqual(values[ROTATIONS], 0)

    # --- the tests

    def test_logrotate_create(self) -> None:
        self.assert_nothing_lost(lambda: self.logrotate("create 0600", *self.postrotate()))

    def test_logrotate_nocreate(self) -> None:
        self.assert_nothing_lost(lambda: self.logrotate("nocreate", *self.postrotate()))

    def test_rename(self) -> None:
        def rotate() -> None:
            old = self.next_name()
            self.log.rename(old)
            # The writer notices late.
            self.await_lines(old, APART // 2)
            self.reopen()

        self.assert_nothing_lost(rotate)

    def test_delete_and_create(self) -> None:
        def rotate() -> None:
            self.log.unlink()
            self.log.touch()
            self.reopen()

        self.assert_nothing_lost(rotate)

    def test_logrotate_copytruncate(self) -> None:
        self.assert_little_lost("copytruncate", lambda: self.logrotate("copytruncate"))

    def test_copy_and_truncate(self) -> None:
        def rotate() -> None:
            subprocess.run(["sh", "-c", 'cp "$0" "$1" && : >"$0"', self.log, self.next_name()], check=True)

        self.assert_little_lost("cp and truncate", rotate)


class Knocking:
    """Connections to each of some ports, over and over, as long as the context lasts."""

    AT_ONCE = 8
    # Seconds until they hang up.
    STAY = 0.5

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = list(ports)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._knock, daemon=True)

    def __enter__(self) -> Knocking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _knock(self) -> None:
        while not self._stopped.is_set():
            with contextlib.ExitStack() as connections:
                for port in self._ports * self.AT_ONCE:
                    connection = connections.enter_context(socket.socket())
                    connection.setblocking(False)
                    connection.connect_ex(("127.0.0.1", port))
                self._stopped.wait(self.STAY)


class OfDovecot(unittest.TestCase):
    """A real Dovecot whose login services are all full."""

    TIMES = 12

    def test_rename_and_reopen(self) -> None:
        protocols = {"imap": "imap", "pop3": "pop3", "submission": "submission", "sieve": "managesieve"}
        services = {f"{name}-login": {"process_limit": 2} for name in protocols.values()}
        dovecot = self.enterContext(
            Dovecot("2.3", instance_name=f"rotation-{os.getpid()}", protocols=list(protocols), services=services)
        )
        exporter = self.enterContext(Exporter(dovecot))
        files = [dovecot.log_path]

        def logged() -> collections.Counter[str]:
            lines = b"".join(file.read_bytes() for file in files if file.exists())
            return collections.Counter(match.decode() for match in SERVICE_OF_WARNING.findall(lines))

        def another() -> None:
            before = logged().total()
            wait_until(lambda: logged().total() > before, PATIENCE, "another warning")

        with Knocking(dovecot.ports[protocol] for protocol in protocols):
            for number in range(1, self.TIMES + 1):
                another()
                old = dovecot.lab / f"dovecot.log.{number}"
                dovecot.log_path.rename(old)
                files.append(old)
                if number % 2:
                    # Dovecot writes on, to the file that it has open.
                    another()
                dovecot.admin("log", "reopen")
                wait_until(dovecot.log_path.exists, PATIENCE, "the new log")
            another()
        # What it logs while it ends belongs to it.
        dovecot.stop()
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: counted(exporter.metrics()) == logged(), PATIENCE, "the counters")
        page = exporter.metrics()
        print(f"\n{dict(logged())} in {len(files)} files", flush=True)
        self.assertEqual(counted(page), logged())
        self.assertEqual(page[ROTATIONS, frozenset({("log", str(dovecot.log_path))})], self.TIMES)
        self.assertGreater(min(logged().values()), 1)
        # Both the file in use and the one that was renamed had warnings.
        self.assertGreater(logged().total(), self.TIMES)


if __name__ == "__main__":
    unittest.main()
