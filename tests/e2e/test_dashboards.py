"""The dashboards: by schema, by lint, and against a real Prometheus that holds a recorded incident and a recorded calm time.

What a Grafana does with them beyond that is not tested here.
"""

from __future__ import annotations

import collections
import functools
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lab import REPOSITORY, Prometheus

sys.path.insert(0, str(REPOSITORY / "tests/dashboards"))
import lint
from recording import INTERVAL, RecordedPrometheus, read_recording

DASHBOARDS = REPOSITORY / "dashboards"
FLEET, HOST = "dovecot-capacity-fleet", "dovecot-capacity-host"
RULES = REPOSITORY / "alerts/dovecot.rules.yml"
RUNBOOK = REPOSITORY / "docs/runbook.md"
HOSTS = [f"mail{number}.example.org:9166" for number in range(1, 7)]
Dashboard = dict[str, Any]


def load(uid: str) -> Dashboard:
    return json.loads((DASHBOARDS / f"{uid}.json").read_text())


def builder() -> Any:
    spec = importlib.util.spec_from_file_location("build", DASHBOARDS / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors() -> frozenset[str]:
    """Of the runbook's headings, as Git forges make them."""
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)


# --- As they are --------------------------------------------------------------


def validate(*files: Path) -> subprocess.CompletedProcess[str]:
    # Debian's interpreter, whatever else there is: it has Debian's python3-jsonschema.
    command = ["/usr/bin/python3", REPOSITORY / "tests/dashboards/validate.py", *files]
    return subprocess.run(command, capture_output=True, text=True)


class Files(unittest.TestCase):
    def test_they_are_what_build_makes(self) -> None:
        build = builder()
        for made in (build.fleet(), build.host()):
            path = DASHBOARDS / f"{made['uid']}.json"
            self.assertEqual(path.read_text(), build.text(made), "run dashboards/build.py")
        self.assertEqual({path.stem for path in DASHBOARDS.glob("*.json")}, {FLEET, HOST})

    def test_the_rules_lead_here(self) -> None:
        urls = re.findall(r"dashboard_url: https://grafana\.example\.org/d/([\w-]+)(.*)", RULES.read_text())
        self.assertTrue(urls)
        for uid, query in urls:
            offered = {one["name"] for one in load(uid)["templating"]["list"]}
            self.assertLessEqual(set(re.findall(r"[?&]var-(\w+)=", query)), offered)

    def test_schema(self) -> None:
        result = validate(*sorted(DASHBOARDS.glob("*.json")))
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))

    def test_schema_finds_fault(self) -> None:
        for change in (
            {"refresh": 30},
            {"annotations": None},
            {"links": [{"title": "no icon", "type": "link"}]},
            {"unheard": "of"},
        ):
            with self.subTest(change=change), tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump({**load(FLEET), **change}, file)
                file.flush()
                result = validate(Path(file.name))
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertTrue(result.stdout)


# One change each that makes a sound dashboard unsound.
Change = Callable[[Dashboard], object]


def first(dashboard: Dashboard, type: str = "timeseries") -> Dashboard:
    return next(panel for panel in dashboard["panels"] if panel["type"] == type)


def asks(expression: str, **more: Any) -> Change:
    return lambda dashboard: first(dashboard)["targets"][0].update(expr=expression, **more)


def variable(which: str, /, **change: Any) -> Change:
    return lambda dashboard: next(one for one in dashboard["templating"]["list"] if one["name"] == which).update(change)


def panel(**change: Any) -> Change:
    return lambda dashboard: first(dashboard).update(change)


THERE = 'job=~"$job", instance=~"$instance"'
UNSOUND: Mapping[str, list[Change]] = {
    "template_datasource_rule": [variable("datasource", name="ds"), variable("datasource", label="Prometheus"),
                                 variable("datasource", type="custom")],
    "template_job_rule": [variable("job", name="jobs"), variable("job", multi=False), variable("job", allValue=".*"),
                          variable("job", datasource={"type": "prometheus", "uid": "abc"})],
    "template_instance_rule": [variable("instance", name="host"), variable("instance", label="Host")],
    "template_label_promql_rule": [variable("job", query="up"), variable("job", query="label_values(up{, job)")],
    "template_on_time_change_reload_rule": [variable("instance", refresh=1)],
    "panel_datasource_rule": [panel(datasource={"type": "prometheus", "uid": "abc"}), panel(datasource=None)],
    "panel_title_description_rule": [panel(title=""), panel(description="")],
    "panel_units_rule": [panel(fieldConfig={"defaults": {}, "overrides": []}),
                         panel(fieldConfig={"defaults": {"unit": "furlong"}, "overrides": []})],
    "panel_no_targets_rule": [panel(targets=[])],
    "target_promql_rule": [asks("sum by (service) (up"), asks("")],
    "target_rate_interval_rule": [asks(f"rate(dovecot_master_reloads_total{{{THERE}}}[5m])"), asks(f"up{{{THERE}}}[5m]")],
    "target_job_rule": [asks('up{instance=~"$instance"}'), asks('up{job="$job", instance=~"$instance"}'), asks("up"),
                        asks(f'up{{{THERE}}} / up{{instance=~"$instance"}}')],
    "target_instance_rule": [asks('up{job=~"$job"}'), asks('sum(up{job=~"$job", instance=~"$host"})')],
    "target_counter_agg_rule": [asks(f"sum(dovecot_master_reloads_total{{{THERE}}})"),
                                asks(f"delta(dovecot_master_reloads_total{{{THERE}}}[5m])"),
                                lambda d: d["annotations"]["list"][0].update(expr=f"dovecot_master_reloads_total{{{THERE}}}")],
    "target_logql_rule": [asks('{job="x"}', datasource={"type": "loki", "uid": "$datasource"})],
    "target_logql_auto_rule": [asks('rate({job="x"}[5m])', datasource={"type": "loki", "uid": "$datasource"})],
    "uneditable_dashboard": [lambda d: d.update(editable=True), lambda d: d.pop("editable")],
    "own_metric_rule": [asks(f"dovecot_service_process{{{THERE}}}"), variable("job", query="label_values(dovecot_build_info, job)"),
                        asks(f"instance_service:dovecot_service_clients:in_user{{{THERE}}}"),
                        lambda d: d.update(uid=HOST)],  # which asks for nothing that is recorded
    "own_label_rule": [asks(f'dovecot_master_up{{{THERE}, service="imap"}}'),
                       asks(f"job_service:dovecot_service_clients_per_capacity:ratio{{{THERE}}}"), asks(f"sum by (host) (up{{{THERE}}})"),
                       asks(f"up{{{THERE}}}", legendFormat="{{service}}")],
    "own_panel_type_rule": [panel(type="piechart"), panel(type="gauge")],
    "own_import_rule": [lambda d: d.update(__inputs=[]), lambda d: d.update(schemaVersion=42), lambda d: d.update(id=7)],
    "own_layout_rule": [panel(id=1), lambda d: first(d)["gridPos"].update(y=0), lambda d: first(d)["gridPos"].update(x=20)],
    "own_legend_rule": [asks(f"up{{{THERE}}}", legendFormat="__auto")],
    "own_link_rule": [lambda d: d["links"][0].update(url="/d/dovecot"), lambda d: d["links"][0].update(url="https://example.com/")],
    "own_runbook_rule": [lambda d: d["links"][1].update(url="https://runbook.example.org/runbook.md#nowhere")],
}  # fmt: skip


class Lint(unittest.TestCase):
    def rules(self) -> Mapping[str, Callable[[Dashboard], Iterator[str]]]:
        return lint.rules(frozenset({FLEET, HOST}), anchors())

    def test_nothing_is_found(self) -> None:
        for uid in (FLEET, HOST):
            for name, rule in self.rules().items():
                with self.subTest(uid=uid, rule=name):
                    self.assertEqual(list(rule(load(uid))), [])

    def test_each_rule_finds_what_it_is_for(self) -> None:
        rules = self.rules()
        self.assertEqual(set(UNSOUND), set(rules))
        for name, changes in UNSOUND.items():
            for number, change in enumerate(changes):
                with self.subTest(rule=name, change=number):
                    dashboard = load(FLEET)
                    change(dashboard)
                    self.assertTrue(list(rules[name](dashboard)))

    def test_selectors(self) -> None:
        expression = 'sum by (a) (rate(x_total{b="c{d}"}[5m])) and on (e) f{g!~"h"} > 2 or i offset 1h + max_over_time((j{})[$__range:1m])'
        found = [(one.metric, one.matchers, one.range, one.function) for one in lint.selectors(expression)]
        self.assertEqual(
            found,
            [("x_total", [("b", "=", '"c{d}"')], "5m", "rate"), ("f", [("g", "!~", '"h"')], "", ""), ("i", [], "", ""), ("j", [], "", "")],
        )


class SameAsTheRules(unittest.TestCase):
    """The screen and the pager mean the same by full and by turned away."""

    def test_definitions(self) -> None:
        build = builder()
        with Prometheus([], rules=[RULES]) as prometheus:
            rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
            recorded = {rule["name"]: rule["query"] for rule in rules if rule["type"] == "recording"}
            alerts = {rule["name"]: rule["query"] for rule in rules if rule["type"] == "alerting"}

            def plain(expression: str) -> str:
                expression = expression.replace("{}", "")
                while (found := re.search(r"instance_service:[\w:]+", expression)) is not None:
                    expression = expression.replace(found[0], f"({recorded[found[0]]})")
                text = re.sub(r"\s+", "", prometheus.api("format_query", query=expression))
                return re.sub(r"[()]", "", text)  # what `and` and `or` bind is looked at with the data below

            raw = build.drop_warnings(""), build.kills("")
            kept = build.recorded("drop_warnings:increase5m", ""), build.recorded("queue_full_kills:increase5m", "")
            for ours, theirs in {
                build.in_use(""): recorded["instance_service:dovecot_service_clients:in_use"],
                build.capacity(""): recorded["instance_service:dovecot_service_clients:capacity"],
                build.ratio(""): recorded["instance_service:dovecot_service_clients_per_capacity:ratio"],
                build.turned_away(*raw, ""): alerts["DovecotClientsTurnedAway"],
                build.turned_away(*kept, ""): alerts["DovecotClientsTurnedAway"],
                build.lost("") + " > 0": alerts["DovecotLoginsLost"],
                build.sources_down(""): alerts["DovecotExporterSourceDown"],
                build.not_in_force(""): alerts["DovecotLimitNotInForce"],
            }.items():
                self.assertEqual(plain(ours), plain(theirs))


# --- With data ----------------------------------------------------------------

# What is empty from one end of a recording to the other, and is meant to be: (recording, host or "fleet", panel, target).
TABLE, CLOSEST = "Clients, processes and limits now", "Which are closest to their limit?"
EMPTY = {
    # Columns of those to whom it happens, and in calm times it happens to nobody: turned away, drop warnings, thrown out, lost.
    *(("calm", "fleet", CLOSEST, letter) for letter in "AEFG"),
    # All hosts are fully seen.
    ("calm", "fleet", "Which hosts are not fully seen?", "A"),
    # process_limit on disk is shown where it is not in force: on mail1, for the minute between the change and the reload.
    *((name, f"mail{number}", TABLE, "G") for name in ("incident", "calm") for number in range(1, 7) if (name, number) != ("incident", 1)),
    # Only the master tells, and the exporter of mail5, which is not root, may not ask it.
    *((name, "mail5", "Processes started per minute", "A") for name in ("incident", "calm")),
}


def escape(value: str) -> str:
    """As Grafana puts a value into a regular expression in a string."""
    return re.escape(value).replace("\\", "\\\\")


class Board:
    """A dashboard as somebody looks at it: a recording, a time, and what is chosen at the top."""

    def __init__(self, prometheus: RecordedPrometheus, uid: str, moment: float, **chosen: str) -> None:
        self.prometheus, self.moment, self.dashboard = prometheus, moment, load(uid)
        self.values = {"job": lint.JOBS, "instance": ".+", "service": ".+", **chosen}
        for one in lint.variables(self.dashboard):
            if match := re.fullmatch(r"query_result\((.*)\)", one["query"]):
                # All of those that it offers.
                series = [json.dumps(metric) for metric, _ in prometheus.query_at(self.expand(match[1]), moment)]
                pattern = one["regex"].strip("/").replace('="', '": "')
                self.values[one["name"]] = "|".join(escape(re.search(pattern, text)[1]) for text in series)  # type: ignore[index]

    def expand(self, expression: str) -> str:
        span = self.prometheus.end_time - self.prometheus.start_time
        values = {**self.values, "__rate_interval": f"{4 * INTERVAL}s", "__range": f"{span}s"}
        return re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)

    def panel(self, title: str) -> Dashboard:
        return next(one for one in self.dashboard["panels"] if one["title"] == title)

    def ask(self, target: Dashboard) -> list[tuple[dict[str, str], float]]:
        """The labels and values that a target has at the moment."""
        return self.prometheus.query_at(self.expand(target["expr"]), self.moment)

    def column(self, title: str, letter: str = "A") -> dict[tuple[str, ...], float]:
        """The values of one target by its labels' values."""
        target = next(one for one in self.panel(title)["targets"] if one["refId"] == letter)
        return {tuple(labels[name] for name in sorted(labels)): value for labels, value in self.ask(target)}

    def course(self, target: Dashboard) -> list[dict[str, Any]]:
        """The series of a target over all of the recording."""
        start, end = self.prometheus.start_time, self.prometheus.end_time
        return self.prometheus.query_range(self.expand(target["expr"]), start, end)


# --- By hand: from the text of a recording, without Prometheus ----------------

Key = tuple[str, str]  # instance, service
NO_CLIENTS = ("auth-worker", "indexer-worker", "stats")  # full, they turn nobody away


@functools.cache
def samples(name: str) -> Mapping[str, Mapping[frozenset[tuple[str, str]], Mapping[int, float]]]:
    """By metric, labels and time."""
    found: dict[str, dict[frozenset[tuple[str, str]], dict[int, float]]] = collections.defaultdict(dict)
    for line in read_recording(name).splitlines():
        if match := re.fullmatch(r"(\w+)\{(.*)\} (\S+) (\d+)", line):
            labels = frozenset(re.findall(r'(\w+)="([^"]*)"', match[2]))
            found[match[1]].setdefault(labels, {})[int(match[4])] = float(match[3])
    return found


def newest(name: str, metric: str, moment: float, labels: tuple[str, ...] = ("instance", "service")) -> dict[Any, float]:
    """The values at the last scrape before the moment; of several with the same labels, their sum."""
    values: dict[Any, float] = collections.defaultdict(float)
    for own, points in samples(name)[metric].items():
        times = [time for time in points if moment - 2 * INTERVAL <= time <= moment]
        if times:
            values[tuple(dict(own)[label] for label in labels)] += points[max(times)]
    return dict(values)


def rise(name: str, metric: str, moment: float) -> dict[Key, float]:
    """By how much the counters of each service rose in the five minutes before, restarts from 0 included."""
    values: dict[Key, float] = collections.defaultdict(float)
    for own, points in samples(name)[metric].items():
        course = [points[time] for time in sorted(points) if moment - 300 < time <= moment]
        steps = (right - left if right >= left else right for left, right in zip(course, course[1:]))
        values[dict(own)["instance"], dict(own)["service"]] += sum(steps)
    return {key: value for key, value in values.items() if value > 0}


def by_hand(name: str, moment: float) -> tuple[dict[Key, float], dict[Key, float]]:
    """In use and capacity, as docs/METRICS.md and the rules have them."""

    def get(metric: str) -> dict[Key, float]:
        return newest(name, f"dovecot_service_{metric}", moment)

    limit, restart, ready = get("process_limit"), get("restart_request_limit"), get("process_min_avail")
    in_use = {
        key: max(count - ready[key], 0)
        for key, count in get("processes").items()
        if restart.get(key) == 1 and count <= limit.get(key, 0) and key in ready
    } | get("connections")
    capacity = {
        key: value
        for key, value in get("connection_capacity").items()
        if value > 1 and key[1] not in ("auth-worker", "indexer-worker")
    }
    return in_use, capacity


class WithData(unittest.TestCase):
    prometheus: Mapping[str, RecordedPrometheus]

    @classmethod
    def setUpClass(cls) -> None:
        cls.prometheus = {name: cls.enterClassContext(RecordedPrometheus(name)) for name in ("incident", "calm")}

    def moments(self, name: str) -> list[float]:
        """Every half minute, from the first whole five minutes on."""
        one = self.prometheus[name]
        return list(range(one.start_time + 301, one.end_time, 30))

    def boards(self) -> Iterator[tuple[str, str, Board]]:
        """Recording, host, and the dashboard after the worst is over."""
        for name, prometheus in self.prometheus.items():
            yield name, "fleet", Board(prometheus, FLEET, prometheus.end_time)
            for instance in HOSTS:
                yield name, instance.split(".")[0], Board(prometheus, HOST, prometheus.end_time, instance=escape(instance))

    def test_no_panel_is_empty(self) -> None:
        empty = set()
        for name, host, board in self.boards():
            for panel in board.dashboard["panels"]:
                for target in panel.get("targets", []):
                    if target["instant"]:
                        # At the worst moment that it can show, for that is when somebody looks.
                        found = any(
                            board.prometheus.query_at(board.expand(target["expr"]), moment) for moment in self.moments(name)
                        )
                    else:
                        found = any(value != "NaN" for series in board.course(target) for _, value in series["values"])
                    if not found:
                        empty.add((name, host, panel["title"], target["refId"]))
        self.assertEqual(empty, EMPTY)

    def test_legends_have_their_labels(self) -> None:
        for name, host, board in self.boards():
            for panel in board.dashboard["panels"]:
                for target in panel.get("targets", []):
                    labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                    for series in [] if target["format"] == "table" else board.course(target):
                        self.assertLessEqual(labels, set(series["metric"]), f"{name}, {host}: {panel['title']}")

    def test_one_line_for_each_legend(self) -> None:
        """Two lines of one name could not be told apart."""
        for name, host, board in self.boards():
            for panel in board.dashboard["panels"]:
                seen: collections.Counter[str] = collections.Counter()
                for target in panel.get("targets", []):
                    for series in [] if target["format"] == "table" else board.course(target):
                        metric = series["metric"]
                        # A panel that is repeated for each service has one service in each.
                        of = metric["service"] if "repeat" in panel else ""
                        seen[of + re.sub(r"\{\{(\w+)\}\}", lambda match: metric[match[1]], target["legendFormat"])] += 1
                self.assertEqual([legend for legend, count in seen.items() if count > 1], [], f"{name}, {host}: {panel['title']}")

    def test_annotations(self) -> None:
        for name, prometheus in self.prometheus.items():
            board = Board(prometheus, FLEET, prometheus.end_time)
            found = {one["name"]: board.course(one) for one in board.dashboard["annotations"]["list"]}
            reloaded = {series["metric"]["instance"] for series in found["Reloads"]}
            warned = set()
            for instance in HOSTS:
                host = Board(prometheus, HOST, prometheus.end_time, instance=escape(instance))
                [drops] = [one for one in host.dashboard["annotations"]["list"] if one["name"] == "Drop warnings"]
                warned |= {(series["metric"]["instance"], series["metric"]["service"]) for series in host.course(drops)}
            counters = {
                metric: {
                    (dict(labels)["instance"], dict(labels).get("service"))
                    for labels, points in samples(name)[metric].items()
                    if max(points.values()) > min(points.values())
                }
                for metric in ("dovecot_master_reloads_total", "dovecot_service_drop_warnings_total")
            }
            self.assertEqual(reloaded, {instance for instance, _ in counters["dovecot_master_reloads_total"]})
            self.assertEqual(warned, counters["dovecot_service_drop_warnings_total"])
            self.assertTrue(reloaded)
            self.assertEqual(bool(warned), name == "incident")
            self.assertEqual(len(found["Drop warnings"]), 1 if warned else 0)

    # --- Numbers -----------------------------------------------------------------

    def test_fullness(self) -> None:
        """Used, in use and capacity, on both dashboards, as worked out by hand."""
        title, compared = CLOSEST, 0
        for name, prometheus in self.prometheus.items():
            for moment in self.moments(name):
                in_use, capacity = by_hand(name, moment)
                ratio = {key: in_use[key] / capacity[key] for key in in_use.keys() & capacity.keys()}
                fleet = Board(prometheus, FLEET, moment)
                shown = fleet.column(title, "B")
                self.assertEqual(sorted(shown.values()), sorted(ratio.values())[-20:])
                for key, value in shown.items():
                    self.assertEqual(value, ratio[key])
                    self.assertEqual(fleet.column(title, "C")[key], in_use[key])
                    self.assertEqual(fleet.column(title, "D")[key], capacity[key])
                self.assertEqual(fleet.column("80 % full or more"), {(): sum(one >= 0.8 for one in ratio.values())})
                # All that a service's login processes serve, in all hosts.
                whole = {
                    (service,): sum(in_use[key] for key in ratio if key[1] == service)
                    / sum(capacity[key] for key in ratio if key[1] == service)
                    for service in {service for _, service in ratio if re.fullmatch(r"\w+-login", service)}
                }
                self.assertEqual(fleet.column("The fleet as one: used share of capacity"), whole)
                instance = HOSTS[moment // 30 % len(HOSTS)]
                host = Board(prometheus, HOST, moment, instance=escape(instance))
                mine = {(service,): value for (one, service), value in ratio.items() if one == instance}
                self.assertEqual(host.column(TABLE), mine)
                if mine:
                    [fullest] = host.column("Fullest service").values()
                    self.assertEqual(fullest, max(mine.values()))
                compared += len(shown) + len(mine)
        self.assertGreater(compared, 100)

    def test_turned_away(self) -> None:
        title, most = CLOSEST, collections.Counter[str]()
        for name, prometheus in self.prometheus.items():
            for moment in self.moments(name):
                fleet = Board(prometheus, FLEET, moment)
                risen = {
                    letter: rise(name, f"dovecot_service_{metric}_total", moment)
                    for letter, metric in {"E": "drop_warnings", "F": "queue_full_kills", "G": "handover_failures"}.items()
                }
                risen["E"] = {key: count for key, count in risen["E"].items() if key[1] not in NO_CLIENTS}
                for letter, counts in risen.items():
                    shown = fleet.column(title, letter)
                    self.assertEqual(set(shown), set(counts))
                    for key, value in shown.items():
                        # Prometheus extends the range to its edges: two intervals of sixty.
                        self.assertAlmostEqual(value, counts[key], delta=0.04 * counts[key])
                    most[letter] = max(most[letter], len(counts))
                paused = {key for key, value in newest(name, "dovecot_service_listen_paused", moment).items() if value == 1}
                paused = {key for key in paused if key[1] not in NO_CLIENTS}
                away = set(risen["E"]) | set(risen["F"]) | paused
                self.assertEqual(set(fleet.column(title, "A")), away)
                self.assertEqual(fleet.column("Turning clients away"), {(): len(away)})
                lost = sum(risen["G"].values())
                self.assertAlmostEqual(fleet.column("Users lost after login")[()], lost, delta=0.04 * lost)
                if name == "calm":
                    self.assertEqual(away, set())
        self.assertEqual(set(most), {"E", "F", "G"})
        self.assertGreater(min(most.values()), 0)

    def test_courses(self) -> None:
        """Lines over time: what each says at each step."""
        for instance in HOSTS:
            prometheus = self.prometheus["incident"]
            board = Board(prometheus, HOST, prometheus.end_time, instance=escape(instance))
            for title, letter, metric in (
                ("$detail: processes and limit", "A", "dovecot_service_processes"),
                ("$detail: processes and limit", "B", "dovecot_service_processes_peak"),
                ("$detail: processes and limit", "C", "dovecot_service_process_limit"),
                ("$detail: clients and capacity", "B", "dovecot_service_connection_capacity"),
            ):
                target = next(one for one in board.panel(title)["targets"] if one["refId"] == letter)
                for series in board.course(target):
                    for time, value in series["values"]:
                        expected = newest("incident", metric, time)[instance, series["metric"]["service"]]
                        self.assertEqual(float(value), expected, (title, instance, time))

    def test_what_matters_shows_whatever_is_chosen(self) -> None:
        """Clients log in at imap-login and are lost at imap."""
        prometheus = self.prometheus["incident"]
        moment = max(self.moments("incident"), key=lambda moment: sum(rise("incident", "dovecot_service_handover_failures_total", moment).values()))
        lost = rise("incident", "dovecot_service_handover_failures_total", moment)
        [(instance, service)] = lost
        self.assertNotEqual(service, "imap-login")
        host = Board(prometheus, HOST, moment, instance=escape(instance), service="imap-login")
        self.assertAlmostEqual(host.column("Users lost after login")[()], lost[instance, service], delta=0.04 * lost[instance, service])
        self.assertEqual(host.column("Turning clients away"), {(): 1})

    def test_blind(self) -> None:
        """An exporter that is gone is told, and nothing is taken for well when nobody looks."""
        prometheus = self.prometheus["incident"]
        down = sorted(time for (labels, points) in samples("incident")["up"].items() for time, up in points.items() if not up)
        self.assertTrue(down)
        moment = down[len(down) // 2]
        fleet = Board(prometheus, FLEET, moment)
        self.assertEqual(fleet.column("Hosts not fully seen"), {(): 1})
        self.assertIn((HOSTS[4],), fleet.column("Which hosts are not fully seen?"))
        host = Board(prometheus, HOST, moment, instance=escape(HOSTS[4]))
        for title in ("Turning clients away", "Users lost after login", "Dovecot"):
            self.assertEqual(host.column(title), {}, title)
        self.assertEqual(fleet.column("Turning clients away").keys(), {()})
        # Where the rules are not loaded.
        for title in ("Turning clients away", "80 % full or more"):
            [target] = fleet.panel(title)["targets"]
            self.assertTrue(fleet.ask(target))
            self.assertEqual(fleet.ask({"expr": target["expr"].replace("instance_service:", "unknown:")}), [], title)
        # An hour later nobody answers at all.
        for board in (Board(prometheus, FLEET, moment + 3600), Board(prometheus, HOST, moment + 3600, instance=escape(HOSTS[4]))):
            for panel in board.dashboard["panels"]:
                if panel["type"] == "stat":
                    self.assertEqual(board.column(panel["title"]), {}, panel["title"])


if __name__ == "__main__":
    unittest.main()
