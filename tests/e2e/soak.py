#!/usr/bin/env python3
"""A week of Dovecot's log at full speed, with rotations, restarts and crashes: counted is what was written.

    soak.py [LINES]      default: $SOAK_LINES, else 70,000,000, which is 10 million a day

Ordinary lines as bench/make_log.py makes them, one in 10,000 of them a warning, are written in pieces that end within
lines. Each hour the log is rotated, in another way each time; twice a day the exporter is ended, in turn by SIGTERM
and SIGKILL, and starts again when an hour more was written and rotated. At the end lines, bytes and warnings counted
must be those written, and at no time may it have taken more than 10 MiB of memory.

Old files are deleted, or a week would fill the disk. One is deleted only when the exporter's state file, from which a
crash makes it read on, has more bytes than were written up to the file's end; and the writer waits when more than
BACKLOG bytes are not in it yet: a Dovecot that writes 10 million lines a day writes 120 in a second and never comes near
that. What the exporter says of itself decides only when to go on. If it is wrong, the sums at the end are.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2] / "bench")]

import make_log  # noqa: E402
from lab import Exporter, free_port, wait_until  # noqa: E402

LINES = 70_000_000
DAYS = 7
HOURS = 24 * DAYS
BACKLOG = 1 << 30
MEMORY = 10 << 20
PATIENCE = 120
SERVICE = "imap-login"


class Lines:
    """Lines of the block over and over, each time as another minute."""

    def __init__(self) -> None:
        self._block = make_log.block()
        self._starts = [0] + [match.end() for match in re.finditer(b"\n", self._block)]
        self._line = self._minute = 0

    def take(self, number: int) -> Iterator[bytes]:
        """The next so many, in pieces that are whole lines."""
        while number > 0:
            last = min(self._line + number, len(self._starts) - 1)
            part = self._block[self._starts[self._line] : self._starts[last]]
            now = make_log.START + datetime.timedelta(minutes=self._minute)
            yield part.replace(make_log.MINUTE, now.strftime("%b %d %H:%M:").encode())
            number -= last - self._line
            self._line = last
            if last == len(self._starts) - 1:
                self._line, self._minute = 0, self._minute + 1


class Old(NamedTuple):
    """A file that left the log's path, and how much had been written when it did."""

    path: Path
    end: int


class Soak:
    def __init__(self, folder: Path, lines: int) -> None:
        self.log = folder / "log" / "dovecot.log"
        self.log.parent.mkdir()
        self.log.touch()
        self._file = self.log.open("ab", buffering=0)
        self._lines = Lines()
        self._pick = random.Random(70)
        self._wanted = lines
        self._state = folder / "state"
        self._old: list[Old] = []
        self._deleted = 0
        self._names = 0
        self.lines = self.bytes = self.warnings = self.rotations = self.restarts = self.peak = 0
        # An address that it keeps.
        self.exporter = Exporter(
            None,
            f"--web.listen-address=127.0.0.1:{free_port()}",
            "--dovecot.doveconf=/bin/false",
            f"--dovecot.log-file={self.log}",
            f"--state.file={self._state}",
        )

    # --- the writer

    def write_hour(self, hour: int) -> None:
        end = self._wanted * (hour + 1) // HOURS
        for part in self._lines.take(end - self.lines):
            self.write(part)
            self.make_room()

    def write(self, part: bytes) -> None:
        start = 0
        while start < len(part):
            # Most of these ends are within a line.
            start += self._file.write(part[start : start + self._pick.randrange(1, 1 << 18)])
        self.lines += part.count(b"\n")
        self.warnings += part.count(make_log.WARNING.encode())
        self.bytes += len(part)

    def next_name(self) -> Path:
        self._names += 1
        return self.log.with_name(f"{self.log.name}.{self._names}")

    def rotate(self, hour: int, running: bool) -> None:
        ways = [self.rename, self.rename_late, self.replace]
        if running:
            ways += [self.copy_and_truncate, self.delete]
        ways[hour % len(ways)]()
        self.rotations += 1

    def rename(self) -> None:
        old = self.next_name()
        self.log.rename(old)
        self.reopen()
        self._old.append(Old(old, self.bytes))

    def rename_late(self) -> None:
        """The writer notices late."""
        old = self.next_name()
        self.log.rename(old)
        for part in self._lines.take(self._wanted // HOURS // 100):
            self.write(part)
        self.reopen()
        self._old.append(Old(old, self.bytes))

    def replace(self) -> None:
        """By another file, in one step: there is one at any moment."""
        old, draft = self.next_name(), self.log.with_name("draft")
        os.link(self.log, old)
        draft.touch()
        draft.rename(self.log)
        self.reopen()
        self._old.append(Old(old, self.bytes))

    def delete(self) -> None:
        """What no path leads to any more is read by who has it open: so it must be open."""
        self.await_opened()
        self.log.unlink()
        self.reopen()
        self._deleted = self.bytes

    def copy_and_truncate(self) -> None:
        """Nobody writes meanwhile: what is written then is lost to any reader."""
        self.await_opened()
        old = self.next_name()
        shutil.copyfile(self.log, old)
        os.truncate(self.log, 0)
        self._old.append(Old(old, self.bytes))

    def reopen(self) -> None:
        self._file.close()
        self._file = self.log.open("ab", buffering=0)

    # --- the exporter

    def counted(self, name: str, **labels: str) -> int:
        value = self.exporter.value(name, **labels)
        # A restart shows nothing until it has read what it missed.
        return 0 if value is None else int(value)

    def of_log(self, name: str) -> int:
        return self.counted(f"dovecot_exporter_log_{name}_total", log=str(self.log))

    def await_opened(self) -> None:
        """Until something of the present file was counted: an hour is long, and the replay makes it short."""
        self.await_counted(self.bytes - self.log.stat().st_size + 1)

    def await_counted(self, size: int) -> None:
        wait_until(lambda: self.of_log("bytes") >= size, PATIENCE, f"{size} bytes to be counted")

    def saved(self) -> int:
        """Bytes that the state says were counted."""
        try:
            return json.loads(self._state.read_bytes())["logs"][str(self.log)]["bytes"]
        except FileNotFoundError:
            return 0

    def await_saved(self, size: int) -> None:
        wait_until(lambda: self.saved() >= size, PATIENCE, f"{size} bytes to be in the state")

    def make_room(self) -> None:
        if self.exporter.process is None:
            return
        self.remember_memory()
        if self.bytes - self.saved() > BACKLOG:
            self.await_saved(self.bytes - BACKLOG // 2)
        saved = self.saved()
        while self._old and saved > self._old[0].end:
            self._old.pop(0).path.unlink()

    def memory(self) -> dict[str, int]:
        status = Path(f"/proc/{self.exporter.pid}/status").read_text()
        return {name: int(size) << 10 for name, size in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status)}

    def remember_memory(self) -> None:
        self.peak = max(self.peak, self.memory()["VmHWM"])

    def restart(self, hour: int) -> None:
        self.remember_memory()
        if self.restarts % 2:
            assert self.exporter.process is not None
            # What was deleted cannot be read again.
            self.await_saved(self._deleted)
            self.exporter.process.kill()
        self.exporter.stop()
        self.write_hour(hour)
        self.rotate(hour, running=False)
        self.exporter.start()
        self.restarts += 1

    # --- all of it

    def run(self) -> None:
        began = time.monotonic()
        with self.exporter:
            for hour in range(HOURS):
                if hour % 12 == 6:
                    self.restart(hour)
                else:
                    self.write_hour(hour)
                    self.rotate(hour, running=True)
                if hour % 24 == 23:
                    self.say(f"day {hour // 24 + 1}", began)
            # Those of a rotation to which the writer was late.
            self.await_counted(self.bytes)
            wait_until(lambda: self.of_log("lines") >= self.lines, PATIENCE, "the lines")
            self.remember_memory()
            self.say("end", began)
            self.check()

    def say(self, when: str, began: float) -> None:
        memory = self.memory()
        print(
            f"{when}: {(time.monotonic() - began) / 60:.1f} min, {self.lines} lines, {self.bytes} bytes, "
            f"{self.rotations} rotations, {self.restarts} restarts, "
            f"VmRSS {memory['VmRSS'] >> 10} kB, VmHWM {memory['VmHWM'] >> 10} kB",
            flush=True,
        )

    def check(self) -> None:
        name = "dovecot_service_drop_warnings_total"
        found = {
            "warnings": (self.counted(name, service=SERVICE, limit="process_limit"), self.warnings),
            "lines": (self.of_log("lines"), self.lines),
            "bytes": (self.of_log("bytes"), self.bytes),
            "unanchored": (self.of_log("unanchored_warnings"), 0),
            "oversized": (self.of_log("oversized_lines"), 0),
        }
        for what, (counted, written) in found.items():
            print(f"{what}: counted {counted}, written {written}", flush=True)
        wrong = [what for what, (counted, written) in found.items() if counted != written]
        if wrong:
            sys.exit(f"not counted as written: {', '.join(wrong)}")
        print(f"memory: at most {self.peak >> 10} kB of {MEMORY >> 10} kB", flush=True)
        if self.peak > MEMORY:
            sys.exit("too much memory")


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SOAK_LINES") or str(LINES)
    if len(sys.argv) > 2 or not wanted.isdecimal():
        sys.exit("usage: soak.py [LINES]")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        Soak(Path(folder), int(wanted)).run()


if __name__ == "__main__":
    main()
