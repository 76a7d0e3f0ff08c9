"""The count while processes come and go, against a walk of /proc that shares no code with the exporter."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import statistics
import subprocess
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path

from imap_clients import Clients
from lab import REPOSITORY, Dovecot, Exporter, Server, wait_until

WITNESS = REPOSITORY / "target/witness"
LOGIN, SESSION = "imap-login", "imap"
# One process each, which lives as long as the master.
STEADY = ("anvil", "auth", "config", "log", "stats")
PROCESSES = "dovecot_service_processes"
# Between two scrapes, and between two scans of the witness.
EVERY_MS = 50
# Of the witness's mean.
TOLERANCE = 0.01
# Where it is known by construction how many live.
TOLERANCE_OF_TRUTH = 0.001
# Processes: where few come and go beside many that stay, 1 % of all would hide that some were missed. The two do not
# look at the same moments; with over 100 each, of a count that spreads by about one, the means are 0.3 apart at worst.
FEW = 0.5


def tolerance(mean: float, staying: int = 0) -> float:
    """How far another mean may be from the witness's, if so many processes are there all the time."""
    return min(TOLERANCE * mean, FEW) if staying else TOLERANCE * mean


class Seen:
    """What the exporter showed and what the witness found, in the same time."""

    def __init__(self, exporter: Exporter, seconds: float, master: int, enter: Sequence[str] = ()) -> None:
        """Scrapes while the witness, started by `enter`, follows the services of `master`."""
        self.scrapes: list[dict[str, float]] = []
        self.up = True
        command = [WITNESS / "walk", "cmdline", "--master", master, "--follow", EVERY_MS, "--for", seconds]
        with subprocess.Popen(
            # Before all others: on a busy machine it would miss its times, make up for them in bursts, and be kept
            # waiting in the midst of a scan.
            ["setpriv", "--pdeathsig", "TERM", "chrt", "--fifo", "1", *enter, *map(str, command)],
            stdout=subprocess.PIPE,
            text=True,
        ) as walk:
            while walk.poll() is None:
                page = exporter.metrics()
                counts = {dict(key)["service"]: count for (name, key), count in page.items() if name == PROCESSES}
                self.scrapes.append(counts)
                self.up &= page["dovecot_exporter_source_up", frozenset({("source", "procfs")})] == 1
                with contextlib.suppress(subprocess.TimeoutExpired):
                    walk.wait(EVERY_MS / 1000)
            assert walk.stdout is not None
            output = walk.stdout.read()
        if walk.returncode != 0:
            raise RuntimeError(f"the witness ended with {walk.returncode}")
        found = re.findall(r"^(\S+) mean (\S+) min (\d+) max (\d+)$", output, re.MULTILINE)
        self.witness = {name: float(mean) for name, mean, _, _ in found}
        self.witness_range = {name: (int(least), int(most)) for name, _, least, most in found}
        scans = re.search(r"^scans (\d+)$", output, re.MULTILINE)
        assert scans
        self.scans = int(scans[1])
        self.errors = sum(
            count
            for (name, _), count in exporter.metrics().items()
            if name == "dovecot_exporter_scan_errors_total"
        )

    def mean(self, service: str) -> float:
        return statistics.fmean(counts[service] for counts in self.scrapes)

    def values(self, service: str) -> collections.Counter[float | None]:
        """Each value that was shown, None if there was none, and how often."""
        return collections.Counter(counts.get(service) for counts in self.scrapes)

    def shown(self) -> set[str]:
        """The services that ever had a process."""
        return {service for counts in self.scrapes for service, count in counts.items() if count}

    def describe(self, what: str) -> None:
        """Figures for the test's output."""
        print(f"\n{what}: {len(self.scrapes)} scrapes, {self.scans} scans of the witness")
        for service, mean in self.witness.items():
            values = self.values(service)
            if service not in STEADY or len(values) > 1:
                least, most = min(values, key=float), max(values, key=float)
                print(f"  {service}: mean {self.mean(service):.3f} of {least:.0f} to {most:.0f}", end="")
                print(f", witness {mean:.3f} of {self.witness_range[service]}", flush=True)


class Agreement(unittest.TestCase):
    """What holds of every comparison."""

    def assert_right(self, seen: Seen, services: Sequence[str], staying: int = 0) -> None:
        # Enough for a mean, even where the machine is busy.
        self.assertGreater(min(len(seen.scrapes), seen.scans), 100)
        self.assertTrue(seen.up)
        # That a process vanished is no error.
        self.assertEqual(seen.errors, 0)
        for service in services:
            mean = seen.witness[service]
            self.assertAlmostEqual(seen.mean(service), mean, delta=tolerance(mean, staying), msg=service)
        for service in STEADY:
            self.assertEqual(seen.witness_range[service], (1, 1), service)
            self.assertEqual(set(seen.values(service)), {1}, f"{service}: {seen.values(service)}")
        self.assertEqual(seen.shown(), set(seen.witness))


class OfDovecot:
    """Users who log in and out as fast as the machine gives, beside others who stay."""

    SECONDS = 15
    # So that a process more or less is within the tolerance.
    STAYING = 100
    generation: str

    def test_logins(self: Agreement) -> None:
        name = f"churn-{os.getpid()}"
        services = {LOGIN: {"process_limit": 400}, "stats": {"client_limit": 4000}}
        with (
            Dovecot(self.generation, instance_name=name, services=services) as dovecot,
            Exporter(dovecot) as exporter,
            Clients(dovecot) as clients,
        ):
            clients.idle(self.STAYING)
            before = dovecot.services()
            for service in STEADY:
                self.assertEqual(before[service]["process_count"], 1, service)
            # It begins before and ends after the comparison.
            storm = clients.start_login_storm(self.SECONDS + 3, workers=8)
            started = before[LOGIN]["process_total"]
            wait_until(
                lambda: dovecot.service_status(LOGIN)["process_total"] > started + 50, 30, "the storm to begin"
            )
            seen = Seen(exporter, self.SECONDS, dovecot.master_pid)
            after = dovecot.services()
            succeeded, failed = storm.result()
            seen.describe(f"{self.generation}, {succeeded} logins")
            self.assertEqual(failed, 0)
            self.assertGreater(succeeded, 20 * self.SECONDS)
            for service in (LOGIN, SESSION):
                came = int(after[service]["process_total"]) - int(before[service]["process_total"])
                self.assertGreater(came, 20 * self.SECONDS, service)
            # Who sees none of those that come and go is wrong by more than is tolerated.
            self.assertGreater(seen.witness[LOGIN], self.STAYING + 2 * FEW)
            self.assert_right(seen, (LOGIN, SESSION), self.STAYING)
            # Nothing is shown that doveadm does not know, or that the master never started.
            self.assertEqual({service for counts in seen.scrapes for service in counts} - set(after), set())
            self.assertEqual(seen.shown(), {name for name, row in after.items() if row["process_total"]})


class Churn23(OfDovecot, Agreement):
    generation = "2.3"


class Churn24(OfDovecot, Agreement):
    generation = "2.4"


class Herd(Server):
    """A tree of processes in the shape of a Dovecot, in a PID name space of its own."""

    def __init__(self, dovecots: int, others: int, replacements: int) -> None:
        super().__init__()
        self._arguments = [str(dovecots), str(others), str(replacements)]
        self.master = self.pid = 0

    def start(self) -> None:
        process = self._spawn(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", WITNESS / "herd", *self._arguments],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        said = [process.stdout.readline().split() for _ in range(2)]
        if said[1] != [b"ready"]:
            raise RuntimeError(f"the herd said {said}")
        self.master = int(said[0][1])
        self.pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())

    @property
    def enter(self) -> list[str]:
        """What makes the command behind it run in the name space, and end with its parent outside."""
        return ["nsenter", f"--target={self.pid}", "--pid", "--mount", "setpriv", "--pdeathsig", "TERM"]

    def stop(self) -> tuple[int, float]:
        """Ends it; the replacements it made and the true mean number of imap-login processes."""
        if self.process is None:
            return 0, 0.0
        process, self.process = self.process, None
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
        else:
            process.terminate()
        output, _ = process.communicate(timeout=30)
        said = re.search(rb"^replaced (\d+) live_mean (\S+)$", output, re.MULTILINE)
        return (int(said[1]), float(said[2])) if said else (0, 0.0)


class ChurnOfAHerd(Agreement):
    """The same with many processes, of which it is known how many live."""

    SECONDS = 15

    def test_replacements(self) -> None:
        # A scan that a busy machine interrupts sees the herd at two moments; one of three that is not will do.
        for _ in range(3):
            mean, live = self.replacements()
            if abs(mean - live) <= TOLERANCE_OF_TRUTH * live:
                return
        self.assertAlmostEqual(mean, live, delta=TOLERANCE_OF_TRUTH * live)

    def replacements(self) -> tuple[float, float]:
        """The exporter's mean, and the true one."""
        with Herd(868, 1000, 500) as herd:
            # Its own limits are Dovecot's defaults.
            exporter = Exporter(None, "--dovecot.doveconf=/bin/false", "--dovecot.log-file=/nonexistent/log")
            exporter.command[:0] = herd.enter
            with exporter:
                seen = Seen(exporter, self.SECONDS, herd.master, herd.enter)
            replaced, live = herd.stop()
        seen.describe(f"herd, {replaced} replaced, truly {live:.3f} on average")
        self.assertGreater(replaced, 100 * self.SECONDS)
        self.assert_right(seen, (LOGIN,))
        return seen.mean(LOGIN), live


# No test of its own.
del Agreement

if __name__ == "__main__":
    unittest.main()
