#!/usr/bin/env python3
"""Makes a realistic Dovecot log for benchmarks: make_log.py PATH [BYTES]

Nearly all lines are logins and disconnects of users (mean about 168 bytes); one in 10,000 is the master's warning that
imap-login reached its process_limit. The same BYTES (default 500,000,000) give the same file: one block of lines is
made with a fixed seed and then repeated, each time as another minute. Ends with the last whole line that fits.
Prints the number of lines, of warnings and of bytes.
"""
import datetime
import random
import string
import sys

BLOCK_LINES = 20_000
WARNING_EVERY = 10_000
MINUTE = b"Nov 23 00:00:"
START = datetime.datetime(2026, 11, 23)
WARNING = "master: Warning: service(imap-login): process_limit (100) reached, client connections are being dropped"


def line(pick: random.Random) -> str:
    """One ordinary line, without its time."""
    user = f"{pick.choice(NAMES)}{pick.randrange(1000)}"
    pid = pick.randrange(1000, 4_000_000)
    session = "".join(pick.choices(string.ascii_letters + string.digits + "+/", k=16))
    kind = pick.random()
    if kind < 0.75:
        rip = ".".join(str(pick.randrange(1, 255)) for _ in range(4))
        if kind < 0.45:
            return (f"imap-login: Info: Login: user=<{user}>, method=PLAIN, rip={rip}, lip=198.51.100.7, "
                    f"mpid={pid}, TLS, session=<{session}>")
        return (f"imap-login: Info: Disconnected: Connection closed (no auth attempts in {pick.randrange(60)} secs): "
                f"user=<>, rip={rip}, lip=198.51.100.7, TLS, session=<{session}>")
    read, sent = pick.randrange(50, 5_000), pick.randrange(500, 2_000_000)
    if pick.random() < 0.7:
        why = "Logged out"
    else:
        secs = f"{pick.randrange(1, 1800)}.{pick.randrange(1000):03}"
        why = f"Connection closed (IDLE finished {secs} secs ago)"
    return (f"imap({user})<{pid}><{session}>: Info: Disconnected: {why} in={read} out={sent} deleted=0 expunged=0 "
            f"trashed=0 hdr_count={pick.randrange(9)} hdr_bytes={pick.randrange(4_000)} "
            f"body_count={pick.randrange(20)} body_bytes={pick.randrange(90_000)}")


NAMES = ["anna.berger", "b.castillo", "chen", "dana@example.com", "e.fischer@example.org", "info@example.net", "jo",
         "lena.hofmann@example.com", "m.okafor", "office", "p.rossi@example.org", "sales@example.com", "t.virtanen"]


def block() -> bytes:
    """The lines of one minute."""
    pick = random.Random(9166)
    lines = []
    for number in range(BLOCK_LINES):
        text = WARNING if number % WARNING_EVERY == WARNING_EVERY // 2 else line(pick)
        lines.append(b"%s%02d %s\n" % (MINUTE, number * 60 // BLOCK_LINES, text.encode()))
    return b"".join(lines)


def main() -> None:
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit("usage: make_log.py PATH [BYTES]   (a PATH that begins with - is written ./-)")
    left = int(sys.argv[2]) if len(sys.argv) == 3 else 500_000_000
    first = block()
    lines = warnings = size = minute = 0
    with open(sys.argv[1], "wb") as out:
        while left > 0:
            now = START + datetime.timedelta(minutes=minute)
            part = first.replace(MINUTE, now.strftime("%b %d %H:%M:").encode())
            if len(part) > left:
                part = part[: part.rfind(b"\n", 0, left) + 1]
                left = 0
            out.write(part)
            lines += part.count(b"\n")
            warnings += part.count(WARNING.encode())
            size += len(part)
            left -= min(left, len(part))
            minute += 1
    print(f"lines {lines}\nwarnings {warnings}\nbytes {size}")


if __name__ == "__main__":
    main()
