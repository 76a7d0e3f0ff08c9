"""Random configurations of Dovecot, in the language of either generation."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path

_SERVICES = (
    "imap-login imap-login imap-login imap imap pop3-login pop3 lmtp lmtp submission-login submission "
    "managesieve-login managesieve auth anvil auth-worker stats log dict dict-async doveadm indexer "
    "indexer-worker config imap-hibernate imap-urlauth-login dns-client quota-warning own_service"
).split()
_MUST_BE_ALONE = ("auth", "anvil", "log", "indexer")
_PROTOCOLS = ("imap", "pop3", "lmtp", "submission", "sieve")


@dataclasses.dataclass
class Generated:
    """One configuration: the folder it is in, and its main file."""

    config: Path
    statements: int


class Generator:
    """Writes configurations of one generation."""

    def __init__(self, generation: str, seed: int) -> None:
        self.old = generation == "2.3"
        self.random = random.Random(f"{generation} {seed}")
        self.count = "service_count" if self.old else "restart_request_count"

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def write(self, folder: Path) -> Generated:
        """One more configuration, in a new `folder`."""
        folder.mkdir()
        self.folder = folder
        self.files = 0
        self.services: list[str] = []
        self.broken = self.chance(0.15)
        statements = [self._statement() for _ in range(self.random.randint(1, 14))]
        if self.broken:
            statements.insert(self.random.randint(0, len(statements)), self._mistake())
        if not self.old:
            statements.insert(self.random.randint(0, len(statements)), "dovecot_storage_version = 2.4.0\n")
            statements = self._with_groups(statements)
        if self.chance(0.8):
            protocols = self.random.sample(_PROTOCOLS, self.random.randint(1, 5))
            statements.insert(self.random.randint(0, len(statements)), self._protocols(protocols))
        head = f"dovecot_config_version = {self.random.choice(('2.4.0', '2.4.1'))}\n" if not self.old else ""
        if head and self.chance(0.3):
            head = "\n# first\n" + head.replace(" = ", "=")
        config = folder / "dovecot.conf"
        config.write_bytes((head + self._spread(statements, config, 0)).encode())
        return Generated(config, len(statements))

    # --- files -------------------------------------------------------------

    def _spread(self, statements: list[str], path: Path, depth: int) -> str:
        """Puts some of the statements into files that the text includes."""
        text, place = [], 0
        while place < len(statements):
            if depth < 3 and self.chance(0.2):
                taken = self.random.randint(0, 4)
                text.append(self._include(statements[place : place + taken], path, depth))
                place += taken
            else:
                text.append(statements[place])
                place += 1
            if self.chance(0.15):
                text.append(self._noise())
        whole = "".join(text)
        if self.chance(0.1):
            whole = whole.replace("\n", "\r\n")
        return whole.rstrip("\n") if self.chance(0.1) else whole

    def _include(self, statements: list[str], path: Path, depth: int) -> str:
        self.files += 1
        word = self.random.choice(("!include", "!include_try"))
        kind = self.random.randint(0, 5)
        if kind == 0 and not statements:
            return f"!include_try missing{self.files}.conf\n!include_try no-folder/*.conf\n"
        if kind <= 2:
            # A file, by a path that is relative to this file or absolute.
            name = f"file{self.files}.conf"
            target = path.parent / name
            target.write_bytes(self._spread(statements, target, depth + 1).encode())
            shown = self.random.choice((name, str(target), f"../{path.parent.name}/{name}"))
            tail = self.random.choice(("", "  ", " # why"))
            return f"{self._indent()}{word}{self._blank()}{shown}{tail}\n"
        # A pattern, whose order is that of bytes.
        folder = path.parent / f"conf{self.files}.d"
        folder.mkdir()
        names = self.random.sample(
            ["10-a.conf", "9-b.conf", "B.conf", "a.conf", "a-b.conf", "aa.conf", "_.conf", "Z~.conf"],
            max(1, min(len(statements), 8)),
        )
        shares = [statements[number :: len(names)] for number in range(len(names))]
        if self.chance(0.6):
            # All of them set the same: who is last shows.
            service, key = self.random.choice(("imap-login", "imap", "pop3-login")), "client_limit"
            for number, share in enumerate(shares):
                share.append(f"service {service} {{\n  {self.count} = 900\n  {key} = {700 + number}\n}}\n")
        for name, share in zip(names, shares, strict=True):
            target = folder / name
            target.write_bytes(self._spread(share, target, depth + 1).encode())
        (folder / ".hidden.conf").write_text("service imap-login {\n  client_limit = 77\n}\n")
        (folder / "a.conf.bak").write_text("nonsense\n")
        stem = f"conf{self.files}.d"
        pattern = self.random.choice(
            (
                "{d}/*.conf",
                "{d}/*.conf",
                "{d}/?*.conf",
                "{d}/[!.]*.conf",
                "{d}/{{a,B}}*.conf",
                "{d}/[a-z0-9]*.conf",
                "*{n}.d/*.conf",
                "{d}/{{*-*,[AB_]}}.conf",
            )
        ).format(d=stem, n=self.files)
        if self.chance(0.2):
            pattern = f"{path.parent}/{pattern}"
        return f"{word}{self._blank()}{pattern}\n"

    # --- statements --------------------------------------------------------

    def _statement(self) -> str:
        choices: list[tuple[int, Callable[[], str]]] = [
            (10, self._service),
            (3, self._path),
            (3, self._default),
            (2, self._filter),
            (2, self._unrelated),
            (1, self._noise),
        ]
        if not self.old:
            choices.append((2, self._for_all))
        weights, makers = zip(*choices, strict=True)
        return self.random.choices(makers, weights)[0]()

    def _blank(self) -> str:
        return self.random.choice((" ", "\t", "  ", " \t "))

    def _indent(self) -> str:
        return self.random.choice(("", "  ", "\t", "    "))

    def _noise(self) -> str:
        return self.random.choice(
            ("\n", "# comment {\n", "  \t\n", "#service imap {\n#  process_limit = 1\n#}\n", "\t# }\n")
        )

    def _set(self, key: str, value: str) -> str:
        """A line that sets `key`, in one of the many forms."""
        if value and not value.startswith(("<", "$")) and self.chance(0.15):
            quote = self.random.choice("\"'")
            value = f"{quote}{value}{quote}"
        if not self.old and self.chance(0.05):
            key = f'"{key}"'
        equals = self.random.choice((" = ", "=", " =", "= ", "\t=\t", "   =   "))
        if self.chance(0.07):
            equals = self.random.choice((" \\\n = ", " = \\\n   ", "\\\n="))
        tail = self.random.choice(("", "", "", " ", "\t", " # 5", "   # 'x"))
        return f"{self._indent()}{key}{equals}{value}{tail}\n"

    def _number(self, service: str, key: str) -> str:
        choice = self.random.choice
        if key == "vsz_limit":
            sizes = ["512 M", "1G", "64M", "2 GB", "300000 k", "1048576", "1073741824B", "3 gib", "70 mI", "1T"]
            return choice(sizes + (["0"] if self.old else ["unlimited"]))
        if key == "process_min_avail":
            return choice(("0", "1", "1")) if service in _MUST_BE_ALONE else choice(("0", "1", "2", "03"))
        if key == "process_limit":
            if service in _MUST_BE_ALONE and self.chance(0.97):
                return "1"
            numbers = [str(self.random.randint(5, 5000)), "5", "0100", "77"]
            return choice(numbers + (["0"] if self.old else ["unlimited"]))
        numbers = ["1", "2", str(self.random.randint(1, 5000)), "007"]
        return choice(numbers + (["0"] if self.old else ["unlimited"]))

    def _value(self, service: str, key: str) -> str:
        number = self._number(service, key)
        if self.chance(0.05):
            self.files += 1
            name = f"value{self.files}"
            # Absolute, because whoever includes whom is decided later.
            (self.folder / name).write_text(number)
            return f"<{self._blank() if self.chance(0.3) else ''}{self.folder / name}"
        if self.chance(0.1) and key in ("process_limit", "client_limit", "vsz_limit"):
            if service not in _MUST_BE_ALONE or key != "process_limit":
                return f"$default_{key}" if self.old else f"$SET:default_{key}"
        return number

    def _setting(self, service: str) -> str:
        keys = ["process_limit", "client_limit", self.count, "process_min_avail", "vsz_limit"]
        key = self.random.choice(keys)
        value = self._value(service, key)
        if not self.old and self.chance(0.2):
            key = f"service_{key}"
        return self._set(key, value)

    def _service(self, name: str | None = None, listeners: bool = True) -> str:
        service = name or self.random.choice(_SERVICES)
        lines = []
        for _ in range(self.random.randint(0, 4)):
            lines.append(self._setting(service))
            if self.chance(0.1):
                lines.append(self._noise())
            # doveconf 2.4.1 cannot show a group with a listener.
            if listeners and self.chance(0.15):
                lines.append(self._listener())
        if service in ("quota-warning", "own_service"):
            lines.append(self._set("executable", "script /usr/bin/true"))
        shown = f'"{service}"' if self.chance(0.15) else service
        start = f"{self._indent()}service{self._blank()}{shown}{self._blank()}{{{self.random.choice(('', ' ', ' # x'))}\n"
        self.services.append(service)
        return start + "".join(lines) + self._indent() + "}" + self.random.choice(("\n", " \n", " # end\n"))

    def _listener(self) -> str:
        self.files += 1
        kind = self.random.choice(("unix_listener", "fifo_listener"))
        return f"  {kind} made-{self.files} {{\n    mode = 0600\n  }}\n"

    def _path(self) -> str:
        # 2.3 knows only services that it has seen.
        service = self.random.choice([name for name in _SERVICES if name not in ("quota-warning", "own_service")])
        keys = ["process_limit", "client_limit", self.count, "process_min_avail", "vsz_limit"]
        key = self.random.choice(keys)
        value = self._value(service, key)
        prefix = "service_" if not self.old and self.chance(0.3) else ""
        return self._set(f"service/{service}/{prefix}{key}", value)

    def _default(self) -> str:
        key = self.random.choice(("process_limit", "client_limit", "vsz_limit"))
        number = self._number("", key)
        if number in ("0", "unlimited"):
            number = "50 M" if key == "vsz_limit" else "60"
        if self.chance(0.1):
            return self._set(f"default_{key}", f"$default_{key}" if self.old else f"$SET:default_{key}")
        return self._set(f"default_{key}", number)

    def _for_all(self) -> str:
        key = self.random.choice(("client_limit", self.count, "vsz_limit", "process_min_avail"))
        value = "1" if key == "process_min_avail" else self._number("", key)
        return self._set(f"service_{key}", value)

    def _filter(self) -> str:
        kind = self.random.choice(("protocol imap", "protocol !imap", "remote 10.0.0.0/8", "local 127.0.0.1"))
        if not self.old and kind == "protocol !imap":
            kind = "protocol lmtp"
        # 2.4 does not take a service there.
        inner = self._service() if kind.startswith("protocol") and self.chance(0.5 if self.old else 0.05) else ""
        return f"{kind} {{\n  mail_max_userip_connections = 7\n{inner}}}\n"

    def _unrelated(self) -> str:
        return self.random.choice(
            (
                self._set("login_greeting", "Hi # there"),
                'login_greeting = "process_limit = 5 # {"\n',
                "login_greeting = 'it \\' is # {'  # }\n",
                'login_greeting = say "#" or } {\n',
                "login_greeting = a \\\n  b # c\n",
                "mail_max_userip_connections = 5\n",
                "login_greeting =\n",
                # If the # began a comment, nothing would join the two lines.
                "login_greeting = 'a # b' \\\n  default_process_limit = 61\n",
                'login_greeting = "a \\" # b" \\\n  default_client_limit = 62\n',
                "login_greeting = ends with \\\n# this comment, and all is forgotten\n",
            )
        )

    def _protocols(self, names: list[str]) -> str:
        if self.old:
            if self.chance(0.4):
                first, rest = names[:1], names[1:]
                return self._set("protocols", " ".join(first)) + "".join(
                    f"protocols = $protocols {name}\n" for name in rest
                )
            return self._set("protocols", " ".join(names))
        if self.chance(0.4):
            return "protocols {\n" + "".join(f"  {name} = yes\n" for name in names) + "  pop3 = no\n}\n"
        return self._set("protocols", " ".join(names))

    def _with_groups(self, statements: list[str]) -> list[str]:
        if self.chance(0.6):
            return statements
        groups = []
        for name in self.random.sample(("big", "small", "odd"), self.random.randint(1, 3)):
            inner = "".join(
                self._service(self.random.choice(("imap-login", "imap", "lmtp", "pop3-login", "dict")), listeners=False)
                for _ in range(self.random.randint(0, 3))
            )
            groups.append((name, f"group{self._blank()}@lim{self._blank()}{name}{self._blank()}{{\n{inner}}}\n"))
        for name, text in groups:
            statements.insert(self.random.randint(0, len(statements)), text)
        for _ in range(self.random.randint(0, 2)):
            name = self.random.choice(groups)[0]
            statements.insert(self.random.randint(0, len(statements)), self._set("@lim", name))
        return statements

    def _mistake(self) -> str:
        """Something that Dovecot refuses, or might."""
        service = self.random.choice(("imap-login", "imap", "lmtp"))
        inside = [
            "process_limit = x",
            "process_limit =",
            "process_limit = -1",
            "process_limit = 4294967296",
            "process_limit = +5",
            "process_limit = 5 6",
            'process_limit = "5',
            "process_limit = 5k",
            "client_limit = 1.5",
            "vsz_limit = 5 X",
            "vsz_limit = 5",
            "vsz_limit = M",
            "vsz_limit = 18446744073709551615 T",
            "process_limit = <no-such-value",
            "process_min_avail = 6000",
            "process_limit 5",
            "process_limit",
            "}",
            "process_limit = $nothing_at_all",
            "inet_listener imap { port = 143 }",
            "service imap {",
            f"{self.count} = 1\n  name = other",
            "proces_limit = 5" if self.old else "restart_request_count = 0",
            "restart_request_count = 5" if self.old else "service_count = 5",
            "process_limit = unlimited" if self.old else "process_limit = 0",
            "process_limit = %{system:cpu_count}",
        ]
        outside = [
            "service imap-login{\n}",
            "service imap-login {} ",
            "service {\n  process_limit = 5\n}",
            "}",
            "service imap-login",
            "!include no-such-file.conf",
            "!include no-such/*.conf",
            f"!include {self.folder}/dovecot.conf",
            "!include=x.conf",
            "service auth {\n  process_limit = 2\n}",
            "process_limit = 5",
            "service/no-such-service/process_limit = 5" if self.old else "service_service_count = 1",
            "login_max_processes_count = 5" if self.old else "@lim = nowhere",
            "service_process_limit = 5" if self.old else "service_process_limit = 500",
            "protocols = imap nonsense",
            # In 2.3 it might be the first line, and tell us that this is 2.4.
            "dovecot_storage_version = 2.4.0" if self.old else "dovecot_config_version = 2.4.9",
            "service imap-login {",
        ]
        if self.chance(0.6):
            return f"service {service} {{\n  {self.random.choice(inside)}\n}}\n"
        return self.random.choice(outside) + "\n"


def generate(generation: str, seed: int, number: int, folder: Path) -> Iterator[Generated]:
    """`number` configurations below `folder`."""
    generator = Generator(generation, seed)
    for index in range(number):
        yield generator.write(folder / str(index))
