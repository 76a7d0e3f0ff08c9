"""A Debian 12 with a real systemd, to install packages in: booted in a container within a second, gone without a trace.

`install-packages.sh` makes its root directory, with the Dovecot of Debian. What is written goes to memory. It has a
network of its own, with loopback only, and commands run in this repository, which it cannot write.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import REPOSITORY, Series, Server, parse_metrics, process_stats, trixie_root, wait_until

UNIT = "dovecot-capacity-exporter"

_REPOSITORY = "/repository"  # in the machine


class Machine(Server):
    pid = 0  # of its systemd

    def start(self) -> None:
        root = trixie_root().with_name("bookworm")
        if not root.is_dir():
            raise RuntimeError(f"{root} is not there: run tests/e2e/install-packages.sh")
        self._spawn(
            [
                *("systemd-nspawn", "--quiet", f"--directory={root}", "--volatile=overlay", "--boot"),
                *("--private-network", f"--bind-ro={REPOSITORY}:{_REPOSITORY}", "--console=pipe"),
                # Without these two it would ask the systemd of this machine, which may have none.
                *("--register=no", "--keep-unit"),
            ],
            # As Debian 12 has it; this machine may still have the older control groups.
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pid = wait_until(self._init, 20, "systemd to start")
        wait_until(lambda: self.ask("systemctl is-system-running") == "running", 60, "systemd to be up")
        # nspawn puts a boot id of its own over that of /proc, but a unit that protects kernel tunables gets a new /proc;
        # journalctl --follow shows the entries of the boot that it sees there.
        self.run("umount /proc/sys/kernel/random/boot_id && systemctl restart systemd-journald")

    def _init(self) -> int | None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"systemd-nspawn ended with {self.process.returncode}")
        for stat in process_stats():
            if stat.parent == self.process.pid and Path(f"/proc/{stat.pid}/comm").read_text() == "systemd\n":
                return stat.pid
        return None

    def stop(self) -> None:
        if self.process is None:
            return
        if self.pid:
            # With it the kernel ends all its processes; nspawn sees that and tidies up.
            os.kill(self.pid, 9)
            self.pid = 0
            self.process.wait(20)
        self._terminate(20)

    def _command(self, command: str) -> list[str]:
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        clean = ["env", f"--chdir={_REPOSITORY}", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]
        return [*enter, *clean, "bash", "-c", command]

    def run(self, command: str) -> str:
        """What a command of the shell prints on standard output; it must succeed."""
        done = subprocess.run(self._command(command), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"{command}: exit code {done.returncode}: {done.stdout}{done.stderr}{self._journal()}")
        return done.stdout

    def ask(self, command: str) -> str:
        """The same of one that may fail, standard error included."""
        done = subprocess.run(
            self._command(command), stdin=subprocess.DEVNULL, stdout=-1, stderr=subprocess.STDOUT, text=True
        )
        return done.stdout.strip()

    def _journal(self) -> str:
        return self.ask(f"journalctl --no-pager --lines=30 --unit={UNIT}") if self.pid else ""

    def write(self, path: str, text: str) -> None:
        """Writes a file, with the folders to it."""
        file = Path(f"/proc/{self.pid}/root{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def metrics(self) -> dict[Series, float]:
        return parse_metrics(self.run("curl -sS --fail http://localhost:9166/metrics"))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics().get((name, frozenset(labels.items())))

    def labels(self, name: str, label: str) -> dict[str, float]:
        """The values of a metric by one label."""
        found = ((dict(labels).get(label), value) for (series, labels), value in self.metrics().items() if series == name)
        return {key: value for key, value in found if key is not None}

    def show(self, unit: str, field: str) -> str:
        """A property of a unit."""
        return self.run(f"systemctl show --property={field} --value {unit}").strip()

    @contextmanager
    def clients(self, count: int) -> Iterator[None]:
        """So many that connect to IMAP and say nothing."""
        connect = (
            f"import socket, sys; kept = [socket.create_connection(('127.0.0.1', 143)) for _ in range({count})];"
            "print(flush=True); sys.stdin.read()"
        )
        # With the network of the machine and the Python of this one.
        command = ["nsenter", f"--target={self.pid}", "--net", "python3", "-c", connect]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin and process.stdout
            try:
                process.stdout.readline()
                yield
            finally:
                process.stdin.close()
