"""What bites beside process_limit: bursts between scrapes, queues in the kernel, and what other services need."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import time
import unittest
from pathlib import Path

from imap_clients import HOST, Clients
from lab import Dovecot, Exporter, session, wait_until

LOGIN = "imap-login"
PEAK = "dovecot_service_processes_peak"
AT_LIMIT = "dovecot_service_at_process_limit_seconds_total"
QUEUE = "dovecot_listener_queue_connections"
QUEUE_LIMIT = "dovecot_listener_queue_limit"
REQUIRED = "dovecot_service_client_limit_required"
MEMORY = "dovecot_service_resident_memory_bytes"


def queue_lengths(dovecot: Dovecot, column: int = 1) -> dict[str, int]:
    """Clients that wait, by listener, or in the next column how many may: ss asks the kernel by netlink for both."""
    command = ["ss", "--listening", "--tcp", "--numeric", "--no-header"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    lengths = {fields[3]: int(fields[column]) for fields in map(str.split, lines)}
    return {name: lengths[f"{HOST}:{port}"] for name, port in dovecot.ports.items()}


class OfDovecot:
    generation: str

    def dovecot(self: unittest.TestCase, limit: int, **options: object) -> Dovecot:
        name = f"next-{os.getpid()}"
        services = {LOGIN: {"process_limit": limit}}
        return self.enterContext(
            Dovecot(self.generation, instance_name=name, services=services, **options)
        )

    def test_bursts_of_two_seconds(self: unittest.TestCase) -> None:
        dovecot = self.dovecot(5)
        exporter = self.enterContext(Exporter(dovecot))
        self.assertEqual(exporter.value(AT_LIMIT, service=LOGIN), 0)
        self.assertEqual(exporter.value(PEAK, service=LOGIN, window="1m"), 0)
        seconds = 0.0
        with Clients(dovecot) as clients:
            for _ in range(3):
                clients.pre_auth(5)
                time.sleep(2)
                clients.close()
                wait_until(lambda: not dovecot.processes(LOGIN), 5, "the processes to end")
                before, seconds = seconds, exporter.value(AT_LIMIT, service=LOGIN) or 0.0
                # A sample stands for one second: there was one at least, and none beyond the time and its ends.
                self.assertGreaterEqual(seconds - before, 0.9)
                self.assertLessEqual(seconds - before, 4.5)
                self.assertEqual(exporter.value("dovecot_service_processes", service=LOGIN), 0)
                self.assertEqual(exporter.value(PEAK, service=LOGIN, window="1m"), 5)
        # Nobody else was at a limit.
        self.assertEqual(exporter.value(AT_LIMIT, service="imap"), 0)

    def test_bursts_of_300_milliseconds(self: unittest.TestCase) -> None:
        dovecot = self.dovecot(3)
        exporter = self.enterContext(Exporter(dovecot))
        choice = random.Random(1)
        lengths = []
        with Clients(dovecot) as clients:
            for _ in range(40):
                clients.pre_auth(3)
                began = time.monotonic()
                time.sleep(0.3)
                clients.close()
                wait_until(lambda: len(dovecot.processes(LOGIN)) < 3, 5, "a process to end")
                lengths.append(time.monotonic() - began)
                time.sleep(choice.uniform(0.3, 0.7))
        seconds = exporter.value(AT_LIMIT, service=LOGIN)
        # Each is seen with a probability of its length in seconds, and then counts as one.
        deviation = sum(length * max(1 - length, 0) for length in lengths) ** 0.5
        print(f"\n{self.generation}: {sum(lengths):.1f} s at the limit, {seconds:.1f} s counted, deviation {deviation:.1f}")
        self.assertAlmostEqual(seconds, sum(lengths), delta=4 * deviation)
        self.assertEqual(exporter.value(PEAK, service=LOGIN, window="1m"), 3)

    def test_queues(self: unittest.TestCase) -> None:
        # Dovecot asks the kernel for a queue as long as all its processes together have clients.
        dovecot = self.dovecot(20)
        exporter = self.enterContext(Exporter(dovecot))
        others = self.enterContext(Exporter.unprivileged(dovecot))
        ports = {name: str(port) for name, port in dovecot.ports.items()}
        for name in ports:
            self.assertEqual(exporter.value(QUEUE, service=LOGIN, port=ports[name]), 0, name)
        # Of another program, with the port of Dovecot at another address.
        with contextlib.ExitStack() as stack:
            foreign = stack.enter_context(socket.create_server(("127.0.0.9", dovecot.ports["imap"])))
            stack.enter_context(socket.create_connection(foreign.getsockname()))
            clients = stack.enter_context(Clients(dovecot))
            # These are not turned out to make room.
            clients.idle(20)
            for _ in range(12):
                stack.enter_context(socket.create_connection((HOST, dovecot.ports["imap"])))
            for _ in range(3):
                stack.enter_context(socket.create_connection((HOST, dovecot.ports["imaps"])))

            def agree() -> bool:
                """What the exporter shows may be a second old."""
                shown = [
                    {name: some.value(QUEUE, service=LOGIN, port=port) for name, port in ports.items()}
                    for some in (exporter, others)
                ]
                waiting = queue_lengths(dovecot)
                # Some may have been accepted before Dovecot noticed that it had reached its limit.
                return shown == [waiting] * 2 and waiting["imap"] >= 5 and waiting["imaps"] == 3

            wait_until(agree, 20, "clients to wait")
        limits = queue_lengths(dovecot, 2)
        self.assertEqual(set(limits.values()), {20})
        # A reload does not make it longer.
        dovecot.write_config(services={LOGIN: {"process_limit": 30}})
        dovecot.reload()
        for some in (exporter, others):
            wait_until(lambda: some.value("dovecot_service_process_limit", service=LOGIN) == 30, 20, "the new limit")
            shown = {name: some.value(QUEUE_LIMIT, service=LOGIN, port=port) for name, port in ports.items()}
            self.assertEqual(shown, limits)

    def test_descriptors(self: unittest.TestCase) -> None:
        dovecot = self.dovecot(5)
        of_master = ["prlimit", "--pid", str(dovecot.master_pid)]
        subprocess.run([*of_master, "--nofile=4321:"], check=True)
        told = subprocess.run([*of_master, "--nofile", "--output=SOFT", "--noheadings"], check=True, capture_output=True)
        self.assertEqual(int(told.stdout), 4321)
        for make in (Exporter, Exporter.unprivileged):
            with make(dovecot) as exporter:
                self.assertEqual(exporter.value("dovecot_master_open_files_limit"), 4321)

    def test_what_auth_and_anvil_need(self: unittest.TestCase) -> None:
        options = {"protocols": ("imap", "pop3", "lmtp")}
        dovecot = self.dovecot(1500, **options)
        exporter = self.enterContext(Exporter(dovecot))
        said = re.findall(
            r"service (auth|anvil) \{ client_limit=(\d+) \} is lower than required under max\. load \((\d+)\)",
            dovecot.log_text() + (dovecot.lab / "stderr").read_text(),
        )
        self.assertEqual({name for name, _, _ in said}, {"auth", "anvil"})
        for name, limit, required in said:
            self.assertEqual(exporter.value(REQUIRED, service=name), int(required), name)
            self.assertEqual(exporter.value("dovecot_service_client_limit", service=name), int(limit), name)

    def test_memory(self: unittest.TestCase) -> None:
        dovecot = self.dovecot(20)
        exporter = self.enterContext(Exporter(dovecot))
        with Clients(dovecot) as clients:
            clients.pre_auth(8)

            def resident() -> int:
                pages = 0
                for pid in dovecot.processes(LOGIN):
                    pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                return pages * os.sysconf("SC_PAGE_SIZE")

            # Its first look may come while they grow.
            wait_until(lambda: exporter.value(MEMORY, service=LOGIN) == resident() > 0, 20, "the memory to agree")
        wait_until(lambda: exporter.value(MEMORY, service=LOGIN) == 0, 20, "the processes to end")


    def test_control_group(self: unittest.TestCase) -> None:
        tree = Path("/sys/fs/cgroup/pids") if Path("/sys/fs/cgroup/pids").exists() else Path("/sys/fs/cgroup")
        group = tree / f"next-{os.getpid()}-{self.generation}"
        group.mkdir()
        self.addCleanup(group.rmdir)
        dovecot = self.dovecot(20)
        self.addCleanup(dovecot.close)
        (group / "pids.max").write_text("321")
        for pid in session(dovecot.master_pid):
            (group / "cgroup.procs").write_text(str(pid))
        exporter = self.enterContext(Exporter(dovecot))
        with Clients(dovecot) as clients:
            clients.pre_auth(7)
            page = exporter.metrics()
            tasks = int((group / "pids.current").read_text())
            self.assertGreater(tasks, 7)
            self.assertEqual(page["dovecot_cgroup_tasks", frozenset()], tasks)
            self.assertEqual(page["dovecot_cgroup_tasks_limit", frozenset()], 321)
            (group / "pids.max").write_text("max")
            self.assertEqual(exporter.value("dovecot_cgroup_tasks_limit"), float("inf"))


class NextLimit23(OfDovecot, unittest.TestCase):
    generation = "2.3"


class NextLimit24(OfDovecot, unittest.TestCase):
    generation = "2.4"


if __name__ == "__main__":
    unittest.main()
