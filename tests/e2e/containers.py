"""Images and containers for the end-to-end tests, without Docker, without Docker Hub, in a store of their own.

The images are stand-ins, made once per machine and kept in ~/.cache:

- docker.io/library/rust: what its slim flavour has of Debian 12, gcc above all. Toolchain, crates and certificates are
  this machine's, mounted when it is used.
- docker.io/dovecot/dovecot: Debian 13's Dovecot 2.4 where the image has its own build, run as vmail like it, but without
  tini before it. Those of its programs that have file capabilities there have them here.
- docker.io/library/busybox: the same Debian 13.

Everything runs in the network name space of the test (`own_network`), so all ports are free in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import json
import os
import shlex
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab import REPOSITORY, trixie_root

CACHE = trixie_root().parent
IMAGE = "localhost/dovecot-capacity-exporter"
_RUN = Path("/run/dovecot-capacity-exporter")
_STORE = ["--root", str(CACHE / "containers"), "--runroot", str(_RUN)]
# crun takes no mixed control groups, and no timer starts health checks where systemd does not run.
_PODMAN = ["/usr/bin/podman", *_STORE, "--tmpdir", str(_RUN / "libpod"), "--events-backend=file"]
_PODMAN += ["--cgroup-manager=cgroupfs", "--runtime=/usr/sbin/runc"]
# A container in this one may not raise limits.
_NETWORK = "--network=host"
_RUN_FLAGS = ["--pull=never", "--health-interval=disable", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]
_CLONE_NEWNET = 0x40000000
# cap_sys_chroot+ep, as the kernel keeps it (struct vfs_cap_data). The first word is the version, and that it is effective:
# who may not have the capability may then not even start the program.
_SYS_CHROOT = struct.pack("<5I", 0x0200_0001, 1 << 18, 0, 0, 0)


def run(*command: str | Path, **options: object) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.returncode}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def podman(*arguments: str | Path) -> str:
    return run(*_PODMAN, *arguments)


def podman_run(*arguments: str | Path) -> str:
    return podman("run", _NETWORK, *_RUN_FLAGS, *arguments)


def buildah(*arguments: str | Path) -> str:
    return run("/usr/bin/buildah", *_STORE, *arguments)


def _toolchain() -> list[str]:
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    (home / "registry").mkdir(parents=True, exist_ok=True)
    sysroot = run("rustc", "--print=sysroot", cwd=REPOSITORY).strip()
    return [
        f"--volume={sysroot}:/usr/local/rust:ro",
        # Written over in the container only.
        f"--volume={home}/registry:/usr/local/cargo/registry:O",
        "--volume=/etc/ssl/certs:/etc/ssl/certs:ro",
    ]


def tools(folder: Path) -> Path:
    """A `podman` in `folder` that does what the documentation says, with what this machine needs besides."""
    build = ["/usr/bin/buildah", *_STORE, "build", "--isolation=chroot", "--layers", "--jobs=2", "--pull-never", *_toolchain()]
    script = folder / "podman"
    script.write_text(
        "#!/bin/sh\n"
        'command=$1\nshift\ncase $command in\n'
        f'build) exec {shlex.join(build)} "$@" ;;\n'
        f'run) case "$*" in *{_NETWORK}*) ;; *) set -- {_NETWORK} "$@" ;; esac\n'
        f'exec {shlex.join([*_PODMAN, "run", *_RUN_FLAGS])} "$@" ;;\n'
        f'*) exec {shlex.join(_PODMAN)} "$command" "$@" ;;\n'
        "esac\n"
    )
    script.chmod(0o755)
    return script


def own_network() -> None:
    """Puts this process, and what it starts from now on, where nobody else has taken a port."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network name space of its own")
    run("ip", "link", "set", "lo", "up")


def lock() -> object:
    """The store, for the life of what is returned; another run of the tests on this machine waits."""
    CACHE.mkdir(parents=True, exist_ok=True)
    held = (CACHE / "containers.lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    # Of a run that was killed.
    clear()
    return held


def clear() -> None:
    """Ends every container of the tests, and removes their volumes."""
    # First the one that shares the name space of another; within one command there is no order.
    for names in (["exporter"], ["one", "log", "dovecot"]):
        podman("rm", "--force", "--ignore", "--time=0", *names)
    podman("volume", "prune", "--force")


def _exists(image: str) -> bool:
    return subprocess.run([*_PODMAN, "image", "exists", image]).returncode == 0


def _commit(root: Path, image: str, *config: str, prepare: str = "") -> None:
    """An image of the files below `root`."""
    with tempfile.NamedTemporaryFile(suffix=".tar", dir=CACHE) as archive:
        leave_out = [f"--exclude=./{path}" for path in ("tmp/*", "run/*", "proc/*", "var/cache/apt/*", "var/lib/apt/lists/*")]
        run("tar", "-C", root, *leave_out, "-cf", archive.name, ".")
        with _container("scratch", image, *config) as container:
            buildah("add", "--quiet", container, archive.name, "/")
            if prepare:
                run("chroot", buildah("mount", container).strip(), "sh", "-ec", prepare)


@contextlib.contextmanager
def _container(base: str, image: str, *config: str) -> Iterator[str]:
    """A container of one image, to make another of."""
    container = buildah("from", "--pull-never", base).strip()
    try:
        yield container
        buildah("config", *config, container)
        buildah("commit", "--quiet", container, image)
    finally:
        buildah("rm", container)


def make_rust(image: str) -> None:
    if _exists(image):
        return
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        run("debootstrap", "--variant=minbase", "--include=gcc,libc6-dev,ca-certificates", "bookworm", folder)
        path = "PATH=/usr/local/cargo/bin:/usr/local/rust/bin:/usr/bin:/bin"
        _commit(Path(folder), image, f"--env={path}", "--env=CARGO_HOME=/usr/local/cargo")


def make_busybox(image: str) -> None:
    """With the user and the folders that Dovecot's has, for make_dovecot."""
    if _exists(image):
        return
    prepare = "groupadd -g 1000 vmail; useradd -u 1000 -g vmail -d /nonexistent vmail; chmod 1777 /run"
    prepare += "; install -d -o vmail -g vmail /srv/vmail"
    _commit(trixie_root(), image, "--cmd=/bin/sh", prepare=prepare)


def make_dovecot(image: str, base: str) -> None:
    """From the stand-in for busybox."""
    if _exists(image):
        return
    with _container(base, image, "--user=vmail", '--cmd=["/usr/sbin/dovecot", "-F"]') as container:
        root = buildah("mount", container).strip()
        for program in ("anvil", "imap-login"):
            os.setxattr(f"{root}/usr/lib/dovecot/{program}", "security.capability", _SYS_CHROOT)


@functools.cache
def _check_jsonschema() -> Path:
    """A Python with the schemas of compose files and of GitHub's workflows, and a reader of YAML."""
    folder = CACHE / "check-jsonschema"
    wanted = "check-jsonschema==0.39.0 ruamel.yaml==0.19.1"
    finished = folder / "wanted"
    if not finished.exists() or finished.read_text() != wanted:
        run("/usr/bin/python3", "-m", "venv", "--clear", folder)
        run(folder / "bin/python", "-m", "pip", "install", "--quiet", *wanted.split())
        finished.write_text(wanted)
    return folder / "bin/python"


def check_schema(schema: str, file: Path) -> None:
    run(_check_jsonschema(), "-m", "check_jsonschema", f"--builtin-schema={schema}", file)


def read_yaml(path: Path) -> dict:
    program = "import json, ruamel.yaml, sys; print(json.dumps(ruamel.yaml.YAML(typ='safe').load(open(sys.argv[1]))))"
    return json.loads(run(_check_jsonschema(), "-c", program, path))
