"""`--web.config.file`: takes the files that promtool takes, and does what Prometheus' own server does with them."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import REPOSITORY, Dovecot, Exporter, Prometheus, Server, exporter_path, free_port, wait_until
from web_files import RSA, TLS, Folder, hash_of, run

HASH = hash_of("secret")
CLIENT_CA = "  client_ca_file: ca.pem\n"
AUTH_TYPES = ("NoClientCert", "RequestClientCert", "RequireClientCert", "RequireAnyClientCert",
              "VerifyClientCertIfGiven", "RequireAndVerifyClientCert")  # fmt: skip

GOOD = {
    "nothing": "",
    "a comment": "# nothing yet\n",
    "an empty map": "{}",
    "an empty section": "tls_server_config:\n",
    "empty sections": "tls_server_config: {}\nhttp_server_config: {}\nbasic_auth_users: {}\n",
    "empty names": "tls_server_config: {cert_file: '', key_file: ''}",
    "a pair": TLS,
    "a pair of RSA": TLS.replace("server.", "rsa."),
    "in JSON": '{"tls_server_config": {"cert_file": "server.pem", "key_file": "server.key"}}',
    "an anchor": "tls_server_config:\n  cert_file: &x both.pem\n  key_file: *x\n",
    "a document's marks": f"---\n{TLS}...\n",
    "no certificates": TLS + "  client_auth_type: NoClientCert\n",
    "asked for": TLS + "  client_auth_type: RequestClientCert\n",
    "asked for, with an authority": TLS + "  client_auth_type: RequestClientCert\n" + CLIENT_CA,
    "any": TLS + "  client_auth_type: RequireAnyClientCert\n",
    "any, in old words": TLS + "  client_auth_type: RequireClientCert\n",
    "verified": TLS + "  client_auth_type: RequireAndVerifyClientCert\n" + CLIENT_CA,
    "verified if given": TLS + "  client_auth_type: VerifyClientCertIfGiven\n" + CLIENT_CA,
    "both versions": TLS + "  min_version: TLS12\n  max_version: TLS13\n",
    "1.3 only": TLS + "  min_version: TLS13\n",
    "1.2 only": TLS + "  max_version: TLS12\n",
    "versions without TLS": "tls_server_config: {min_version: TLS13}",
    "suites": TLS + "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n",
    "suites of 1.3": TLS + "  cipher_suites:\n  - TLS_AES_128_GCM_SHA256\n  - TLS_CHACHA20_POLY1305_SHA256\n",
    "curves": TLS + "  curve_preferences: [X25519, CurveP256, CurveP384]\n",
    "the client's preference": TLS + "  prefer_server_cipher_suites: false\n",
    "no HTTP/2": "http_server_config: {http2: false}",
    "HTTP/2": "http_server_config:\n  http2: yes\n",
    "headers": "http_server_config:\n  headers:\n    Content-Security-Policy: default-src 'self'\n"
    "    X-Frame-Options: sameorigin\n    X-Content-Type-Options: nosniff\n    X-XSS-Protection: '1'\n"
    "    Strict-Transport-Security: max-age=9\n",
    "an empty header": "http_server_config: {headers: {X-XSS-Protection: }}",
    "a user": f"basic_auth_users: {{alice: {HASH}}}",
    "users": f"basic_auth_users:\n  alice: {HASH}\n  böb: '{hash_of('x', version='a')}'\n  '': {hash_of('', version='b')}\n",
    "everything": f"{TLS}  client_auth_type: RequestClientCert\nhttp_server_config:\n  http2: true\n"
    f"  headers: {{X-Frame-Options: deny}}\nbasic_auth_users:\n  alice: {HASH}\n",
}
BAD = {
    "an unknown section": "tls_config: {}",
    "an unknown field of TLS": TLS + "  ca_file: ca.pem\n",
    "an unknown field of HTTP": "http_server_config: {http3: true}",
    "a list": "- tls_server_config",
    "a word": "tls_server_config: yes please",
    "a cut": "tls_server_config: {",
    "a tab": "tls_server_config:\n\tcert_file: server.pem\n",
    "no UTF-8": b"basic_auth_users: {\xff: x}",
    "a section twice": "basic_auth_users: {}\nbasic_auth_users: {}\n",
    "a field twice": TLS + "  cert_file: rsa.pem\n",
    "a user twice": f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n",
    "no certificate": "tls_server_config: {key_file: server.key}",
    "no key": "tls_server_config: {cert_file: server.pem}",
    "only clients": "tls_server_config: {client_auth_type: RequireAnyClientCert}",
    "only an authority": "tls_server_config: {client_ca_file: ca.pem}",
    "a certificate that is not there": TLS.replace("server.pem", "gone.pem"),
    "a key that is not there": TLS.replace("server.key", "gone.key"),
    "an authority that is not there": TLS + "  client_auth_type: RequestClientCert\n  client_ca_file: gone.pem\n",
    "a directory": TLS.replace("server.pem", "."),
    "a certificate for a key": TLS.replace("server.key", "server.pem"),
    "a key for a certificate": TLS.replace("server.pem", "server.key"),
    "a key with a passphrase": TLS.replace("server.key", "locked.key"),
    "another's key": TLS.replace("server.key", "client.key"),
    "another kind of key": TLS.replace("server.key", "rsa.key"),
    "an authority and no type": TLS + CLIENT_CA,
    "an unknown type": TLS + "  client_auth_type: requestclientcert\n",
    "an unknown version": TLS + "  min_version: TLS1.2\n",
    "an unknown suite": TLS + "  cipher_suites: [ECDHE-RSA-AES128-GCM-SHA256]\n",
    "one suite": TLS + "  cipher_suites: {TLS_AES_128_GCM_SHA256: 1}\n",
    "an unknown curve": TLS + "  curve_preferences: [P-256]\n",
    "a doubtful truth": "http_server_config: {http2: maybe}",
    "another header": "http_server_config: {headers: {Server: x}}",
    "a header in small letters": "http_server_config: {headers: {x-frame-options: deny}}",
    "a wrong frame": "http_server_config: {headers: {X-Frame-Options: allow}}",
    "a wrong type": "http_server_config: {headers: {X-Content-Type-Options: sniff}}",
    "a password": "basic_auth_users: {alice: secret}",
    "half a hash": f"basic_auth_users: {{alice: {HASH[:50]}}}",
    "a cost too high": f"basic_auth_users: {{alice: {HASH.replace('$05$', '$32$')}}}",
    "another hash": "basic_auth_users: {alice: $apr1$x$y}",
    "users in a list": f"basic_auth_users: [alice, {HASH}]",
    "no hash": "basic_auth_users: {alice: }",
}
SANS = "  client_auth_type: RequireAnyClientCert\n  client_allowed_sans: [prometheus.example.org]\n"
# What we refuse, because it would be less safe than it looks or is not spoken by rustls, though promtool takes it; ...
STRICTER = {
    "TLS 1.0, which rustls does not speak": TLS + "  min_version: TLS10\n",
    "TLS 1.1, likewise": TLS + "  min_version: TLS11\n",
    "no version that it speaks": TLS + "  max_version: TLS11\n",
    "a suite of CBC, likewise": TLS + "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]\n",
    "a suite without ECDHE, likewise": TLS + "  cipher_suites: [TLS_RSA_WITH_AES_128_GCM_SHA256]\n",
    "P-521, likewise": TLS + "  curve_preferences: [CurveP521]\n",
    "a key of P-521, likewise": TLS.replace("server.", "p521."),
    "a certificate of X.509 version 1, which has no names to verify": TLS.replace("server.", "old."),
    "no version between: nobody could connect": TLS + "  min_version: TLS13\n  max_version: TLS12\n",
    "no suite of that version: likewise": TLS + "  max_version: TLS12\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n",
    "no authority: Go would take the system's": TLS + "  client_auth_type: RequireAndVerifyClientCert\n",
    "no authority in the file: nobody could connect": TLS + "  client_auth_type: VerifyClientCertIfGiven\n"
    "  client_ca_file: server.key\n",
    "a cost that keeps everybody waiting": f"basic_auth_users: {{a: {HASH.replace('$05$', '$17$')}}}",
    "a second document, which Go overlooks": f"---\n---\nbasic_auth_users: {{a: {HASH}}}",
}  # fmt: skip
# ... and what we take though this promtool does not: what exporter-toolkit got after it, and one of our YAML's freedoms.
NEWER = {
    "a pair in the file": "tls_server_config:\n  cert: |\n{server.pem}\n  key: |\n{server.key}\n",
    "a pair and an authority in the file": "tls_server_config:\n  cert: |\n{server.pem}\n  key_file: server.key\n"
    "  client_ca: |\n{ca.pem}\n  client_auth_type: RequireAndVerifyClientCert\n",
    "names of clients": TLS + SANS,
    "a rate limit": "rate_limit: {interval: 100ms, burst: 20}",
    "a rate limit that is off": "rate_limit: {interval: 0s}",
    "a truth in quotes": "http_server_config: {http2: 'true'}",
}
# Of the newer fields, what the toolkit refuses as well by its source, or would answer nobody by.
NEWER_BAD = {
    "names of clients who need not show one": TLS + SANS.replace("RequireAny", "Request"),
    "names of clients without TLS": "tls_server_config: {client_allowed_sans: [a]}",
    "an empty list of clients": TLS + SANS.replace("[prometheus.example.org]", "[]"),
    "a broken pair in the file": "tls_server_config: {cert: x, key: y}",
    "no burst": "rate_limit: {interval: 1s}",
    "no time": "rate_limit: {interval: soon, burst: 1}",
}


def judge(file: Path) -> tuple[bool, str]:
    """Whether the exporter starts with that web configuration, and what it says."""
    command = [exporter_path(), f"--web.config.file={file}", "--web.listen-address=127.0.0.1:0", "--dovecot.doveconf=",
               f"--dovecot.log-file={file.parent / 'dovecot.log'}"]  # fmt: skip
    said = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            said.append(line)
            if "listening" in line:
                process.terminate()
                return True, "".join(said)
        return False, f"{''.join(said)}exit code {process.wait(20)}"


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = folder = Folder(cls.enterClassContext)
        folder.issue_all()
        folder.issue("rsa", "subjectAltName=DNS:localhost", key=RSA)
        folder.issue("old")  # without extensions openssl makes version 1
        folder.issue("p521", "subjectAltName=DNS:localhost", key=("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"))
        folder.write("both.pem", (folder / "server.pem").read_bytes() + (folder / "server.key").read_bytes())
        locked = run("openssl", "pkcs8", "-topk8", "-in", folder / "server.key", "-passout", "pass:x")
        folder.write("locked.key", locked.stdout)
        folder.write("dovecot.log", "")

    def both(self, texts: dict[str, str | bytes]) -> dict[str, tuple[bool, bool, str]]:
        """By name the verdicts of promtool and of the exporter, and what the latter says."""
        def text_of(text: str | bytes) -> str | bytes:
            for name in ("server.pem", "server.key", "ca.pem"):
                if isinstance(text, str) and f"{{{name}}}" in text:
                    block = re.sub("^", "    ", (self.folder / name).read_text().strip(), flags=re.M)
                    text = text.replace(f"{{{name}}}", block)
            return text

        files = {name: self.folder.write(f"{i}.yml", text_of(text)) for i, (name, text) in enumerate(texts.items())}
        said = run("promtool", "check", "web-config", *files.values()).stderr.splitlines()
        passed = {line.removesuffix(" SUCCESS") for line in said if line.endswith(" SUCCESS")}
        with ThreadPoolExecutor(3) as pool:
            ours = dict(zip(files, pool.map(judge, files.values())))
        return {name: (str(file) in passed, *ours[name]) for name, file in files.items()}

    def check(self, texts: dict[str, str | bytes], *, promtool: bool, ours: bool) -> None:
        for name, (theirs, own, said) in self.both(texts).items():
            with self.subTest(name):
                self.assertEqual((theirs, own), (promtool, ours), said)
                if not ours:
                    # Which file, and what to do: it follows a colon.
                    self.assertRegex(said, r'reason="[^"\n]*/\d+\.yml(, line \d+)?: .+: .+')
                    self.assertIn("exit code 2", said)
                    self.assertEqual(said.count("\n"), 1, said)

    def test_good(self) -> None:
        self.check(GOOD, promtool=True, ours=True)

    def test_bad(self) -> None:
        self.assertGreaterEqual(len(GOOD) + len(BAD), 50)
        self.check(BAD, promtool=False, ours=False)

    def test_known_differences(self) -> None:
        self.check(STRICTER, promtool=True, ours=False)
        self.check(NEWER, promtool=False, ours=True)
        self.check(NEWER_BAD, promtool=False, ours=False)

    def test_no_file(self) -> None:
        started, said = judge(self.folder / "gone.yml")
        self.assertFalse(started)
        self.assertRegex(said, r"gone\.yml cannot be read .*: correct it or --web\.config\.file")


class Witness(Server):
    """A Prometheus with that web configuration: it has the exporter-toolkit itself."""

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self.address = f"127.0.0.1:{free_port()}"
        folder.write("prometheus.yml", "")
        self.command = [
            *("/usr/bin/prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--web.config.file={folder / 'web.yml'}"),
            *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={self.address}"),
        ]

    def start(self) -> None:
        self._spawn(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: run("curl", "-sk", f"http://{self.address}/").returncode == 0, 30, "Prometheus listens")

    def stop(self) -> None:
        if self.process is not None:
            self._terminate(timeout=20)


def curl(url: str, *flags: str | Path) -> str:
    """The status, and the headers that a web configuration may set; or that there was no answer."""
    done = run("curl", "-s", "--max-time", "20", "-D", "-", "-o", "/dev/null", *flags, url)
    names = r"(?:www-authenticate|content-security-policy|strict-transport-security|x-[a-z-]+)"
    told = {line.lower() for line in done.stdout.splitlines() if re.match(names, line, re.I)}
    # Go's error pages have it even if nobody asks.
    told -= {"x-content-type-options: nosniff"}
    status = re.match(r"HTTP/\S+ (\d+)", done.stdout)
    return " ".join([status[1], *sorted(told)]) if status else "no answer"


class TwinDoors(unittest.TestCase):
    """The exporter and Prometheus by one and the same file, which changes while they run."""

    def twins(self, text: str) -> None:
        self.folder = Folder(self.enterContext)
        self.folder.issue_all()
        self.folder.write("web.yml", text)
        self.exporter = self.enterContext(self.folder.exporter())
        self.witness = self.enterContext(Witness(self.folder))

    def agree(self, scheme: str, *flags: str | Path, tls: bool = True) -> str:
        """What both answer on /-/healthy."""
        trust = ("--cacert", self.folder / "ca.pem") if scheme == "https" else ()
        answers = [
            curl(f"{scheme}://{server.address}/-/healthy", *trust, *flags) for server in (self.exporter, self.witness)
        ]
        self.assertEqual(answers[0], answers[1], flags)
        return answers[0]

    def test_passwords_and_headers(self) -> None:
        passwords = {"alice": "secret", "bob": "a:b", "böb": "pässword", "long": "x" * 72, "none": ""}
        users = "".join(f"  {user}: {hash_of(password)}\n" for user, password in passwords.items())
        headers = GOOD["headers"].replace("'self'", "none")
        self.twins(f"{headers}basic_auth_users:\n{users}  ten: {hash_of('ten', 10)}\n  two: {hash_of('b', version='b')}\n")
        for user, password in {**passwords, "ten": "ten", "two": "b"}.items():
            for given, status in ((password, "200"), (password + "!", "401"), (password[:-1] + "?", "401")):
                # Of what is longer than 72 bytes, bcrypt sees no more.
                if len(given) > 72:
                    continue
                with self.subTest(user, given=given):
                    answer = self.agree("http", "-u", f"{user}:{given}")
                    self.assertTrue(answer.startswith(status), answer)
                    self.assertIn("x-frame-options: sameorigin", answer)
        for flags in ((), ("-u", "nobody:secret"), ("-H", "Authorization: Bearer x"), ("-H", "Authorization: Basic !"),
                      ("-H", "Authorization: basic bm9uZTo=!")):  # fmt: skip
            self.assertIn("401 content-security-policy: default-src none", self.agree("http", *flags))
            self.assertIn("www-authenticate: basic", self.agree("http", *flags))
        # What is not there and what is: all is behind the password.
        for path in ("/metrics", "/", "/nothing"):
            self.assertTrue(curl(f"http://{self.exporter.address}{path}").startswith("401"), path)

        # Changed while they run, ...
        self.folder.write("web.yml", f"basic_auth_users: {{alice: {hash_of('new')}}}")
        self.assertTrue(self.agree("http", "-u", "alice:secret").startswith("401"))
        self.assertTrue(self.agree("http", "-u", "bob:a:b").startswith("401"))
        self.assertEqual(self.agree("http", "-u", "alice:new"), "200")
        # ... broken, gone, and good again.
        for broken in ("no: such", None):
            self.folder.write("web.yml", broken) if broken else (self.folder / "web.yml").unlink()
            self.assertEqual(self.agree("http", "-u", "alice:new"), "500")
            self.assertEqual(self.agree("http"), "500")
        self.folder.write("web.yml", f"basic_auth_users: {{alice: {hash_of('again')}}}")
        self.assertEqual(self.agree("http", "-u", "alice:again"), "200")
        self.assertTrue(self.agree("http").startswith("401"))
        told = [line for line in self.exporter.stderr if "nobody is let in" in line]
        self.assertEqual(len(told), 2, told)
        # Prometheus looks at hashes at its start only; and half a file opens it to everybody.
        for broken in ("basic_auth_users: {alice: again}", "", "http_server_config:\n", "basic_auth_users:\n"):
            (self.folder / "web.yml").write_text(broken)
            self.assertEqual(curl(f"http://{self.exporter.address}/-/healthy"), "500")
        # Who says that nobody is to be asked, means it.
        (self.folder / "web.yml").write_text("basic_auth_users: {}")
        self.assertEqual(self.agree("http"), "200")

    def s_client(self, *flags: str | Path) -> str:
        """What the exporter and openssl agreed on, and "answered" if a request was."""
        request = "GET /-/healthy HTTP/1.0\r\n\r\n"
        connect = ("-connect", self.exporter.address, "-CAfile", self.folder / "ca.pem", "-ign_eof")
        done = run("openssl", "s_client", *connect, *flags, stdin=request)
        return done.stdout + done.stderr

    def test_client_certificates(self) -> None:
        """Each type of client_auth_type, each client, either version."""
        self.twins(TLS)
        expected = {"NoClientCert": (1, 1, 1), "RequestClientCert": (1, 1, 1), "RequireClientCert": (0, 1, 1),
                    "RequireAnyClientCert": (0, 1, 1), "VerifyClientCertIfGiven": (1, 1, 0),
                    "RequireAndVerifyClientCert": (0, 1, 0)}  # fmt: skip
        for kind in AUTH_TYPES:
            ca = "" if kind == "NoClientCert" else CLIENT_CA
            self.folder.write("web.yml", f"{TLS}  client_auth_type: {kind}\n{ca}")
            for client, passes in zip(("", "client", "stranger"), expected[kind]):
                shown = ("--cert", self.folder / f"{client}.pem", "--key", self.folder / f"{client}.key") if client else ()
                shown_too = [str(part).replace("--", "-", 1) for part in shown]
                for version in ("1.2", "1.3"):
                    with self.subTest(kind, client=client, version=version):
                        tls = ("--tlsv1.3",) if version == "1.3" else ("--tls-max", "1.2")
                        self.assertEqual(self.agree("https", *tls, *shown), "200" if passes else "no answer")
                        said = self.s_client(f"-tls{version.replace('.', '_')}", *shown_too)
                        self.assertEqual("HTTP/1.0 200 OK" in said or "HTTP/1.1 200 OK" in said, bool(passes), said)
        # Half a file asks nobody for a certificate, which lets nobody in; who says so, means it.
        for half in (TLS, f"{TLS}  client_auth_type:\n"):
            self.folder.write("web.yml", half)
            self.assertNotIn("200 OK", self.s_client())
        self.folder.write("web.yml", f"{TLS}  client_auth_type: NoClientCert\n")
        self.assertEqual(self.agree("https"), "200")

    def test_chains_and_purposes_of_client_certificates(self) -> None:
        self.twins(f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n{CLIENT_CA}")
        leaf = "basicConstraints=CA:FALSE"
        self.folder.issue("between", "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign", by="ca")
        self.folder.issue("below", leaf, by="between")
        self.folder.issue("forged", leaf, by="client")
        self.folder.issue("of-clients", leaf, "extendedKeyUsage=clientAuth", by="ca")
        self.folder.issue("of-servers", leaf, "extendedKeyUsage=serverAuth", by="ca")
        for name, shown, status in (
            ("below", ("below",), "no answer"),
            ("below", ("below", "between"), "200"),
            ("forged", ("forged", "client"), "no answer"),
            ("stranger", ("stranger", "client"), "no answer"),
            ("of-clients", ("of-clients",), "200"),
            ("of-servers", ("of-servers",), "no answer"),
        ):
            with self.subTest(shown):
                chain = self.folder.write("chain.pem", b"".join((self.folder / f"{part}.pem").read_bytes() for part in shown))
                self.assertEqual(self.agree("https", "--cert", chain, "--key", self.folder / f"{name}.key"), status)

    def test_names_of_clients(self) -> None:
        self.folder = folder = Folder(self.enterContext)
        folder.issue_all()
        folder.issue("nameless", "basicConstraints=CA:FALSE", by="ca")
        folder.write("web.yml", TLS)
        exporter = self.enterContext(folder.exporter())
        names = ("prometheus.example.org", "192.0.2.7", "2001:db8::7", "p@example.org", "spiffe://example.org/p")
        others = ("example.org", "*.example.org", "192.0.2.8", "client", "P@example.org", "")
        for kind, strangers in (("RequireAndVerifyClientCert", False), ("RequireAnyClientCert", True)):
            for name in (*names, *others):
                text = f"{TLS}{CLIENT_CA}  client_auth_type: {kind}\n  client_allowed_sans: [x, '{name}']\n"
                folder.write("web.yml", text)
                for client, passes in (("client", name in names), ("stranger", strangers and name in names),
                                       ("nameless", False)):  # fmt: skip
                    with self.subTest(kind, name=name, client=client):
                        pair = ("--cert", folder / f"{client}.pem", "--key", folder / f"{client}.key")
                        url = f"https://{exporter.address}/-/healthy"
                        answer = curl(url, "--cacert", folder / "ca.pem", *pair)
                        self.assertEqual(answer, "200" if passes else "no answer")
        # Half a file names nobody, which is not everybody.
        folder.write("web.yml", f"{TLS}{CLIENT_CA}  client_auth_type: RequireAnyClientCert\n  client_allowed_sans:\n")
        self.assertEqual(curl(url, "--cacert", folder / "ca.pem", *pair), "no answer")

    def test_versions_suites_and_curves(self) -> None:
        self.twins(TLS)
        old = ("-cipher", "ALL:@SECLEVEL=0")
        aes128, chacha = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"
        suites = "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n"
        for settings, flags, found in (
            ("", (), "TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384"),
            ("", ("-tls1_2",), "TLSv1.2, Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"),
            ("", ("-tls1_1", *old), None),
            ("", ("-tls1", *old), None),
            ("", ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"), None),
            ("  min_version: TLS13\n", ("-tls1_3",), "TLSv1.3, Cipher is"),
            ("  min_version: TLS13\n", ("-tls1_2",), None),
            ("  max_version: TLS12\n", (), "TLSv1.2, Cipher is"),
            ("  max_version: TLS12\n", ("-tls1_3",), None),
            (suites, ("-tls1_2",), f"TLSv1.2, Cipher is {aes128}"),
            (suites, ("-tls1_2", "-cipher", chacha), None),
            (suites, (), "TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384"),
            ("  prefer_server_cipher_suites: true\n", ("-tls1_2", "-cipher", f"{chacha}:{aes128}"), f"is {aes128}"),
            ("  prefer_server_cipher_suites: false\n", ("-tls1_2", "-cipher", f"{chacha}:{aes128}"), f"is {chacha}"),
            ("", (), "Server Temp Key: X25519"),
            ("  curve_preferences: [CurveP384]\n", (), "Server Temp Key: ECDH, secp384r1"),
            ("  curve_preferences: [CurveP384]\n", ("-tls1_2",), "Server Temp Key: ECDH, secp384r1"),
            ("  curve_preferences: [CurveP256, CurveP384]\n", ("-groups", "X25519:P-256"), "Server Temp Key: ECDH, prime256v1"),
            ("  curve_preferences: [CurveP384]\n", ("-groups", "X25519"), None),
        ):  # fmt: skip
            with self.subTest(settings, flags=flags):
                self.folder.write("web.yml", TLS + settings)
                said = self.s_client(*flags)
                if found:
                    self.assertIn(found, said)
                    self.assertIn("Verification: OK", said)
                    self.assertIn("200 OK", said)
                else:
                    self.assertRegex(said, "alert|Cipher is \\(NONE\\)")
                    self.assertNotIn("200 OK", said)

    def test_changes_of_tls(self) -> None:
        self.twins(TLS)
        self.assertEqual(self.agree("https"), "200")
        # HTTP at the door of TLS, in the same words.
        said = [run("curl", "-si", f"http://{server.address}/metrics").stdout for server in (self.exporter, self.witness)]
        for text in said:
            self.assertRegex(text, r"\AHTTP/1\.\d 400 Bad Request\n")
            self.assertEqual(text.partition("\n\n")[2], "Client sent an HTTP request to an HTTPS server.\n")
        # Not even the old certificate, once the file cannot be used.
        for broken in (TLS + "  min_version: TLS9\n", TLS.replace("server.", "gone."), "", None):
            with self.subTest(broken):
                self.folder.write("web.yml", broken) if broken is not None else (self.folder / "web.yml").unlink()
                self.assertEqual(self.agree("https"), "no answer")
                self.assertIn("internal error", self.s_client())
        self.folder.write("web.yml", TLS + "http_server_config: {headers: {X-Frame-Options: deny}}\n")
        self.assertEqual(self.agree("https"), "200 x-frame-options: deny")


class Scrapes(unittest.TestCase):
    def test_healthcheck(self) -> None:
        """Where TLS and passwords are asked for, of which it has none."""
        folder = Folder(self.enterContext)
        folder.issue_all()
        users = f"basic_auth_users: {{alice: {HASH}}}\n"
        for text in (users, f"{TLS}  client_auth_type: RequireAnyClientCert\n{users}"):
            folder.write("web.yml", text)
            exporter = self.enterContext(folder.exporter())
            check = (exporter_path(), "healthcheck", f"--web.listen-address={exporter.address}")
            with self.subTest(text):
                self.assertEqual(run(*check).returncode, 0)
                exporter.stop()
                self.assertNotEqual(run(*check).returncode, 0)

    def test_prometheus(self) -> None:
        """Over TLS of either side, with a password, at the least that a careful file allows."""
        folder = Folder(self.enterContext)
        folder.issue_all()
        folder.write(
            "web.yml",
            f"{TLS}{CLIENT_CA}  client_auth_type: RequireAndVerifyClientCert\n  min_version: TLS13\n"
            f"  client_allowed_sans: [prometheus.example.org]\nbasic_auth_users: {{prometheus: {hash_of('secret', 10)}}}\n",
        )
        dovecot = self.enterContext(Dovecot("2.3"))
        exporter = self.enterContext(Exporter(dovecot, f"--web.config.file={folder / 'web.yml'}"))
        pair = {"cert_file": str(folder / "client.pem"), "key_file": str(folder / "client.key")}
        scrape = {
            "scheme": "https",
            "tls_config": {"ca_file": str(folder / "ca.pem"), **pair},
            "basic_auth": {"username": "prometheus", "password": "secret"},
        }
        server = self.enterContext(Prometheus([exporter.address], scrape=scrape))
        limit = 'dovecot_service_process_limit{service="imap-login"}'
        wait_until(lambda: server.query(limit), 30, "a scrape")
        self.assertEqual(server.query(limit)[0][1], 100)
        self.assertEqual([target["lastError"] for target in server.targets().values()], [""])
        code, seconds = exporter.stop()
        self.assertEqual(code, 0)

    def test_rate_limit(self) -> None:
        """Before all else: not even a password is looked at, nor are headers given."""
        folder = Folder(self.enterContext)
        folder.write(
            "web.yml",
            f"rate_limit: {{interval: 1h, burst: 3}}\nhttp_server_config: {{headers: {{X-Frame-Options: deny}}}}\n"
            f"basic_auth_users: {{alice: {HASH}}}\n",
        )
        exporter = self.enterContext(folder.exporter())
        url = f"http://{exporter.address}/metrics"
        self.assertEqual(curl(url, "-u", "alice:secret"), "200 x-frame-options: deny")
        refused = "401 www-authenticate: basic x-frame-options: deny"
        self.assertEqual([curl(url) for _ in range(4)], [refused, refused, "429", "429"])
        self.assertEqual(curl(url, "-u", "alice:secret"), "429")


class Documentation(unittest.TestCase):
    """The section of docs/install.md, from the first command to Prometheus' scrape."""

    def setUp(self) -> None:
        text = (REPOSITORY / "docs/install.md").read_text()
        section = text.partition("## TLS, passwords and headers\n")[2].partition("\n## ")[0]
        self.scrape = re.search(r"^```yaml\n(.*?)^```", section, re.M | re.S)[1]
        prose = re.sub(r"^```.*?^```", "", section, flags=re.M | re.S)
        self.commands = [line[4:] for line in prose.splitlines() if line.startswith("    ")]
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="web-")))

    def shell(self, command: str, password: str = "") -> str:
        """Runs a command in the directory, at a terminal where somebody types the password whenever it is asked for."""
        ours, theirs = pty.openpty()
        said = ""
        with subprocess.Popen(
            ["setsid", "--ctty", "--wait", "sh", "-c", command],
            cwd=self.folder, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True,
        ) as process:  # fmt: skip
            asked = 0

            def ended() -> bool:
                nonlocal said, asked
                while select.select([ours], [], [], 0)[0]:
                    said += os.read(ours, 4096).decode()
                if len(re.findall("password.*:", said)) > asked:
                    asked += 1
                    os.write(ours, f"{password}\n".encode())
                return process.poll() is not None

            wait_until(ended, 60, command)
            printed = process.stdout.read()
        os.close(ours)
        os.close(theirs)
        self.assertEqual(process.returncode, 0, f"{command}: {printed}{said}")
        return printed

    def test_from_the_first_command_to_a_scrape(self) -> None:
        *making, htpasswd, check, start, curl = self.commands
        self.assertEqual(len(making), 3)
        for command in making:
            self.shell(command)
        hash_ = self.shell(htpasswd, "secret")
        self.assertRegex(hash_, r"\A\$2y\$10\$[./A-Za-z0-9]{53}\Z")
        example = (REPOSITORY / "examples/web-config.yml").read_text()
        self.assertIn(htpasswd, example)
        config, replaced = re.subn(r"(?<=prometheus: )\$2y\S+", lambda _: hash_, example)
        self.assertEqual(replaced, 1)
        for text in (example, config):
            (self.folder / "web-config.yml").write_text(text)
            self.shell(check)
        # This promtool is too old for that field.
        (self.folder / "web-config.yml").write_text(config.replace("# client_allowed", "client_allowed"))
        program, flag = start.split()
        self.assertEqual(program, exporter_path().name)
        exporter = self.enterContext(
            Exporter(None, flag.replace("=", f"={self.folder}/"), "--dovecot.doveconf=", "--dovecot.log-file=/dev/null")
        )
        port = exporter.address.rpartition(":")[2]
        page = self.shell(curl.replace("9166", port), "secret")
        self.assertIn("dovecot_exporter_build_info", page)

        (self.folder / "password").write_text("secret")
        (self.folder / "prometheus.yml").write_text(self.scrape)
        self.shell("promtool check config prometheus.yml")
        # As it stands, but for the address and the paths, which would be Prometheus' own.
        job = self.scrape.replace("mail.example.org:9166", exporter.address).replace("ca_file", "server_name: mail.example.org\n      ca_file")
        job = re.sub(r"(?<=_file: )(\S+)", rf"{self.folder}/\1", job).replace("job_name: dovecot", "job_name: dovecot\n    scrape_interval: 1s")
        server = self.enterContext(Prometheus([]))
        server.config.write_text(job)
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: server.query("dovecot_exporter_build_info"), 30, "a scrape")

    def test_look(self) -> None:
        """`status --from` through TLS of an authority of our own, with the password in the URL."""
        folder = Folder(self.enterContext)
        folder.issue_all()
        folder.write("web.yml", f"{TLS}basic_auth_users: {{alice: {HASH}}}\n")
        dovecot = self.enterContext(Dovecot("2.3"))
        exporter = self.enterContext(Exporter(dovecot, f"--web.config.file={folder / 'web.yml'}"))
        port = exporter.address.rpartition(":")[2]

        def status(user: str) -> str:
            look = run("env", f"SSL_CERT_FILE={folder / 'ca.pem'}", exporter_path(), "status", f"--from=https://{user}localhost:{port}")
            return look.stdout + look.stderr

        self.assertIn("Nothing is wrong.", status("alice:secret@"))
        for user in ("", "alice:wrong@"):
            self.assertIn("asks for a password: give --from", status(user))
            self.assertNotIn(":wrong", status(user))


if __name__ == "__main__":
    unittest.main()
