"""The exporter ends, the disk fills, events fail, the log goes away: what was written is counted, and once."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import unittest
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab import Dovecot, Exporter, Prometheus, Server, exporter_path, free_port, http_get, parse_metrics, wait_until
from test_rotation import PATIENCE, SERVICE, WARNINGS, Knocking, Program, counted
from test_sources import warnings

UP = "dovecot_exporter_source_up"
LINES = "dovecot_exporter_log_lines_total"
READ_ERRORS = "dovecot_exporter_log_read_errors_total"
POSITION = "dovecot_exporter_log_position_bytes"
SIZE = "dovecot_exporter_log_size_bytes"
RATE = 2000
# Nobody else's: what the kernel grants to a user is shared by all that the user runs.
STRANGER = 61234
MEMORY = 10 << 20


def lines_in(*files: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in files)


class OfAState(unittest.TestCase):
    """A writer of numbered warnings, and an exporter that keeps its state."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="state-")))
        self.folder.chmod(0o755)
        # In a directory of its own: the exporter looks at the log's neighbours.
        self.log = self.folder / "log" / "dovecot.log"
        self.log.parent.mkdir()
        self.log.touch()
        self.state = self.folder / "state" / "state"
        self.state.parent.mkdir()
        self.writer: Program | None = None
        self.written = 0

    def make_exporter(self, *flags: str) -> Exporter:
        flags = ("--dovecot.doveconf=/bin/false", f"--dovecot.log-file={self.log}", *flags)
        return Exporter(None, f"--state.file={self.state}", *flags)

    def of_a_stranger(self, exporter: Exporter) -> Exporter:
        """The same, as a user who owns nothing."""
        # Where the user may pass through.
        program = self.folder / "exporter"
        shutil.copy(exporter_path(), program)
        self.state.parent.chmod(0o777)
        exporter.command[0] = str(program)
        exporter.command[:0] = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
        exporter.command[4:4] = ["setpriv", "--pdeathsig", "TERM"]
        return exporter

    # --- the writer

    def write(self, seconds: float = 0) -> None:
        """Has it write, at its rate; for so long, or until `stop_writer`."""
        self.writer = Program(self.folder, "write_log", self.log, RATE, seconds, self.written + 1)
        self.writer.start()
        self.addCleanup(self.writer.close)

    def await_lines(self, lines: int, *files: Path) -> None:
        """Waits until so many more were written."""
        enough = lines_in(*self.files()) + lines
        wait_until(lambda: lines_in(*self.files()) >= enough, PATIENCE, f"{lines} lines more")

    def files(self) -> list[Path]:
        """All that was ever the log."""
        return [file for file in self.log.parent.iterdir() if file.is_file()]

    def stop_writer(self) -> None:
        """Ends it; it tells how much it wrote."""
        assert self.writer is not None
        self.written += int(self.writer.stop())

    def write_lines(self, number: int) -> None:
        """Exactly so many."""
        with self.log.open("a") as log:
            for _ in range(number):
                self.written += 1
                log.write(
                    f"Nov 24 08:00:00 master: Warning: service({SERVICE}): process_limit ({self.written}) reached, "
                    "client connections are being dropped\n"
                )

    def rotate(self) -> None:
        """As logrotate's `create` does; the writer opens its log anew."""
        self.log.rename(self.log.with_name(f"{self.log.name}.{len(self.files())}"))
        self.log.touch()
        if self.writer is not None and self.writer.process is not None:
            self.writer.process.send_signal(10)  # SIGUSR1

    # --- what came of it

    def up(self, exporter: Exporter, source: str) -> float | None:
        return exporter.value(UP, source=source)

    def await_up(self, exporter: Exporter, source: str, value: float) -> None:
        wait_until(lambda: self.up(exporter, source) == value, PATIENCE, f"{source} to be {value}")

    def assert_counted(self, exporter: Exporter, written: int | None = None) -> None:
        """All that was written, no more when some time has passed."""
        written = self.written if written is None else written
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: counted(exporter.metrics()).get(SERVICE, 0) >= written, PATIENCE, "the counters")
        # Another look at all the paths finds nothing that was counted already.
        looks = lambda: exporter.metrics()[POSITION, frozenset({("log", str(self.log))})]  # noqa: E731
        wait_until(lambda: looks() == self.log.stat().st_size, PATIENCE, "the log to be read")
        self.assertEqual(counted(exporter.metrics()).get(SERVICE, 0), written)

    def saved(self) -> dict:
        return json.loads(self.state.read_bytes())

    def lines_saved(self) -> int:
        try:
            return self.saved()["logs"][str(self.log)]["lines"]
        except FileNotFoundError:
            return 0


class Watch:
    """Asks for the page all the time; a counter that falls is a fault."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.falls: list[tuple[str, float, float]] = []
        self.pages = 0
        self.without = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        known: dict = {}
        names = (WARNINGS, LINES, "dovecot_exporter_log_rotations_total", "dovecot_exporter_log_bytes_total")
        while not self._stopped.wait(0.01):
            try:
                body = http_get(self._address, "/metrics", {"Accept": "text/plain;version=0.0.4"})[2]
            except OSError:
                continue  # it does not run
            page = {series: value for series, value in parse_metrics(body).items() if series[0] in names}
            self.pages += 1
            self.without += not page
            for series, value in page.items():
                if value < known.get(series, 0):
                    self.falls.append((str(series), known[series], value))
            known.update(page)


class OfRestarts(OfAState):
    TIMES = 16

    def end(self, exporter: Exporter, kill: bool) -> None:
        if kill:
            assert exporter.process is not None
            exporter.process.kill()
        code, _ = exporter.stop()
        self.assertEqual(code, -9 if kill else 0)

    def test_again_and_again(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        exporter = self.make_exporter(f"--web.listen-address={address}")
        with exporter, Prometheus([address]) as prometheus, Watch(address) as watch:
            selector = f'{WARNINGS}{{service="{SERVICE}",limit="process_limit"}}'
            wait_until(lambda: prometheus.query(f"{selector} == 0"), PATIENCE, "Prometheus to see the start")
            # Who has no state yet begins anew.
            wait_until(self.state.exists, PATIENCE, "the first state")
            self.write()
            for number in range(self.TIMES):
                self.await_lines(RATE // 4)
                if number % 4 == 3:
                    self.rotate()
                self.end(exporter, kill=number % 2 == 0)
                # Meanwhile none, one or two rotations.
                for _ in range(number % 3):
                    self.await_lines(RATE // 8)
                    self.rotate()
                self.await_lines(RATE // 8)
                exporter.start()
            self.await_lines(RATE // 4)
            self.stop_writer()
            self.assert_counted(exporter)
            wait_until(
                lambda: prometheus.query(f"{selector} == {self.written}"), PATIENCE, "Prometheus to see the end"
            )
            # What Prometheus makes of it: all of it is an increase, but for its guess at the window's ends.
            resets = prometheus.query(f"resets({selector}[10m])")[0][1]
            increase = prometheus.query(f"increase({selector}[10m])")[0][1]
        print(f"\n{self.id()}: {self.written} written and counted, increase {increase:.0f}, {watch.pages} pages")
        self.assertEqual(watch.falls, [])
        self.assertGreater(watch.pages, self.TIMES)
        self.assertEqual(resets, 0)
        self.assertGreaterEqual(increase, self.written * 0.999)
        self.assertLessEqual(increase, self.written * 1.1)
        self.assertGreater(self.written, self.TIMES * RATE // 4)

    def test_while_nobody_writes(self) -> None:
        """A restart alone counts nothing, and a state that nothing has changed is not written again."""
        exporter = self.make_exporter()
        with exporter:
            self.write_lines(100)
            self.assert_counted(exporter)
            wait_until(lambda: self.lines_saved() == self.written, PATIENCE, "the state")
            for kill in (True, False) * 3:
                self.end(exporter, kill)
                exporter.start()
                self.assert_counted(exporter)
                self.assertEqual(self.lines_saved(), self.written)


class OfDovecot:
    """A Dovecot whose login services are full, and which logs on while no exporter runs."""

    generation: str
    TIMES = 4
    SERVICES = {"imap": "imap-login", "pop3": "pop3-login", "submission": "submission-login"}

    def test_restarts(self: unittest.TestCase) -> None:
        services = {name: {"process_limit": 2} for name in self.SERVICES.values()}
        dovecot = self.enterContext(
            Dovecot(
                self.generation,
                instance_name=f"state-{os.getpid()}",
                protocols=list(self.SERVICES),
                services=services,
            )
        )
        exporter = self.enterContext(Exporter(dovecot, f"--state.file={dovecot.lab}/exporter.state"))

        def logged() -> collections.Counter[str]:
            files = dovecot.lab.glob("dovecot.log*")
            return warnings("".join(file.read_text(errors="replace") for file in files))

        def another() -> None:
            before = logged().total()
            wait_until(lambda: logged().total() > before, PATIENCE, "another warning")

        with Knocking(dovecot.ports[protocol] for protocol in self.SERVICES):
            for number in range(self.TIMES):
                another()
                if number % 2:
                    exporter.process.kill()
                exporter.stop()
                another()
                dovecot.log_path.rename(f"{dovecot.log_path}.{number}")
                another()
                dovecot.admin("log", "reopen")
                wait_until(dovecot.log_path.exists, PATIENCE, "the new log")
                another()
                exporter.start()
            another()
        # What it logs while it ends belongs to it.
        dovecot.stop()
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: counted(exporter.metrics()) == logged(), PATIENCE, "the counters")
        print(f"\n{self.id()}: {dict(logged())}", flush=True)
        self.assertEqual(counted(exporter.metrics()), logged())
        self.assertGreater(logged().total(), 4 * self.TIMES)
        self.assertEqual(set(logged()), set(self.SERVICES.values()))


class OfDovecot23(OfDovecot, unittest.TestCase):
    generation = "2.3"


class OfDovecot24(OfDovecot, unittest.TestCase):
    generation = "2.4"


class OfABadState(OfAState):
    """It starts all the same, says in one line what is wrong, and counts on."""

    def said(self, exporter: Exporter) -> str:
        [line] = [line for line in exporter.stderr if "state file" in line or str(self.state) in line]
        self.assertIn("level=warn", line)
        return line

    def good(self) -> bytes:
        with self.make_exporter() as exporter:
            self.write_lines(5)
            self.assert_counted(exporter)
        self.assertEqual(self.lines_saved(), 5)
        return self.state.read_bytes()

    def test_no_state(self) -> None:
        good = self.good()
        self.assertIn(b"state 1", good)
        bad = {
            "broken": good[:-1] + b"\xff",
            "of another program": b'{"version": 3, "inputs": [{"path": "/var/log/mail.log", "offset": 17}]}',
            "older": good.replace(b"state 1", b"state 0"),
            "cut short": good[: len(good) // 2],
            "empty": b"",
            "zeros": bytes(4096),
            "deep": b"[" * 100_000,
            "negative": re.sub(rb'"lines":\d+', b'"lines":-1', good),
            "huge": re.sub(rb'"lines":\d+', b'"lines":99999999999999999999', good),
        }
        aside = self.state.with_name("state.unusable")
        for name, data in bad.items():
            with self.subTest(name):
                self.assertNotEqual(data, good)
                self.state.write_bytes(data)
                with self.make_exporter() as exporter:
                    line = self.said(exporter)
                    self.assertIn(str(self.state), line)
                    self.assertIn("counting starts anew", line)
                    self.assertEqual(aside.read_bytes(), data)
                    self.assert_counted(exporter, 0)
                    self.write_lines(10)
                    self.assert_counted(exporter, 10)
                    self.await_up(exporter, "state", 1)
                with self.make_exporter() as exporter:
                    self.assert_counted(exporter, 10)
                self.assertEqual(sorted(self.state.parent.iterdir()), [self.state, aside])

    def test_may_not_be_read(self) -> None:
        self.good()
        self.state.chmod(0)
        exporter = self.of_a_stranger(self.make_exporter())
        with exporter:
            self.assertIn("cannot be read", self.said(exporter))
            self.assertTrue(self.state.with_name("state.unusable").exists())
            self.write_lines(10)
            self.assert_counted(exporter, 10)
            # The folder is the user's.
            self.await_up(exporter, "state", 1)
            wait_until(lambda: self.lines_saved() == 10, PATIENCE, "the state")

    def test_may_not_be_written(self) -> None:
        exporter = self.of_a_stranger(self.make_exporter())
        self.state.parent.chmod(0o755)
        with exporter:
            self.write_lines(10)
            self.assert_counted(exporter)
            self.await_up(exporter, "state", 0)
            self.assertIn("cannot be written", "\n".join(exporter.stderr))
            self.state.parent.chmod(0o777)
            self.await_up(exporter, "state", 1)
            wait_until(lambda: self.lines_saved() == self.written, PATIENCE, "the state")

    def test_a_folder(self) -> None:
        self.state.mkdir()
        with self.make_exporter() as exporter:
            self.write_lines(10)
            self.assert_counted(exporter)
            self.await_up(exporter, "state", 0)
            self.state.rmdir()
            self.write_lines(10)
            self.assert_counted(exporter)
            self.await_up(exporter, "state", 1)
        self.assertEqual(self.lines_saved(), self.written)

    def test_a_folder_that_is_missing(self) -> None:
        self.state.parent.rmdir()
        with self.make_exporter() as exporter:
            self.write_lines(10)
            self.assert_counted(exporter)
            self.await_up(exporter, "state", 0)
            self.state.parent.mkdir()
            self.await_up(exporter, "state", 1)
        self.assertEqual(self.lines_saved(), self.written)


class Mounted(Server):
    """A mount namespace of its own, furnished by a script; `enter` makes the command behind it run there."""

    def __init__(self, script: str, *arguments: object) -> None:
        super().__init__()
        self._command = ["unshare", "--mount", "sh", "-ec", f"{script}\necho done\nexec sleep infinity", *arguments]

    def start(self) -> None:
        process = self._spawn(self._command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout as stdout:
            if stdout.readline() != b"done\n":
                raise RuntimeError("cannot be mounted")

    def stop(self) -> None:
        if self.process is not None:
            self._terminate(timeout=10)

    @property
    def enter(self) -> list[str]:
        assert self.process is not None
        return ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--"]

    def path(self, path: Path) -> Path:
        """`path` as it is there, seen from outside."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root{path}")


class OfAFullDisk(OfAState):
    def setUp(self) -> None:
        super().setUp()
        disk = self.state.parent
        self.disk = self.enterContext(Mounted('mount -t tmpfs -o size=64k tmpfs "$0"', disk))
        inside = self.state
        self.state = self.disk.path(inside)
        self.filler = self.disk.path(disk / "filler")
        self.exporter = Exporter(
            None, f"--state.file={inside}", "--dovecot.doveconf=/bin/false", f"--dovecot.log-file={self.log}"
        )
        self.exporter.command[:0] = self.disk.enter
        self.enterContext(self.exporter)

    def fill(self) -> None:
        with self.filler.open("ab", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        self.assertEqual(os.statvfs(self.filler).f_bfree, 0)

    def test_counting_goes_on(self) -> None:
        self.write_lines(100)
        wait_until(lambda: self.state.exists() and self.lines_saved() == 100, PATIENCE, "the first state")
        before = self.state.read_bytes()
        self.fill()
        self.write()
        self.await_up(self.exporter, "state", 0)
        self.assertIn("make room", "\n".join(self.exporter.stderr))
        self.await_lines(RATE)
        # Whoever reads it finds a whole one, the last for which there was room.
        self.assertEqual(self.state.read_bytes(), before)
        self.stop_writer()
        self.assert_counted(self.exporter)
        # A crash costs nothing: what the state does not have is read again.
        assert self.exporter.process is not None
        self.exporter.process.kill()
        self.exporter.stop()
        self.exporter.start()
        self.assert_counted(self.exporter)
        self.write_lines(10)
        self.assert_counted(self.exporter)
        self.await_up(self.exporter, "state", 0)
        # By itself, though nobody writes to the log.
        self.filler.unlink()
        self.await_up(self.exporter, "state", 1)
        wait_until(lambda: self.lines_saved() == self.written, PATIENCE, "the state")
        told = [line for line in self.exporter.stderr if "source=state" in line]
        self.assertEqual(len(told), 3, told)

    def test_filled_while_it_writes(self) -> None:
        """Room for a part of it: at no time is the state half of one."""
        self.write()
        stopped = threading.Event()
        bad: list[bytes] = []

        def look() -> None:
            while not stopped.wait(0.001):
                try:
                    data = self.state.read_bytes()
                except FileNotFoundError:
                    continue
                try:
                    json.loads(data)
                except ValueError:
                    bad.append(data)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        for _ in range(3):
            self.fill()
            self.await_up(self.exporter, "state", 0)
            self.filler.unlink()
            self.await_up(self.exporter, "state", 1)
        stopped.set()
        thread.join()
        self.stop_writer()
        self.assert_counted(self.exporter)
        self.assertEqual(bad, [])


# Tells how many instances and watches the kernel grants.
_PROBE = """
import ctypes
c = ctypes.CDLL(None)
instance = c.inotify_init1(0)
print(int(instance >= 0), int(c.inotify_add_watch(instance, b"/tmp", 2) >= 0))
"""


class WithoutEvents(OfAState):
    """Events are a hint: without them it takes a moment longer."""

    def follow_through_rotations(self, exporter: Exporter) -> None:
        self.write()
        for _ in range(3):
            self.await_lines(RATE // 2)
            self.rotate()
        self.await_lines(RATE // 2)
        self.stop_writer()
        self.assert_counted(exporter)
        # Nor is a single line forgotten that comes when all is quiet.
        for _ in range(5):
            self.write_lines(1)
            self.assert_counted(exporter)

    def exhausted(self, limit: str, granted: str) -> None:
        # A user namespace has limits of its own, so that nobody else runs out of them.
        enter = ["unshare", "--user", "--map-root-user", "sh", "-ec"]
        enter += [f'echo 0 >/proc/sys/user/{limit}; exec "$@"', "sh"]
        probe = subprocess.run([*enter, "python3", "-c", _PROBE], capture_output=True, text=True, check=True)
        self.assertEqual(probe.stdout.strip(), granted)
        exporter = self.make_exporter()
        exporter.command[:0] = enter
        with exporter:
            self.follow_through_rotations(exporter)
            self.assertEqual(self.up(exporter, "log"), 1)

    def test_no_instance_left(self) -> None:
        self.exhausted("max_inotify_instances", "0 0")

    def test_no_watch_left(self) -> None:
        self.exhausted("max_inotify_watches", "1 0")

    def test_overlay(self) -> None:
        """Written below an overlay, which tells nobody. To rename there is undefined, so nobody does."""
        seen, above, work = (self.folder / name for name in ("seen", "above", "work"))
        for folder in (seen, above, work):
            folder.mkdir()
        options = f"lowerdir={self.log.parent},upperdir={above},workdir={work}"
        mounted = self.enterContext(Mounted('mount -t overlay -o "$0" overlay "$1"', options, seen))
        exporter = self.elsewhere(mounted, seen / self.log.name)
        for _ in range(5):
            self.write_lines(1)
            self.assert_count(exporter)
        self.write(seconds=1)
        assert self.writer is not None and self.writer.process is not None
        self.writer.process.wait()
        self.written += int(self.writer.output())
        self.assert_count(exporter)

    def test_fuse(self) -> None:
        """Written behind a file system in user space, which has no times of birth either."""
        seen = self.folder / "seen"
        seen.mkdir()
        mounted = self.enterContext(Mounted('bindfs "$0" "$1"', self.log.parent, seen))
        exporter = self.elsewhere(mounted, seen / self.log.name)
        for _ in range(4):
            self.write()
            self.await_lines(RATE // 2)
            self.rotate()
            self.await_lines(RATE // 8)
            self.stop_writer()
            # Such a file system may be a second late to tell; what comes and goes meanwhile is nobody's.
            self.assert_count(exporter)

    def elsewhere(self, mounted: Mounted, log: Path) -> Exporter:
        """One that sees the log at another path."""
        exporter = Exporter(None, "--dovecot.doveconf=/bin/false", f"--dovecot.log-file={log}")
        exporter.command[:0] = mounted.enter
        return self.enterContext(exporter)

    def assert_count(self, exporter: Exporter) -> None:
        wait_until(lambda: counted(exporter.metrics()).get(SERVICE, 0) >= self.written, PATIENCE, "the counters")
        self.assertEqual(counted(exporter.metrics())[SERVICE], self.written)


class OfAccess(OfAState):
    """Permissions, folders and links that change under an exporter without privileges."""

    def setUp(self) -> None:
        super().setUp()
        self.target = self.log
        self.exporter = self.of_a_stranger(self.make_exporter())

    def while_down(self, take: Callable[[], None], give: Callable[[], None]) -> None:
        """Written before, meanwhile and afterwards, across a rotation."""
        with self.exporter:
            self.write()
            for _ in range(2):
                self.await_lines(RATE // 4)
                take()
                self.await_up(self.exporter, "log", 0)
                self.await_lines(RATE // 4)
                give()
                self.await_up(self.exporter, "log", 1)
            self.await_lines(RATE // 4)
            self.stop_writer()
            self.assert_counted(self.exporter)
            self.assertGreater(self.exporter.value(READ_ERRORS, log=str(self.log)), 0)

    def test_a_new_log_that_may_not_be_read(self) -> None:
        def take() -> None:
            self.log.rename(self.log.with_name(f"{self.log.name}.{len(self.files())}"))
            self.log.touch(mode=0o600)
            self.writer.process.send_signal(10)

        self.while_down(take, lambda: self.log.chmod(0o644))

    def test_taken_and_given_back(self) -> None:
        """What is open is read on, whatever its mode; so is what is there after a restart, when it may be."""
        with self.exporter:
            self.write()
            self.await_lines(RATE // 4)
            self.log.chmod(0)
            self.await_lines(RATE // 4)
            wait_until(lambda: counted(self.exporter.metrics()).get(SERVICE, 0) > RATE // 4, PATIENCE, "counters")
            self.exporter.stop()
            self.exporter.start()
            self.await_up(self.exporter, "log", 0)
            self.assertIn("may not be read", "\n".join(self.exporter.stderr))
            self.await_lines(RATE // 4)
            os.chown(self.log, STRANGER, STRANGER)
            self.log.chmod(0o400)
            self.await_up(self.exporter, "log", 1)
            self.stop_writer()
            self.assert_counted(self.exporter)

    def test_the_folder_closed(self) -> None:
        def take() -> None:
            self.log.parent.chmod(0)
            self.rotate()

        self.while_down(take, lambda: self.log.parent.chmod(0o755))

    def test_the_folder_moved_away(self) -> None:
        away = self.folder / "away"
        with self.exporter:
            self.write()
            for _ in range(2):
                self.await_lines(RATE // 4)
                self.log.parent.rename(away)
                self.await_up(self.exporter, "log", 0)
                # Its writer has it open, and writes on.
                before = lines_in(*away.iterdir())
                wait_until(lambda: lines_in(*away.iterdir()) > before + RATE // 4, PATIENCE, "lines")
                away.rename(self.log.parent)
                self.await_up(self.exporter, "log", 1)
            self.await_lines(RATE // 4)
            self.stop_writer()
            self.assert_counted(self.exporter)

    def test_a_link_switched(self) -> None:
        link, files = self.log, [self.folder / "log" / name for name in ("one", "two", "three")]
        link.unlink()
        files[0].touch()
        link.symlink_to(files[0])
        with self.exporter:
            self.write()
            for target in files[1:]:
                self.await_lines(RATE // 4)
                target.touch()
                draft = link.with_name("draft")
                draft.symlink_to(target)
                draft.rename(link)
                # It notices late.
                self.await_lines(RATE // 4)
                self.writer.process.send_signal(10)
            self.await_lines(RATE // 4)
            self.stop_writer()
            self.assertTrue(all(lines_in(file) > 0 for file in files))
            self.assert_counted(self.exporter)

    def files(self) -> list[Path]:
        return [file for file in super().files() if not file.is_symlink()]


class OfTheLandingPage(OfAState):
    """What a person sees of each source."""

    BIG = 2 << 30

    def source(self, exporter: Exporter, name: str) -> tuple[str, str]:
        """Whether it is up, and what else is said."""
        status, _, html = exporter.get("/")
        self.assertEqual(status, 200)
        rows = re.findall(r'<tr><th scope="row">(\w+)<td class="(?:good|bad)">(\w+)<td class="wide">([^<]*)</tr>', html)
        [(_, word, detail)] = [row for row in rows if row[0] == name]
        return word, detail

    def test_state_lag_and_last_read(self) -> None:
        self.log.unlink()
        with self.make_exporter() as exporter:
            word, detail = self.source(exporter, "log")
            self.assertEqual(word, "down")
            self.assertIn(f"{self.log} is not there yet", detail)
            self.log.touch()
            wait_until(lambda: self.source(exporter, "log")[0] == "up", PATIENCE, "the log")
            self.assertEqual(
                self.source(exporter, "log")[1], f"{self.log}, nothing read since the start, 0 bytes behind"
            )
            self.write_lines(10)
            self.assert_counted(exporter)
            read = rf"{re.escape(str(self.log))}, last read \d+ s ago, (\d+) bytes behind"
            self.assertRegex(self.source(exporter, "log")[1], read)
            self.assertEqual(self.source(exporter, "state")[0], "up")

            # A line without end takes a while to be passed over, in memory that does not grow.
            with self.log.open("ab") as log:
                log.write(b"x")
                log.truncate(self.BIG)

            def behind() -> int:
                match = re.fullmatch(read, self.source(exporter, "log")[1])
                assert match
                return int(match[1])

            most = wait_until(behind, PATIENCE, "it to lag")
            self.assertLess(most, self.BIG)
            wait_until(lambda: behind() == 0, PATIENCE, "it to catch up")
            with self.log.open("a") as log:
                log.write("\n")
            self.write_lines(10)
            self.assert_counted(exporter)
            self.assertEqual(exporter.value("dovecot_exporter_log_oversized_lines_total", log=str(self.log)), 1)
            status = Path(f"/proc/{exporter.pid}/status").read_text()
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10
            print(f"\n{self.id()}: {most} bytes behind, peak {peak} bytes", flush=True)
            self.assertLess(peak, MEMORY)


if __name__ == "__main__":
    unittest.main()
