"""What a scan remembers of the processes it has read, where pids are used again and programs call exec."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import unittest
from pathlib import Path

from imap_clients import Clients
from lab import REPOSITORY, Dovecot, Exporter, Server, wait_until

WALK = REPOSITORY / "target/witness/walk"
PROCESSES = "dovecot_service_processes"


class Tree(Server):
    """A process in a PID name space of its own that does what it is told, and can become a Dovecot master."""

    def start(self) -> None:
        # Its standard input is what it is told by, so not by `_spawn`.
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
            + [sys.executable, __file__, "init"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.tell("ready")
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.enter = ["nsenter", f"--target={int(children.read_text())}", "--pid", "--mount"]
        self.enter += ["setpriv", "--pdeathsig", "TERM"]

    def stop(self) -> None:
        if self.process is not None:
            streams = (self.process.stdin, self.process.stdout)
            self._terminate(timeout=10)
            for stream in streams:
                stream.close()

    def tell(self, *words: object) -> int:
        """Has it do something; the pid that this is about."""
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        print(*words, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def truth(self, master: int) -> dict[str, float]:
        """The services' processes, by a C program that remembers nothing."""
        command = [*self.enter, str(WALK), "cmdline", "--master", str(master)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        counts = re.findall(r"^(\S+) (\d+)$", found, re.MULTILINE)
        return {name: float(count) for name, count in counts if name not in ("processes", "scans")}


def counts(exporter: Exporter) -> dict[str, float]:
    """The services that have processes."""
    page = exporter.metrics()
    return {dict(key)["service"]: count for (name, key), count in page.items() if name == PROCESSES and count}


class Memory(unittest.TestCase):
    def setUp(self) -> None:
        self.tree = self.enterContext(Tree())
        self.exporter = Exporter(None, "--dovecot.doveconf=/bin/false", "--dovecot.log-file=/nonexistent/log")
        self.exporter.command[:0] = self.tree.enter

    def check(self, master: int, **expected: int) -> None:
        """The exporter, the witness and who made the processes agree."""
        named = {name.replace("_", "-"): float(count) for name, count in expected.items() if count}
        self.assertEqual(self.tree.truth(master), named)
        self.assertEqual(counts(self.exporter), named)

    def test_pids_are_used_again(self) -> None:
        master = self.tree.tell("master")
        with self.exporter:
            other, login = self.tree.tell("run", "sleep"), self.tree.tell("run", "dovecot/imap-login")
            self.check(master, imap_login=1)
            # Each in the place of another, known one.
            for was, name, expected in (
                (other, "dovecot/imap-login", {"imap_login": 2}),
                (login, "dovecot/imap", {"imap_login": 1, "imap": 1}),
                (other, "sleep", {"imap": 1}),
                (other, "dovecot/log", {"imap": 1, "log": 1}),
                (login, "/usr/sbin/dovecot", {"log": 1}),
            ):
                self.tree.tell("end", was)
                self.tree.tell("next", was)
                self.assertEqual(self.tree.tell("run", name), was)
                self.check(master, **expected)

    def test_few_pids_and_many_processes(self) -> None:
        master = self.tree.tell("master")
        names = ("sleep", "dovecot/imap-login", "dovecot/imap", "dovecot/auth")
        living: dict[int, str] = {}
        used: set[int] = set()
        again = 0
        choice = random.Random(1)
        with self.exporter:
            for _ in range(60):
                for _ in range(choice.randrange(12)):
                    if len(living) > choice.randrange(40):
                        ends = choice.choice(list(living))
                        self.tree.tell("end", ends)
                        del living[ends]
                    # The lowest that is free.
                    self.tree.tell("next", master + 20)
                    pid = self.tree.tell("run", name := choice.choice(names))
                    again += pid in used
                    living[pid] = name
                    used.add(pid)
                running = list(living.values())
                self.check(master, **{name[8:].replace("-", "_"): running.count(name) for name in names[1:]})
        self.assertGreater(again, 100)

    def test_a_known_process_becomes_a_master(self) -> None:
        with self.exporter:
            # It is read as what it is before exec.
            self.assertEqual(self.exporter.value("dovecot_master_up"), 0)
            self.assertEqual(self.exporter.value("dovecot_master_up"), 0)
            master = self.tree.tell("become", "dovecot")
            self.tree.tell("run", "dovecot/log")
            self.check(master, log=1)
            self.assertEqual(self.exporter.value("dovecot_master_up"), 1)
            self.tree.tell("run", "dovecot/imap-login")
            self.check(master, log=1, imap_login=1)

    def test_a_child_calls_exec_late(self) -> None:
        master = self.tree.tell("master")
        with self.exporter:
            self.tree.tell("run", "dovecot/log")
            self.tree.tell("fork", "dovecot/imap-login")
            for _ in range(2):
                self.check(master, log=1)
            self.tree.tell("exec")
            self.check(master, log=1, imap_login=1)


class OfDovecot:
    """The dead of a master that does not wait for them."""

    generation: str

    def test_zombies(self: unittest.TestCase) -> None:
        services = {"imap-login": {"process_limit": 20}}
        with (
            Dovecot(self.generation, instance_name=f"memory-{os.getpid()}", services=services) as dovecot,
            Exporter(dovecot) as exporter,
            Clients(dovecot) as clients,
        ):
            clients.pre_auth(8)
            self.assertEqual(exporter.value(PROCESSES, service="imap-login"), 8)
            os.kill(dovecot.master_pid, signal.SIGSTOP)
            try:
                dead = dovecot.processes("imap-login")[:3]
                for pid in dead:
                    os.kill(pid, signal.SIGKILL)
                state = lambda pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                wait_until(lambda: all(state(pid) == "Z" for pid in dead), 5, "processes to be zombies")
                self.assertEqual(exporter.value(PROCESSES, service="imap-login"), 5)
                self.assertEqual(len(dovecot.processes("imap-login")), 5)
            finally:
                os.kill(dovecot.master_pid, signal.SIGCONT)


class Zombies23(OfDovecot, unittest.TestCase):
    generation = "2.3"


class Zombies24(OfDovecot, unittest.TestCase):
    generation = "2.4"


def obey() -> None:
    """What the tree does, a line of words at a time; answers each with a pid."""
    children: dict[int, subprocess.Popen[bytes]] = {}
    held, hold = os.pipe()
    late = 0
    # Python looks for its library beside argv[0].
    os.environ["PYTHONHOME"] = sys.base_prefix
    for line in iter(sys.stdin.readline, ""):
        word, *rest = line.split()
        answer = os.getpid()
        if word == "run":
            child = subprocess.Popen([rest[0], "1000"], executable="/bin/sleep", stdin=subprocess.DEVNULL)
            children[child.pid] = child
            answer = child.pid
        elif word == "end":
            children[int(rest[0])].kill()
            children.pop(int(rest[0])).wait()
        elif word == "next":
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(int(rest[0]) - 1))
        elif word == "fork":
            answer = os.fork()
            if answer == 0:
                os.read(held, 1)
                os.execv("/bin/sleep", [rest[0], "1000"])
            late = answer
        elif word == "exec":
            os.write(hold, b".")
            while b"dovecot/" not in Path(f"/proc/{late}/cmdline").read_bytes():
                pass
        elif word == "become":
            os.execv(sys.executable, [rest[0], __file__, "master"])
        elif word == "master":
            # All that is told from now on, the master does.
            master = subprocess.Popen(["dovecot", __file__, "master"], executable=sys.executable)
            sys.exit(master.wait())
        print(answer, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] in (["init"], ["master"]):
        if sys.argv[1] == "master":
            print(os.getpid(), flush=True)
        obey()
    else:
        unittest.main()
