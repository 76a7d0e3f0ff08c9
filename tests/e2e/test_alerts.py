"""The alert rules by themselves: what promtool and amtool say, their unit tests, and what each alert must have.

The cases are in tests/alerts, one file for each subject. Only those of DovecotServiceLimitPredicted, which need
weeks, are made here. What comes of them between real servers is tested where real incidents are played.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lab
from lab import REPOSITORY, Prometheus, wait_until

ALERTS = REPOSITORY / "alerts"
RULES = ALERTS / "dovecot.rules.yml"
ALERTMANAGER = ALERTS / "alertmanager.yml"
CASES = sorted((REPOSITORY / "tests/alerts").glob("*.yml"))
KINDS = {"fires", "quiet", "edge", "restart", "absent"}
PREDICTED = "DovecotServiceLimitPredicted"
PATIENCE = 60


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def rules() -> list[dict[str, Any]]:
    """The rules as Prometheus itself reads them."""
    with Prometheus([], rules=[RULES]) as server:
        return [rule for group in server.api("rules")["groups"] for rule in group["rules"]]


# --- The course of weeks --------------------------------------------------------
#
# Hour 0 is the beginning of a Monday. Each host has one imap-login with room for CAPACITY clients.

CAPACITY = 100
STEP = 0.25  # hours between two scrapes and between two evaluations
WEEK = 7 * 24
Course = Callable[[float], float]


def day(hour: float, high: float) -> float:
    """20 at night, up to `high` from 6 to 10 o'clock, down again from 18 to 22."""
    hour %= 24
    up = min(max((hour - 6) / 4, 0), 1) - min(max((hour - 18) / 4, 0), 1)
    return 20 + (high - 20) * up


def week(high: float, holidays: range = range(0)) -> Course:
    """Five such days and two quiet ones; `holidays` are days, counted from the first, that are like a Sunday."""

    def course(hour: float) -> float:
        number = math.floor(hour / 24)
        return day(hour, 30 if number % 7 >= 5 or number in holidays else high)

    return course


def growing(high: float) -> Course:
    """Weeks each of which has a tenth more than the one before."""
    return lambda hour: week(high * 1.1 ** (hour / WEEK))(hour)


def leaking(high: float, since: float, rate: float) -> Course:
    """Connections that are not closed any more: `rate` in an hour on top of the ordinary."""
    return lambda hour: week(high)(hour) + max(hour - since, 0) * rate


def flat_then(level: float, since: float, rate: float) -> Course:
    return lambda hour: level + max(hour - since, 0) * rate


def reached(course: Course, weeks: float) -> float:
    """The hour at which it fills the capacity."""
    hours = (step * STEP for step in range(int(weeks * WEEK / STEP)))
    return next(hour for hour in hours if course(hour) >= CAPACITY)


def labels(host: str) -> str:
    return f'{{job="dovecot",instance="{host}",service="imap-login"}}'


def series(name: str, host: str, course: Course, weeks: float, gap: range = range(0)) -> dict[str, str]:
    """A promtool series; in the steps of `gap` there is no exporter."""
    values = [
        ("stale" if step == gap.start else "_") if step in gap else f"{course(step * STEP):.6g}"
        for step in range(int(weeks * WEEK / STEP) + 1)
    ]
    return {"series": f"{name}{labels(host)}", "values": " ".join(values)}


def host(
    name: str, clients: Course, weeks: float, capacity: Course = lambda _: CAPACITY, gap: range = range(0)
) -> list[dict[str, str]]:
    return [
        series("dovecot_service_connections", name, clients, weeks, gap),
        series("dovecot_service_connection_capacity", name, capacity, weeks, gap),
    ]


def group(kind: str, title: str, hosts: list[list[dict[str, str]]], **tests: Any) -> dict[str, Any]:
    return {
        "name": f"{PREDICTED} {kind}: {title}",
        "interval": f"{STEP * 60:.0f}m",
        "input_series": [one for of_host in hosts for one in of_host],
        **tests,
    }


def at(hour: float) -> str:
    return f"{hour * 60:.0f}m"


def alerts(host: str, horizon: str, state: str = "firing") -> str:
    return f'ALERTS{{alertname="{PREDICTED}",instance="{host}",horizon="{horizon}",alertstate="{state}"}}'


def never(expression: str, weeks: float) -> dict[str, Any]:
    ever = f"count_over_time({expression}[{weeks * WEEK:.0f}h])"
    return {"expr": ever, "eval_time": at(weeks * WEEK), "exp_samples": []}


def true_at(expression: str, hour: float, present: bool) -> dict[str, Any]:
    samples = [{"labels": "{}", "value": 1}] if present else []
    return {"expr": f"count({expression})", "eval_time": at(hour), "exp_samples": samples}


def first(expression: str, weeks: float, after: float, before: float) -> dict[str, Any]:
    """That `expression` is there first between the two hours."""
    hour = f"min_over_time(timestamp({expression})[{weeks * WEEK:.0f}h:{STEP * 60:.0f}m]) / 3600"
    return {
        "expr": f"count({hour} > {after} < {before})",
        "eval_time": at(weeks * WEEK),
        "exp_samples": [{"labels": "{}", "value": 1}],
    }


def text(name: str, horizon: str, hour: float, summary: str, description: str) -> dict[str, Any]:
    where = f"var-job=dovecot&var-instance={name}&var-service=imap-login&from=now-14d"
    return {
        "alertname": PREDICTED,
        "eval_time": at(hour),
        "exp_alerts": [
            {
                "exp_labels": {
                    "severity": "warning",
                    "horizon": horizon,
                    "job": "dovecot",
                    "instance": name,
                    "service": "imap-login",
                },
                "exp_annotations": {
                    "summary": summary,
                    "description": description,
                    "runbook_url": f"https://runbook.example.org/runbook.md#{PREDICTED.lower()}",
                    "dashboard_url": f"https://grafana.example.org/d/dovecot-capacity-host?{where}",
                },
            }
        ],
    }


def growth() -> list[dict[str, Any]]:
    """A tenth a week, from 72 in the first."""
    weeks = 4
    clients = growing(72)
    full = reached(clients, weeks)
    raised = full - 12  # the night before
    # Steps from week to week, so that the text tells whole numbers: 80, 88, and 97 in the fourth.
    highs = [72, 80, 88, 97]
    steps: Course = lambda hour: week(highs[min(int(hour // WEEK), 3)])(hour)
    wednesday = 3 * WEEK + 48 + 16
    todays, before = highs[3], highs[2]
    gain = todays - before
    return [
        group(
            "fires",
            "growth by a tenth a week, days ahead, and until there is more room",
            [
                host("grows", clients, weeks),
                host("raised", clients, weeks, lambda hour: CAPACITY if hour < raised else 2 * CAPACITY),
            ],
            promql_expr_test=[
                first(alerts("grows", "1w"), weeks, after=full - WEEK, before=full - 4 * 24),
                true_at(alerts("raised", "1w"), raised - STEP, True),
                # Kept for three hours.
                true_at(alerts("raised", "1w"), raised + 3 - STEP, True),
                true_at(alerts("raised", "1w"), raised + 3 + STEP, False),
                never(alerts("grows", "4h"), full / WEEK - 1),
            ],
        ),
        group(
            "fires",
            "and tells for how many",
            [host("steps", steps, weeks)],
            alert_rule_test=[
                text(
                    "steps",
                    "1w",
                    wednesday,
                    "A service of Dovecot will reach its limit within a week.",
                    f"imap-login on steps served up to {todays} clients in the last day and can take {CAPACITY}. If it "
                    f"gains in a week what it gained in the last, it will need room for {todays + gain}.",
                )
            ],
            promql_expr_test=[
                # 88 and 8 more are 96: not yet.
                never(alerts("steps", "1w"), 3),
                never(alerts("steps", "4h"), 3),
            ],
        ),
    ]


def leak() -> list[dict[str, Any]]:
    """From seven o'clock on the fourth Tuesday, eight an hour, on a day that has 60 at ten."""
    weeks = 3.5
    since = 3 * WEEK + 24 + 7
    clients = leaking(60, since, 8)
    full = reached(clients, weeks)
    at_half_past_nine = since + 2.5
    now = clients(at_half_past_nine)
    # What is usual at half past one, what is too many now, and four hours more of that.
    needed = 60 + 2.5 * 8 + 4 * 8
    return [
        group(
            "fires",
            "a leak in the morning, hours ahead",
            [host("leaks", clients, weeks)],
            alert_rule_test=[
                text(
                    "leaks",
                    "4h",
                    at_half_past_nine,
                    "A service of Dovecot will reach its limit within hours.",
                    f"imap-login on leaks served up to {now:.0f} clients in the last hour and can take {CAPACITY}. "
                    "Going by the same day of the last two weeks and by today's course it will need room for "
                    f"{needed:.0f} in four hours.",
                )
            ],
            promql_expr_test=[first(alerts("leaks", "4h"), weeks, after=since, before=full - 2)],
        )
    ]


def edges() -> list[dict[str, Any]]:
    weeks = 3.5
    tuesday = 3 * WEEK + 24

    def since_tuesday(before: float, then: float) -> Course:
        return lambda hour: week(before if hour < tuesday else then)(hour)

    # Usually 40, and from eight o'clock two more every quarter of an hour: 40 + 8 h + 4 * 8 are 100 when h is 3.5.
    ramp = tuesday + 8
    # Usually 18, and four more every quarter: 100 were predicted before half of 100 is there, at h = 2.
    half = tuesday + 8
    # It was above 80 at half past nine, 31 hours before.
    second_day = tuesday + 9.5 + 31
    return [
        group(
            "edge",
            "90 after 80 will be 100 if it was so the day before, 89.5 after 80 will be 99; three hours",
            [
                host("reaches", since_tuesday(80, 90), weeks),
                host("below", since_tuesday(80, 89.5), weeks),
            ],
            promql_expr_test=[
                true_at(alerts("reaches", "1w", "pending"), second_day - STEP, False),
                true_at(alerts("reaches", "1w", "pending"), second_day, True),
                true_at(alerts("reaches", "1w", "pending"), second_day + 3 - STEP, True),
                true_at(alerts("reaches", "1w"), second_day + 3, True),
                never(f'ALERTS{{alertname="{PREDICTED}",instance="below"}}', weeks),
            ],
        ),
        group(
            "edge",
            "100 in four hours, from half the capacity on; an hour and a quarter, and half an hour on",
            [
                host("ramp", flat_then(40, ramp, 8), weeks, lambda hour: CAPACITY if hour < ramp + 6 else 2 * CAPACITY),
                host("half", flat_then(18, half, 16), weeks),
            ],
            promql_expr_test=[
                true_at(alerts("ramp", "4h", "pending"), ramp + 3.5 - STEP, False),
                true_at(alerts("ramp", "4h", "pending"), ramp + 3.5, True),
                true_at(alerts("ramp", "4h", "pending"), ramp + 4.75 - STEP, True),
                true_at(alerts("ramp", "4h"), ramp + 4.75, True),
                true_at(alerts("ramp", "4h"), ramp + 6.5 - STEP, True),
                true_at(alerts("ramp", "4h"), ramp + 6.5, False),
                true_at(alerts("half", "4h", "pending"), half + 2 - STEP, False),
                true_at(alerts("half", "4h", "pending"), half + 2, True),
            ],
        ),
    ]


def quiet() -> list[dict[str, Any]]:
    weeks = 4.0
    rush = 3 * WEEK + 24 + 11  # on a Tuesday at eleven

    def rushing(clients: float, hours: float) -> Course:
        return lambda hour: week(60)(hour) + (clients if rush <= hour < rush + hours else 0)

    # Full within five quarters of an hour, for an hour and three quarters.
    cure = rush + 3

    def filled(hour: float) -> float:
        return min(CAPACITY, 40 + max(0, hour - rush) * 48) if hour < cure else CAPACITY + 10

    return [
        group(
            "quiet",
            "flat, a week like the others, holidays, a rush, a new host",
            [
                host("flat", lambda _: 95, weeks),
                host("full", lambda _: CAPACITY, weeks),
                host("weekly", week(95), weeks),
                # Up and down by three, a quarter of an hour each.
                host("trembling", lambda hour: week(80)(hour) + 3 * math.sin(hour * 77), weeks),
                # A Tuesday a week ago; a week of holidays; a long weekend from Friday to Monday.
                host("holiday", week(85, holidays=range(15, 16)), weeks),
                host("holidays", week(85, holidays=range(14, 21)), weeks),
                host("easter", week(85, holidays=range(11, 15)), weeks),
                # Six days old, and filled from day to day.
                host("new", lambda hour: week(20 + (hour - 22 * 24) / 2)(hour), weeks, gap=range(int(22 * 24 / STEP))),
            ],
            promql_expr_test=[never(f'ALERTS{{alertname="{PREDICTED}",alertstate="firing"}}', weeks)],
        ),
        group(
            "quiet",
            "who was full and has more room now has been told before",
            [host("cured", filled, weeks, lambda hour: CAPACITY if hour < cure else 2 * CAPACITY)],
            promql_expr_test=[
                true_at(alerts("cured", "4h", "pending"), rush + 1, True),
                never(alerts("cured", "4h"), weeks),
            ],
        ),
        group(
            "quiet",
            "who fills in eight days has not been seen growing in a week",
            [host("young", lambda hour: week(20 + (hour - 17.5 * 24) / 2.5)(hour), 26 / 7, gap=range(int(17.5 * 24 / STEP)))],
            promql_expr_test=[never(alerts("young", "1w"), 26 / 7)],
        ),
        group(
            "quiet",
            "a rush of three quarters of an hour is nothing that grows",
            [
                host("rush", rushing(15, 0.75), weeks),
                # Twice 85 less 60 are 110: it would be growth if it were so each day.
                host("bigger", rushing(25, 0.75), weeks),
                host("longer", rushing(25, 2.5), weeks),
            ],
            promql_expr_test=[
                # It would be 60 + 15 + 4 * 15.
                true_at(alerts("rush", "4h", "pending"), rush, True),
                never(f'ALERTS{{alertname="{PREDICTED}",alertstate="firing"}}', weeks),
            ],
        ),
    ]


def restarts() -> list[dict[str, Any]]:
    weeks = 3.5
    since = 3 * WEEK + 24 + 7
    away = int((since + 3) / STEP)
    week_ago = int(WEEK / STEP)
    return [
        group(
            "restart",
            "the exporter is away for half an hour, now and a week ago",
            [
                host("now", leaking(60, since, 8), weeks, gap=range(away, away + 2)),
                host("then", leaking(60, since, 8), weeks, gap=range(away - week_ago, away - week_ago + 2)),
                # Dovecot and exporter, an hour, on a Tuesday whose other hours were as ever.
                host("calm", week(85), weeks, gap=range(away, away + 4)),
            ],
            promql_expr_test=[
                true_at(alerts("now", "4h"), since + 3 - STEP, True),
                true_at(alerts("now", "4h"), since + 3 + STEP, True),
                true_at(alerts("now", "4h"), since + 4, True),
                true_at(alerts("then", "4h"), since + 3.25, True),
                never(f'ALERTS{{alertname="{PREDICTED}",instance="calm"}}', weeks),
            ],
        )
    ]


def missing() -> list[dict[str, Any]]:
    weeks = 3.5
    since = 3 * WEEK + 24 + 7
    return [
        group(
            "absent",
            "no clients, or no capacity",
            [host("blind", leaking(60, since, 8), weeks)[1:], host("limitless", leaking(60, since, 8), weeks)[:1]],
            promql_expr_test=[never(f'ALERTS{{alertname="{PREDICTED}"}}', weeks)],
        )
    ]


def pace(order: list[str]) -> dict[str, Any]:
    """A week ahead as Prometheus evaluates it, each three hours; `order` is that of the groups within a turn."""
    weeks = 4
    grows = growing(72)
    full = reached(grows, weeks)
    tuesday = 3 * WEEK + 24

    def one_day(hour: float) -> float:
        return 85 if tuesday + 8 <= hour < tuesday + 16 else week(60)(hour)

    raised = full - 12

    def input_series(name: str, course: Course, capacity: Course = lambda _: CAPACITY) -> list[dict[str, str]]:
        hourly: Course = lambda hour: max(course(hour - back * STEP) for back in range(5))
        return [
            series("instance_service:dovecot_service_clients:max1h", name, hourly, weeks),
            series("instance_service:dovecot_service_clients:capacity", name, capacity, weeks),
        ]

    one = group(
        "fires",
        f"at its own pace, {' '.join(order)}",
        [
            input_series("grows", grows),
            input_series("raised", grows, lambda hour: CAPACITY if hour < raised else 2 * CAPACITY),
            input_series("day", one_day),
        ],
        promql_expr_test=[
            first(alerts("grows", "1w"), weeks, after=full - WEEK, before=full - 4 * 24),
            # As docs/runbook.md says.
            true_at(alerts("raised", "1w"), raised - raised % 3, True),
            true_at(alerts("raised", "1w"), raised + 6 - raised % 3, False),
            never(alerts("day", "1w"), weeks),
        ],
    )
    return {"rule_files": [str(RULES)], "evaluation_interval": "3h", "group_eval_order": order, "tests": [one]}


def weeks_of_tests() -> dict[str, Any]:
    return {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{STEP * 60:.0f}m",
        # The second needs what the first has just recorded: a quarter of an hour later it is too old.
        "group_eval_order": [
            "dovecot_clients",
            "dovecot_capacity_trend",
            "dovecot_capacity_hours",
            "dovecot_capacity_4h",
            "dovecot_capacity_week",
            "dovecot_capacity_days",
            "dovecot_capacity_growth",
            "dovecot_capacity_1w",
        ],
        "tests": [*growth(), *leak(), *edges(), *quiet(), *restarts(), *missing()],
    }


# --- Tests --------------------------------------------------------------------


class Promtool(unittest.TestCase):
    def test_check(self) -> None:
        check = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", RULES)
        self.assertEqual((check.returncode, check.stderr), (0, ""), check.stdout)

    def test_cases(self) -> None:
        self.assertTrue(CASES)
        for path in CASES:
            with self.subTest(path.name):
                test = run("promtool", "test", "rules", path)
                self.assertEqual(test.returncode, 0, test.stdout + test.stderr)

    def test_weeks(self) -> None:
        weeks = weeks_of_tests()
        for one in weeks["tests"]:
            with self.subTest(one["name"]), tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "weeks.yml"
                path.write_text(json.dumps({**weeks, "tests": [one]}))  # JSON is YAML
                test = run("promtool", "test", "rules", path)
                self.assertEqual(test.returncode, 0, test.stdout + test.stderr)


    def test_pace(self) -> None:
        """Which group comes first in a turn, Prometheus takes from their names; promtool heeds no interval of a group."""
        order = [f"dovecot_capacity_{name}" for name in ("week", "days", "growth", "1w")]
        for one in pace(order), pace(order[::-1]):
            with self.subTest(one["group_eval_order"]), tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "pace.yml"
                path.write_text(json.dumps(one))
                test = run("promtool", "test", "rules", path)
                self.assertEqual(test.returncode, 0, test.stdout + test.stderr)


class Completeness(unittest.TestCase):
    """Nobody adds an alert without cases, texts and a section of the runbook."""

    rules: list[dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.rules = rules()
        cls.alerts = [rule for rule in cls.rules if rule["type"] == "alerting"]

    def test_cases(self) -> None:
        """Each alert has each kind of case, by the names of the groups, and one that fires with all of its texts."""
        groups: list[tuple[str, str]] = []
        for path in CASES:
            parts = re.split(r'^  - name: "(.*)"\n', path.read_text(), flags=re.M)[1:]
            groups += zip(parts[::2], parts[1::2], strict=True)
        groups += [(one["name"], json.dumps(one)) for one in weeks_of_tests()["tests"]]
        kinds: dict[str, set[str]] = {rule["name"]: set() for rule in self.alerts}
        texts = set()
        for name, body in groups:
            if case := re.match(rf"(Dovecot\w+) ({'|'.join(KINDS)}): ", name):
                alert, kind = case.groups()
                self.assertIn(alert, kinds, name)
                self.assertRegex(body, rf"ALERTS|{alert}|\*ten_minutes", name)
                kinds[alert].add(kind)
                # promtool compares annotations only where an alert is expected, and then all of them.
                if kind == "fires" and re.search(rf'alertname"?: "?{alert}\b(?s:.*)exp_annotations', body):
                    texts.add(alert)
            else:
                self.assertNotIn("exp_annotations", body, name)
        self.assertEqual(kinds, {alert: KINDS for alert in kinds})
        self.assertEqual(texts, set(kinds))

    def test_annotations(self) -> None:
        headings = re.findall(r"^## (.+)$", (REPOSITORY / "docs/runbook.md").read_text(), re.M)
        dashboards = {json.loads(path.read_text())["uid"] for path in (REPOSITORY / "dashboards").glob("*.json")}
        for rule in self.alerts:
            with self.subTest(rule["name"], horizon=rule["labels"].get("horizon")):
                notes = rule["annotations"]
                self.assertEqual(set(notes), {"summary", "description", "runbook_url", "dashboard_url"})
                # A sentence that is the same for all, so that a group of alerts has one heading.
                self.assertRegex(notes["summary"], r"^[A-Za-z][^{}]*\.$")
                page, anchor = notes["runbook_url"].split("#")
                self.assertEqual(page, "https://runbook.example.org/runbook.md")
                self.assertEqual(anchor, rule["name"].lower())
                self.assertIn(rule["name"], headings)
                link = re.match(r"https://grafana\.example\.org/d/([\w-]+)(\?|$)", notes["dashboard_url"])
                self.assertIsNotNone(link, notes["dashboard_url"])
                self.assertIn(link[1], dashboards)
                self.assertIn(rule["labels"].get("severity"), {"critical", "warning"})
                self.assertGreater(rule["keepFiringFor"], 0)

    def test_what_other_groups_record(self) -> None:
        """An instant selector looks back five minutes: what is recorded more rarely is asked for by range."""
        with Prometheus([], rules=[RULES]) as server:
            groups = server.api("rules")["groups"]
        rare = {rule["name"] for group in groups if group["interval"] >= 300 for rule in group["rules"]}
        asked = 0
        for group in groups:
            recorded_here = {rule["name"] for rule in group["rules"]}
            for rule in group["rules"]:
                for name, after in re.findall(r"(\w+:\w+:\w+)(?:\{[^}]*\})?(\[|)", rule["query"]):
                    asked += 1
                    self.assertTrue(name not in rare - recorded_here or after == "[", f"{rule['name']} asks for {name}")
        self.assertGreater(asked, 20)

    def test_metrics(self) -> None:
        """What the rules ask for is there: in the catalogue, or recorded by them."""
        # The dashboards know the exporter's jobs by the same names.
        jobs = set(re.findall(r'job=~"([^"]+)"', "".join(rule["query"] for rule in self.rules)))
        self.assertEqual(len(jobs), 1)
        for path in (REPOSITORY / "dashboards").glob("*.json"):
            every = [one.get("allValue") for one in json.loads(path.read_text())["templating"]["list"] if one["name"] == "job"]
            self.assertEqual(every, list(jobs), path.name)
        catalogue = set(re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs/METRICS.md").read_text(), re.M))
        recorded = {rule["name"] for rule in self.rules if rule["type"] == "recording"}
        name = re.compile(r"(?:\w+:)?dovecot_[a-z0-9_]+(?::\w+)?")
        used = set()
        for rule in self.rules:
            # Not the values of labels, which have names of jobs; what an annotation asks for is between quotes of Go.
            used |= set(name.findall(re.sub(r'"[^"]*"', '""', rule["query"])))
            for note in rule.get("annotations", {}).values():
                used |= set(name.findall(note))
        self.assertEqual(used - catalogue - recorded, set())
        self.assertGreater(len(used & catalogue), 10)
        # Nothing is recorded that neither a rule nor a dashboard nor the runbook asks for.
        readers = [*(REPOSITORY / "dashboards").glob("*.json"), REPOSITORY / "docs/runbook.md"]
        asked_for = "".join(path.read_text() for path in readers)
        self.assertEqual({one for one in recorded if one not in used and one not in asked_for}, set())


class Routes(unittest.TestCase):
    def test_config(self) -> None:
        check = run("amtool", "check-config", ALERTMANAGER)
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)

    def test_severities(self) -> None:
        for severity, receiver in {"critical": "pager", "warning": "tickets"}.items():
            names = {rule["name"] for rule in rules() if rule.get("labels", {}).get("severity") == severity}
            self.assertTrue(names)
            for alert in sorted(names):
                with self.subTest(alert):
                    route = run(
                        *("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}"),
                        *(f"--verify.receivers={receiver}", f"alertname={alert}", f"severity={severity}"),
                        *("job=dovecot", "instance=mail1:9166", "service=imap-login"),
                    )
                    self.assertEqual(route.returncode, 0, route.stdout + route.stderr)


class Alertmanager(lab.Alertmanager):
    """One with the example configuration, whose receivers nobody is behind; spoken to by amtool."""

    def __init__(self) -> None:
        super().__init__(ALERTMANAGER.read_text())

    def amtool(self, *arguments: str) -> str:
        done = run("amtool", f"--alertmanager.url=http://{self.address}", "alert", *arguments)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return done.stdout

    def add(self, alert: str, **labels: str) -> None:
        self.amtool("add", f"alertname={alert}", *(f"{name}={value}" for name, value in labels.items()))

    def inhibited(self) -> dict[str, bool]:
        """Of each alert, by what tells it from others, whether another inhibits it."""
        query = ("query", "--active", "--inhibited", "--silenced", "--unprocessed", "--output=json")
        names = ("alertname", "cluster", "instance", "service", "source")
        return {
            " ".join(one["labels"][name] for name in names if name in one["labels"]): bool(one["status"]["inhibitedBy"])
            for one in json.loads(self.amtool(*query))
        }


class Inhibition(unittest.TestCase):
    """Each rule in a real Alertmanager: what it keeps quiet, and what it does not, of another host or service."""

    def assert_inhibited(
        self, source: dict[str, str], targets: list[dict[str, str]], others: list[dict[str, str]]
    ) -> None:
        def key(labels: dict[str, str]) -> str:
            names = ("alert", "cluster", "instance", "service", "source")
            return " ".join(labels[name] for name in names if name in labels)

        with Alertmanager() as server:
            for labels in [source, *targets, *others]:
                server.add(**labels)
            expected = {key(labels): labels in targets for labels in [source, *targets, *others]}
            try:
                wait_until(lambda: server.inhibited() == expected, PATIENCE, "what is inhibited")
            except TimeoutError:
                self.assertEqual(server.inhibited(), expected)

    @staticmethod
    def alert(name: str, severity: str, instance: str = "mail1:9166", **labels: str) -> dict[str, str]:
        return {"alert": name, "severity": severity, "job": "dovecot", "instance": instance, **labels}

    def test_full_service(self) -> None:
        here, other = {"service": "imap-login"}, {"service": "pop3-login"}
        near = ["DovecotServiceNearLimit", "DovecotServiceNearCapacity", "DovecotServiceLimitPredicted"]
        for source in ["DovecotClientsTurnedAway", "DovecotLoginsLost", "DovecotServiceAtLimit"]:
            with self.subTest(source):
                self.assert_inhibited(
                    self.alert(source, "critical", **here),
                    [self.alert(name, "warning", **here) for name in near],
                    [
                        *(self.alert(name, "warning", **other) for name in near),
                        *(self.alert(name, "warning", "mail2:9166", **here) for name in near),
                        # Another host of the same address.
                        *(self.alert(name, "warning", cluster="west", **here) for name in near),
                        # How it is mended, and what one does not see: needed now.
                        self.alert("DovecotLimitNotInForce", "warning", **here),
                        self.alert("DovecotNextLimitTooSmall", "warning", service="auth"),
                        self.alert("DovecotExporterLogNotRead", "warning", log="/var/log/mail.log"),
                    ],
                )

    def test_one_page_for_a_full_service(self) -> None:
        self.assert_inhibited(
            self.alert("DovecotClientsTurnedAway", "critical", service="imap-login"),
            [self.alert("DovecotServiceAtLimit", "critical", service="imap-login")],
            [
                self.alert("DovecotServiceAtLimit", "critical", service="imap"),
                self.alert("DovecotServiceAtLimit", "critical", "mail2:9166", service="imap-login"),
                self.alert("DovecotLoginsLost", "critical", service="imap-login"),
            ],
        )

    def test_no_master(self) -> None:
        of_service = [
            "DovecotServiceNearLimit",
            "DovecotServiceNearCapacity",
            "DovecotServiceLimitPredicted",
            "DovecotLimitNotInForce",
            "DovecotNextLimitTooSmall",
        ]
        self.assert_inhibited(
            self.alert("DovecotMasterDown", "critical"),
            [
                self.alert("DovecotServiceAtLimit", "critical", service="auth"),
                *(self.alert(name, "warning", service="auth") for name in of_service),
                self.alert("DovecotExporterSourceDown", "warning", source="master"),
            ],
            [
                *(self.alert(name, "warning", "mail2:9166", service="auth") for name in of_service),
                self.alert("DovecotServiceAtLimit", "critical", cluster="west", service="auth"),
                self.alert("DovecotExporterSourceDown", "warning", source="log"),
                self.alert("DovecotExporterLogNotRead", "warning", log="/var/log/mail.log"),
                self.alert("DovecotExporterSourceDown", "warning", "mail2:9166", source="master"),
                # Neither has a service, nor is either of ours.
                self.alert("NodeFilesystemAlmostFull", "warning"),
            ],
        )

    def test_no_exporter(self) -> None:
        blind = {"DovecotExporterSourceDown": "log", "DovecotExporterLogNotRead": "/var/log/mail.log"}
        self.assert_inhibited(
            self.alert("DovecotExporterDown", "warning"),
            [self.alert(name, "warning", source=source) for name, source in blind.items()],
            [
                *(self.alert(name, "warning", "mail2:9166", source=source) for name, source in blind.items()),
                self.alert("DovecotServiceNearLimit", "warning", service="imap-login"),
                self.alert("DovecotServiceAtLimit", "critical", service="imap"),
            ],
        )


if __name__ == "__main__":
    unittest.main()
