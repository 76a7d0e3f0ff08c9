"""Real log daemons for the end-to-end tests, each private to the test that starts it.

`Room` is a mount namespace with a /dev, a /run and a journal of its own: what runs in it finds the daemon that the
test has started there, by the very paths that are compiled into Dovecot, journald and journalctl. `Rsyslog` and
`Journald` are those daemons, `LoggingDovecot` is a Dovecot that logs to one of them, or to a pipe.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import Dovecot, Server, trixie_root, wait_until

# $0 is the root of Dovecot 2.4, which is to find the same /dev/log. All is gone with the last process in the room.
_FURNISH = """
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/dev /run/log/journal /run/systemd/journal /run/systemd/journald.conf.d
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/fd /dev/stdin /dev/stdout /dev/stderr /run/dev
mount --bind /run/dev /dev
if [ -d /var/log/journal ]; then
    mount -t tmpfs tmpfs /var/log/journal
fi
if [ -d "$0" ]; then
    mount --bind /dev "$0/dev"
    mount --rbind /run "$0/run"
fi
echo furnished
exec sleep infinity
"""

# Kernel auditing and the kernel's messages are the machine's.
_JOURNALD = """\
[Journal]
Storage=volatile
Audit=
ReadKMsg=no
ForwardToWall=no
ForwardToSyslog={forward}
"""

_RSYSLOG = """\
module(load="imuxsock" sysSock.name="{socket}")
$RepeatedMsgReduction {reduce}
mail.* action(type="omfile" file="{log}" template="{template}")
"""

_LOGROTATE = """\
{log} {{
  rotate 99
  create 0640
  compress
  delaycompress
  postrotate
    kill -HUP {pid}
  endscript
}}
"""


class Room(Server):
    """A mount namespace in which /dev, /run and the journal are the test's own.

    `enter` makes the command behind it run there; `root` is what is there, seen from outside.
    """

    def start(self) -> None:
        command = ["unshare", "--mount", "sh", "-ec", _FURNISH, trixie_root()]
        process = self._spawn(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout as stdout:
            if stdout.readline() != b"furnished\n":
                raise RuntimeError("there is no mount namespace to be had")

    def stop(self) -> None:
        if self.process is not None:
            self._terminate(timeout=10)

    @property
    def _pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._pid}/ns/mnt", "--"]

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self._pid}/root")


class Rsyslog(Server):
    """rsyslogd at `socket` of a room, by default /dev/log; facility mail goes to `log`."""

    def __init__(
        self, room: Room, template: str = "RSYSLOG_FileFormat", reduce: bool = False, socket: str = "/dev/log"
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="rsyslog-lab-"))
        super().__init__()
        # In a directory of its own: the exporter looks at the log's neighbours.
        self.log = self._directory / "log" / "mail.log"
        self.log.parent.mkdir(mode=0o750)
        self._room = room
        self._socket = socket
        self._config = self._directory / "rsyslog.conf"
        reduction = "on" if reduce else "off"
        self._config.write_text(
            _RSYSLOG.format(socket=socket, reduce=reduction, log=self.log, template=template)
        )

    def start(self) -> None:
        pid_file = self._directory / "pid"
        process = self._spawn(
            [*self._room.enter, "/usr/sbin/rsyslogd", "-n", "-f", self._config, "-i", pid_file]
        )

        def listens() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"rsyslogd ended with {process.returncode}")
            return pid_file.exists() and (self._room.root / self._socket[1:]).is_socket()

        wait_until(listens, 20, "rsyslogd to listen")

    def stop(self) -> None:
        if self.process is not None:
            self._terminate(timeout=20)

    def _remove_files(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def rotate(self) -> None:
        """As Debian does: logrotate renames, rsyslogd opens its files anew, older ones are compressed."""
        assert self.process is not None
        config = self._directory / "logrotate.conf"
        config.write_text(_LOGROTATE.format(log=self.log, pid=self.process.pid))
        config.chmod(0o600)
        subprocess.run(["/usr/sbin/logrotate", "-f", "-s", self._directory / "state", config], check=True)


class Journald(Server):
    """systemd-journald of a room, without a systemd."""

    def __init__(self, room: Room, forward: bool = False) -> None:
        super().__init__()
        self._room = room
        config = room.root / "run/systemd/journald.conf.d/lab.conf"
        config.write_text(_JOURNALD.format(forward="yes" if forward else "no"))

    def start(self) -> None:
        # What it says of itself is in the journal.
        self._spawn([*self._room.enter, "/lib/systemd/systemd-journald"], stderr=subprocess.DEVNULL)
        socket = "run/systemd/journal/dev-log"
        wait_until((self._room.root / socket).is_socket, 20, "journald to listen")
        # Otherwise systemd's unit makes it.
        (self._room.root / "dev/log").symlink_to(f"/{socket}")
        # It answers by another socket, the last that it makes.
        wait_until(lambda: not self._try("--sync"), 20, "journald to answer")

    def stop(self) -> None:
        if self.process is not None:
            self._terminate(timeout=20)

    def _try(self, *arguments: str) -> int:
        command = [*self._room.enter, "journalctl", *arguments]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode

    def journalctl(self, *arguments: str) -> str:
        """What `journalctl ARGUMENTS` prints."""
        command = [*self._room.enter, "journalctl", "--quiet", *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def entries(self, *matches: str) -> dict[str, str]:
        """By cursor, what the entries say that match."""
        lines = self.journalctl("--output=json", "--all", *matches).splitlines()
        return {entry["__CURSOR"]: entry["MESSAGE"] for entry in map(json.loads, lines)}


class LoggingDovecot(Dovecot):
    """A Dovecot that logs to the daemon of a room; without a room, to `output`, which is a file descriptor."""

    def __init__(
        self, generation: str, room: Room | None = None, output: int = -1, settings: str = "", **options: Any
    ) -> None:
        self._room = room
        self.output = output
        log_path = "/dev/stderr" if room is None else "syslog"
        super().__init__(generation, settings=f"log_path = {log_path}\n{settings}", **options)

    def _spawn(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        if self._room is None:
            options["stderr"] = self.output
        else:
            command = [*self._room.enter, *command]
        return super()._spawn(command, **options)
