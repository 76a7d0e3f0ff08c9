"""The exporter's own reading of Dovecot's configuration against what the real doveconf says of it."""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lab
from generated_configs import generate

SEED = int(os.environ.get("CONFIG_SEED", "20"))
NUMBER = int(os.environ.get("CONFIG_NUMBER", "1000"))

Blocks = dict[str, dict[str, str]]
Limits = dict[str, dict[str, int | str | None]]

_ASKED = (
    "protocols default_process_limit default_client_limit default_vsz_limit service_process_limit "
    "service_client_limit service_process_min_avail service_restart_request_count service_vsz_limit service"
).split()
# In 2.3, whether they exist depends on how Dovecot was built, or on its release.
_SOMETIMES = {"tcpwrap", "health-check", "dns-client", "dns_client"}
# What differs between releases of one generation is rightly not known.
_DIFFERS = {
    (generation, service, key)
    for generation, service in (("2.3", "auth-worker"), ("2.4", "indexer-worker"))
    for key in ("restart_request_count", "client_limit")
} | {
    # It follows dovecot_config_version, but not where a group is included.
    ("2.4", "lmtp", "restart_request_count"),
    ("2.4", "lmtp", "client_limit"),
}

_BY_PROTOCOL = set(
    "imap imap-login imap-hibernate imap-urlauth imap-urlauth-login imap-urlauth-worker pop3 pop3-login lmtp "
    "submission submission-login managesieve managesieve-login".split()
)
# How we say that Dovecot may take a configuration that we do not.
_BEYOND = "beyond this exporter"


def example() -> Path:
    """Our reader as a program of its own."""
    command = ["cargo", "build", "--locked", "--example", "limits", "--message-format=json"]
    built = subprocess.run(command, cwd=lab.REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    messages = map(json.loads, built.stdout.splitlines())
    return Path(next(path for message in messages if (path := message.get("executable"))))


class Said:
    """What doveconf printed: settings outside of blocks, and those of each block."""

    def __init__(self, output: str) -> None:
        self.settings: dict[str, str] = {}
        self.blocks: Blocks = collections.defaultdict(dict)
        block = ""
        for line in output.splitlines():
            if match := re.fullmatch(r"(\S.*) \{", line):
                block = match[1]
                self.blocks[block]  # even an empty one is one
            elif match := re.fullmatch(r"(  )?(\S+) = ?(.*)", line):
                (self.blocks[block] if match[1] else self.settings)[match[2]] = match[3]

    def services(self) -> Blocks:
        words = {name: block for name, block in self.blocks.items() if name.startswith("service ")}
        return {name.removeprefix("service ").strip('"'): block for name, block in words.items()}

    def protocols(self) -> set[str]:
        listed = self.settings.get("protocols", "").split()
        return {*listed} | {name for name, value in self.blocks.get("protocols", {}).items() if value == "yes"}


class Doveconf:
    """The program of one generation, run many times."""

    def __init__(self, generation: str) -> None:
        self.generation = generation
        root = lab.trixie_root() if generation == "2.4" else Path("/")
        self.folder = root / "tmp"
        self.chroot = ["chroot", str(root)] if generation == "2.4" else []
        self.root = root

    def run(self, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        inside = Path("/", config.relative_to(self.root))
        command = [*self.chroot, "doveconf", "-x", "-c", str(inside), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def limits(self, config: Path) -> Limits | None:
        """Per service what is in force, or nothing if doveconf refuses the configuration."""
        # Asked for some settings it shows them even if Dovecot would not start with them.
        if self.run(config, "-n").returncode:
            return None
        everything = Said(self.run(config, *_ASKED).stdout)
        if self.generation == "2.3":
            return self._old(everything)
        return self._new(everything, Said(self.run(config, "-N", *_ASKED).stdout))

    def _old(self, said: Said) -> Limits:
        def settings(block: dict[str, str]) -> dict[str, int | str | None]:
            processes = int(block["process_limit"]) or int(said.settings["default_process_limit"])
            clients = int(block["client_limit"]) or int(said.settings["default_client_limit"])
            count = int(block["service_count"]) or None
            size = block["vsz_limit"]
            size = said.settings["default_vsz_limit"] if size == f"{2**64 - 1} B" else size
            return {
                "process_limit": processes,
                "client_limit": min(clients, count or clients),
                "restart_request_count": count,
                "process_min_avail": int(block["process_min_avail"]),
                "vsz_limit": octets(size) or None,
            }

        return {name: settings(block) for name, block in said.services().items() if enabled(said, block)}

    def _new(self, said: Said, explicit: Said) -> Limits:
        def value(name: str, key: str) -> str:
            # What is set for all services comes before what is built in for one.
            own, of_all = explicit.services().get(name, {}), explicit.settings
            built_in = said.services()[name]
            places = ((own, key), (of_all, f"service_{key}"), (built_in, key), (said.settings, f"service_{key}"))
            return next(place[word] for place, word in places if word in place)

        def number(text: str) -> int | str | None:
            # What depends on the host stays as it is, and we must not know it.
            return None if text == "unlimited" else text if text.startswith("%") else int(text)

        def settings(name: str) -> dict[str, int | str | None]:
            clients, count = number(value(name, "client_limit")), number(value(name, "restart_request_count"))
            return {
                "process_limit": number(value(name, "process_limit")),
                "client_limit": min((n for n in (clients, count) if n is not None), default=None),
                "restart_request_count": count,
                "process_min_avail": number(value(name, "process_min_avail")),
                "vsz_limit": octets(value(name, "vsz_limit")),
            }

        return {name: settings(name) for name, block in said.services().items() if enabled(said, block)}


def enabled(said: Said, block: dict[str, str]) -> bool:
    return block.get("protocol", "") in {"", *said.protocols()}


def octets(text: str) -> int | None:
    """`256 M`, or in 2.4 whatever the configuration has; nothing for unlimited."""
    if text == "unlimited":
        return None
    number, unit = re.fullmatch(r"(\d+) *([BKMGT]?)(?:I?B?)", text.upper()).groups()
    return int(number) * 1024 ** "BKMGT".index(unit or "B")


class Generated:
    """What the tests of both generations share."""

    generation: str

    def test_reader_agrees_with_doveconf(self: Any) -> None:
        reader = example()
        doveconf = Doveconf(self.generation)
        with tempfile.TemporaryDirectory(prefix="configs-", dir=doveconf.folder) as folder:
            if doveconf.chroot:
                # One path that holds inside and outside of the chroot.
                link = Path("/tmp", Path(folder).name)
                link.symlink_to(folder)
                self.addCleanup(link.unlink)
            seen = Path("/tmp", Path(folder).name)
            configs = [made.config for made in generate(self.generation, SEED, NUMBER, seen)]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                inside = [Path(folder, config.relative_to(seen)) for config in configs]
                expected = list(pool.map(doveconf.limits, inside))
            output = subprocess.run([reader, *configs], check=True, capture_output=True, text=True).stdout
            found = list(map(json.loads, output.splitlines()))
            self.assertEqual(len(found), len(configs))
            wrong = []
            tally: collections.Counter[str] = collections.Counter()
            for config, ours, theirs in zip(configs, found, expected, strict=True):
                wrong += [(config, line) for line in self.differences(ours, theirs, tally)]
            print(f"\nDovecot {self.generation}, seed {SEED}: {dict(sorted(tally.items()))}", flush=True)
            if wrong:
                kept = os.environ.get("CONFIG_KEEP")
                if kept:
                    subprocess.run(["cp", "-a", folder, kept], check=True)
                text = "".join(
                    f"{config}: {line}\n{config.read_text()}\n" for config, line in wrong[:3]
                )
                self.fail(f"{len(wrong)} differences, seed {SEED}, the first:\n{text}")
            # The test would say nothing if these were few.
            self.assertGreater(tally["agreed"], NUMBER * 0.5)
            self.assertGreater(tally["refused by both"], NUMBER * 0.05)
            self.assertLess(tally["not known"], tally["values"] * 0.05)

    def differences(
        self, ours: dict[str, Any], theirs: Limits | None, tally: collections.Counter[str]
    ) -> list[str]:
        """Compares what we read with what doveconf did; saying so excuses what is missing, never what is wrong."""
        if theirs is None or "refused" in ours:
            if theirs is None and "refused" in ours:
                tally["refused by both"] += 1
            elif theirs is None and ours["unknown"]:
                tally["doubted by us, refused by doveconf"] += 1
            elif theirs is None:
                return ["doveconf refuses it, we do not"]
            elif _BEYOND in ours["refused"]:
                tally["refused by us"] += 1
            else:
                return [f"we refuse it, doveconf does not: {ours['refused']}"]
            return []
        wrong = []
        missing = theirs.keys() - ours["services"].keys()
        missing -= _SOMETIMES if self.generation == "2.3" else set()
        more = ours["services"].keys() - theirs.keys()
        if not theirs.keys() & _BY_PROTOCOL:
            # No protocol is set. What is enabled then is up to whoever packaged Dovecot, so we show all.
            more -= _BY_PROTOCOL
        if missing or more:
            wrong.append(f"services: we lack {missing}, we have {more}")
        for service in ours["services"].keys() & theirs.keys():
            for key, value in theirs[service].items():
                tally["values"] += 1
                if key not in ours["services"][service]:
                    tally["not known"] += 1
                    if not ours["unknown"] and (self.generation, service, key) not in _DIFFERS:
                        wrong.append(f"{service} {key}: we do not know it, and do not say so")
                elif ours["services"][service][key] != value:
                    wrong.append(f"{service} {key}: {ours['services'][service][key]} instead of {value}")
        tally["agreed" if not wrong else "wrong"] += 1
        return wrong


class Generated23(Generated, unittest.TestCase):
    generation = "2.3"


class Generated24(Generated, unittest.TestCase):
    generation = "2.4"


if __name__ == "__main__":
    unittest.main()
