"""Somebody without privileges under a /proc with hidepid: right counts, or none and the reason. Never 0 processes.

The kernel shows others to the group of the mount option gid=, whatever hidepid= says; `subset=pid` hides no process.
"""

from __future__ import annotations

import subprocess
import unittest

from imap_clients import Clients
from lab import Dovecot, Exporter, as_nobody, wait_until

PATIENCE = 30
GROUP = 4711
SERVICE = "imap-login"
CLIENTS = 7
# What is measured in /proc, so absent where that tells nothing.
MEASURED = ("dovecot_service_processes", "dovecot_service_processes_peak", "dovecot_service_resident_memory_bytes")
# Mount options, whether the exporter is of the group, whether it sees Dovecot.
MOUNTS = (
    ("hidepid=0", False, True),
    ("hidepid=1", False, False),
    ("hidepid=2", False, False),
    ("hidepid=4", False, False),
    (f"hidepid=1,gid={GROUP}", True, True),
    (f"hidepid=2,gid={GROUP}", True, True),
    (f"hidepid=1,gid={GROUP}", False, False),
    (f"hidepid=2,gid={GROUP}", False, False),
    # The kernel lets no group see more there.
    (f"hidepid=4,gid={GROUP}", True, False),
    ("subset=pid", False, True),
)


def unprivileged(dovecot: Dovecot, mount: str, member: bool) -> Exporter:
    """One that runs as nobody, with a /proc of its own that is mounted like this."""
    exporter = Exporter.unprivileged(dovecot)
    if member:
        exporter.command[exporter.command.index("--clear-groups")] = f"--groups={GROUP}"
    exporter.command[:0] = ["unshare", "--mount", "sh", "-c", f'mount -t proc -o {mount} proc /proc && exec "$@"', "sh"]
    return exporter


class Hidepid:
    generation: str

    def setUp(self: unittest.TestCase) -> None:
        self.dovecot = self.enterContext(Dovecot(self.generation, instance_name="hidepid"))
        self.enterContext(Clients(self.dovecot)).pre_auth(CLIENTS)
        self.dovecot.log_path.chmod(0o644)

    def counts(self: unittest.TestCase, exporter: Exporter) -> dict[str, float]:
        page = exporter.metrics()
        return {dict(labels)["service"]: value for (name, labels), value in page.items() if name == MEASURED[0]}

    def assert_sees(self: unittest.TestCase, exporter: Exporter) -> None:
        """Every count is what the master itself says."""

        def agree() -> bool:
            counted = self.counts(exporter)
            told = self.dovecot.services()
            return counted == {service: told[service]["process_count"] for service in counted} and bool(counted)

        wait_until(agree, PATIENCE, "the counts of doveadm")
        self.assertEqual(self.counts(exporter)[SERVICE], CLIENTS)
        self.assertEqual(exporter.value("dovecot_exporter_source_up", source="procfs"), 1)
        self.assertNotIn("source=procfs", "".join(exporter.stderr))

    def assert_blind(self: unittest.TestCase, exporter: Exporter) -> None:
        """It says so, and says all that can be known otherwise."""
        page = exporter.metrics()
        self.assertEqual([labels for name, labels in page if name in MEASURED], [])
        self.assertNotIn(("dovecot_master_up", frozenset()), page)
        for source, up in (("procfs", 0), ("log", 1), ("limits", 1)):
            self.assertEqual(page["dovecot_exporter_source_up", frozenset({("source", source)})], up, source)
        self.assertEqual(page["dovecot_service_process_limit", frozenset({("service", SERVICE)})], 100)
        # Read by a thread, which may be behind.
        reasons = lambda: [line for line in exporter.stderr if "source=procfs" in line and "level=warn" in line]
        [reason] = wait_until(reasons, PATIENCE, "the reason in the log")
        for word in ("/proc", "hidepid=", "gid="):
            self.assertIn(word, reason)

    def test_as_it_was_mounted(self: unittest.TestCase) -> None:
        for mount, member, sees in MOUNTS:
            with self.subTest(mount, member=member), unprivileged(self.dovecot, mount, member) as exporter:
                (self.assert_sees if sees else self.assert_blind)(exporter)

    def test_one_of_the_users_of_dovecot(self: unittest.TestCase) -> None:
        """Whoever may see some of its processes, but not all, must not count those."""
        [login, *_] = self.dovecot.processes(SERVICE)
        user = subprocess.run(["stat", "-c", "%u", f"/proc/{login}"], capture_output=True, text=True, check=True)
        for mount in ("hidepid=1", "hidepid=2"):
            exporter = unprivileged(self.dovecot, mount, member=False)
            command = exporter.command
            command[command.index(as_nobody()[1])] = f"--reuid={user.stdout.strip()}"
            with self.subTest(mount), exporter:
                self.assert_blind(exporter)

    def test_mounted_anew(self: unittest.TestCase) -> None:
        """While it runs, and back."""
        with unprivileged(self.dovecot, "hidepid=0", member=False) as exporter:
            self.assert_sees(exporter)
            for option, up in (("hidepid=2", 0), ("hidepid=0", 1)):
                enter = ["nsenter", f"--target={exporter.pid}", "--mount"]
                places = ["/proc", *(f"{root}/proc" for root in self.dovecot.enter_root[-1:])]
                for place in places:
                    subprocess.run([*enter, "mount", "-o", f"remount,{option}", place], check=True)
                wait_until(
                    lambda: exporter.value("dovecot_exporter_source_up", source="procfs") == up, PATIENCE, option
                )
            self.assertEqual(self.counts(exporter)[SERVICE], CLIENTS)


class Hidepid23(Hidepid, unittest.TestCase):
    generation = "2.3"


class Hidepid24(Hidepid, unittest.TestCase):
    generation = "2.4"


if __name__ == "__main__":
    unittest.main()
