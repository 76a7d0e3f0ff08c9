"""What is wrong with a dashboard: the 17 rules of grafana/dashboard-linter, said anew, and rules of our own.

Each rule is a function that yields what it finds, named as the linter has it; ours begin with own_.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
# With a thousand hosts its questions are too dear without recorded series; the other dashboard does without rules.
USES_RULES = "dovecot-capacity-fleet"
Dashboard = dict[str, Any]
Findings = Iterator[str]

# What Grafana shows and the renderer of these tests draws.
PANEL_TYPES = {"timeseries", "stat", "table", "bargauge", "row"}
# Identifiers that Grafana has for units; those in use.
UNITS = {"none", "short", "percentunit", "bytes", "s"}
JUDGED = {"singlestat", "graph", "table", "stat", "gauge", "state-timeline", "timeseries", "bargauge"}
TEMPLATED = re.compile(r"\$\{?(\w*_)?datasource\}?")
RUNBOOK = re.compile(r"https://runbook\.example\.org/runbook\.md(?:#(?P<anchor>.*))?")


def panels(dashboard: Dashboard) -> Iterator[Dashboard]:
    """All of them, those in collapsed rows included."""
    for panel in dashboard.get("panels", []):
        yield panel
        yield from panel.get("panels", [])


def judged(dashboard: Dashboard) -> Iterator[tuple[str, Dashboard]]:
    for panel in panels(dashboard):
        if panel["type"] in JUDGED:
            yield panel.get("title", ""), panel


def targets(dashboard: Dashboard) -> Iterator[tuple[str, Dashboard]]:
    """What is asked of Prometheus, for annotations as well."""
    for annotation in dashboard["annotations"]["list"]:
        if not annotation.get("builtIn"):
            yield f"annotation {annotation['name']}", {**annotation, "format": "table"}
    for title, panel in judged(dashboard):
        for target in panel.get("targets", []):
            yield f"{title}, {target.get('refId')}", target


def variables(dashboard: Dashboard, type: str = "query") -> Iterator[Dashboard]:
    return (variable for variable in dashboard["templating"]["list"] if variable["type"] == type)


def expand(expression: str) -> str:
    """Something in the place of each variable, so that it can be parsed."""
    expression = re.sub(r"\$\{?__(rate_interval|interval|range)\}?", "5m", expression)
    return re.sub(r"\$\{?\w+\}?", "x", expression)


@functools.cache
def parses(expression: str) -> bool:
    """Whether promtool takes it, as a recording rule."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"groups": [{"name": "lint", "rules": [{"record": "lint", "expr": expand(expression)}]}]}, file)
        file.flush()
        return subprocess.run(["promtool", "check", "rules", file.name], capture_output=True).returncode == 0


# --- PromQL, as far as it takes to find selectors -----------------------------

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?\s*(\[[^\]]*\])?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")')
_KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "start", "end"}
_LABEL_LIST = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


class Selector:
    """One in an expression: its metric, matchers as (label, operator, value), range and the function right before it."""

    def __init__(self, metric: str, matchers: list[tuple[str, str, str]], range: str, function: str) -> None:
        self.metric, self.matchers, self.range, self.function = metric, matchers, range, function


def selectors(expression: str) -> Iterator[Selector]:
    # Quoted braces and brackets would confuse; matchers are looked up in the original, which has the same length.
    blank = _STRING.sub(lambda match: '"' + "_" * (len(match[0]) - 2) + '"', expression)
    blank = _LABEL_LIST.sub(lambda match: " " * len(match[0]), blank)
    for match in _SELECTOR.finditer(blank):
        name, body, range = match.groups()
        before, after = blank[: match.start()], blank[match.end() :]
        if before.rstrip()[-1:] in ('"', "$") or (before and before[-1] in '0123456789.$"'):
            continue  # inside a string, a variable, or a duration such as 5m
        if body is None and (name in _KEYWORDS or re.match(r"\s*\(", after) or re.fullmatch(r"_+", name)):
            continue
        if body is None and re.search(r"\[[^\]]*$|\{[^}]*$", before):
            continue  # a duration or a label
        given = expression[match.start(2) : match.end(2)] if body is not None else ""
        function = re.search(r"(\w+)\s*\(\s*$", before)
        yield Selector(name, _MATCHER.findall(given), (range or "")[1:-1], function[1] if function else "")


def every_selector(dashboard: Dashboard) -> Iterator[tuple[str, Selector]]:
    for where, target in targets(dashboard):
        for selector in selectors(target.get("expr", "")):
            yield where, selector


# --- Of dashboard-linter ------------------------------------------------------


def template_datasource_rule(dashboard: Dashboard) -> Findings:
    found = list(variables(dashboard, "datasource"))
    if not found:
        yield "no variable of type datasource"
    for variable in found:
        names = [f"{variable['query']}_datasource"] + (["datasource"] if len(found) == 1 else [])
        if variable["name"] not in names:
            yield f"the data source is called {variable['name']}"
        if variable.get("label") not in ("Data source", f"{variable['query'].capitalize()} data source"):
            yield f"the data source is labelled {variable.get('label')}"


# As the rules name the jobs of the exporter.
JOBS = "(.*/)?dovecot(-capacity(-exporter)?)?"


def _template(dashboard: Dashboard, name: str) -> Findings:
    variable = next((one for one in dashboard["templating"]["list"] if one["name"] == name), None)
    if variable is None:
        yield f"no variable {name}"
        return
    if not TEMPLATED.fullmatch((variable.get("datasource") or {}).get("uid", "")):
        yield f"{name} is not asked of the chosen data source"
    # The linter wants .+ of a job as well; then "up" of everything that Prometheus scrapes would count as an exporter.
    every = {"job": JOBS, "instance": ".+"}[name]
    for key, value in {"type": "query", "label": name.capitalize(), "multi": True, "allValue": every}.items():
        if variable.get(key) != value:
            yield f"{key} of {name} is {variable.get(key)}"


def template_job_rule(dashboard: Dashboard) -> Findings:
    return _template(dashboard, "job")


def template_instance_rule(dashboard: Dashboard) -> Findings:
    return _template(dashboard, "instance")


def template_label_promql_rule(dashboard: Dashboard) -> Findings:
    for variable in variables(dashboard):
        match = re.fullmatch(r"([a-z_]+)\((.+)\)", variable["query"], re.DOTALL)
        if not match or match[1] not in ("label_names", "label_values", "metrics", "query_result"):
            yield f"{variable['name']} asks {variable['query']}"
            continue
        argument = re.sub(r",\s*\w+$", "", match[2]) if match[1] == "label_values" else match[2]
        if not parses(argument):
            yield f"{variable['name']} asks what does not parse: {argument}"


def template_on_time_change_reload_rule(dashboard: Dashboard) -> Findings:
    return (f"{one['name']} has refresh {one.get('refresh')}" for one in variables(dashboard) if one.get("refresh") != 2)


def panel_datasource_rule(dashboard: Dashboard) -> Findings:
    for title, panel in judged(dashboard):
        if not TEMPLATED.fullmatch((panel.get("datasource") or {}).get("uid", "")):
            yield f"{title}: not of the chosen data source"


def panel_title_description_rule(dashboard: Dashboard) -> Findings:
    for title, panel in judged(dashboard):
        if not title or not panel.get("description"):
            yield f"panel {panel.get('id')} lacks a title or a description"


def panel_units_rule(dashboard: Dashboard) -> Findings:
    for title, panel in judged(dashboard):
        config = panel.get("fieldConfig", {})
        given = [config.get("defaults", {}).get("unit")]
        given += [one["value"] for rule in config.get("overrides", []) for one in rule["properties"] if one["id"] == "unit"]
        if strange := [unit for unit in given if unit not in UNITS]:
            yield f"{title}: units {strange}"


def panel_no_targets_rule(dashboard: Dashboard) -> Findings:
    return (f"{title} asks nothing" for title, panel in judged(dashboard) if not panel.get("targets"))


def target_promql_rule(dashboard: Dashboard) -> Findings:
    for where, target in targets(dashboard):
        if not parses(target.get("expr", "")):
            yield f"{where} does not parse: {target.get('expr')}"


def target_rate_interval_rule(dashboard: Dashboard) -> Findings:
    for where, selector in every_selector(dashboard):
        if selector.function in ("rate", "irate") and selector.range != "$__rate_interval":
            yield f"{where}: {selector.function}({selector.metric}[{selector.range}])"
        if selector.range and not selector.function:
            yield f"{where}: {selector.metric}[{selector.range}] is in no function"


def _target_matcher(dashboard: Dashboard, label: str) -> Findings:
    for where, selector in every_selector(dashboard):
        if (label, "=~", f'"${label}"') not in selector.matchers:
            yield f"{where}: {selector.metric} of every {label}"


def target_job_rule(dashboard: Dashboard) -> Findings:
    return _target_matcher(dashboard, "job")


def target_instance_rule(dashboard: Dashboard) -> Findings:
    return _target_matcher(dashboard, "instance")


def target_counter_agg_rule(dashboard: Dashboard) -> Findings:
    """By the metric's name: the linter looks at the selector's end, and so misses those with matchers."""
    for where, selector in every_selector(dashboard):
        if selector.metric.endswith("_total") and selector.function not in ("rate", "irate", "increase"):
            yield f"{where}: the counter {selector.metric} as it is"


def target_logql_rule(dashboard: Dashboard) -> Findings:
    """Nothing here could parse LogQL, so there must be none."""
    for where, target in targets(dashboard):
        if (target.get("datasource") or {}).get("type") == "loki":
            yield f"{where} asks Loki"


def target_logql_auto_rule(dashboard: Dashboard) -> Findings:
    for where, target in targets(dashboard):
        if (target.get("datasource") or {}).get("type") == "loki" and "[$__auto]" not in target.get("expr", ""):
            yield f"{where} has a range of its own"


def uneditable_dashboard(dashboard: Dashboard) -> Findings:
    if dashboard.get("editable", True):
        yield "may be edited in place"


# --- Ours ---------------------------------------------------------------------


@functools.cache
def recorded() -> Mapping[str, frozenset[str]]:
    """The labels of what the rules record: those that its name begins with, and the job."""
    names = re.findall(r"- record: (\S+)", (REPOSITORY / "alerts/dovecot.rules.yml").read_text())
    return {name: frozenset({"job", *name.split(":")[0].split("_")}) for name in names}


@functools.cache
def catalogue() -> Mapping[str, frozenset[str]]:
    """The labels of every metric in docs/METRICS.md, and of what Prometheus itself adds."""
    known = {"up": frozenset({"job", "instance"})}
    for line in (REPOSITORY / "docs/METRICS.md").read_text().splitlines():
        if match := re.match(r"\| `(\w+)` \| \w+ \| ([^|]*) \|", line):
            known[match[1]] = frozenset({"job", "instance", *re.findall(r"`(\w+)`", match[2])})
    return known


def known(dashboard: Dashboard) -> Mapping[str, frozenset[str]]:
    """The labels of each metric that it may use."""
    return {**catalogue(), **recorded()} if dashboard["uid"] == USES_RULES else catalogue()


def own_metric_rule(dashboard: Dashboard) -> Findings:
    of_variables = [
        (f"variable {one['name']}", selector)
        for one in variables(dashboard)
        for selector in selectors(re.sub(r"^\w+\((.*?)(?:,\s*\w+)?\)$", r"\1", one["query"]))
    ]
    for where, selector in [*every_selector(dashboard), *of_variables]:
        if selector.metric not in known(dashboard):
            yield f"{where}: there is no {selector.metric}"


def own_label_rule(dashboard: Dashboard) -> Findings:
    for where, target in targets(dashboard):
        expression = target.get("expr", "")
        have: set[str] = set()
        for selector in selectors(expression):
            labels = known(dashboard).get(selector.metric, frozenset())
            have |= labels
            for label, _, _ in selector.matchers:
                if label not in labels:
                    yield f"{where}: {selector.metric} has no label {label}"
        named = {label.strip() for match in _LABEL_LIST.finditer(expression) for label in match[2].split(",") if label.strip()}
        named |= set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target.get("legendFormat", "")))
        if strange := named - have:
            yield f"{where}: no metric there has {sorted(strange)}"


def own_panel_type_rule(dashboard: Dashboard) -> Findings:
    for panel in panels(dashboard):
        if panel["type"] not in PANEL_TYPES:
            yield f"{panel.get('title')}: nothing here can draw a {panel['type']}"


def own_import_rule(dashboard: Dashboard) -> Findings:
    """Files that are provisioned are taken as they are."""
    for key in ("__inputs", "__requires", "__elements", "id"):
        if key in dashboard:
            yield f"has {key}"
    if dashboard.get("schemaVersion") != 39:
        yield f"schemaVersion is {dashboard.get('schemaVersion')}"


def own_layout_rule(dashboard: Dashboard) -> Findings:
    numbers = [panel.get("id") for panel in panels(dashboard)]
    if len(set(numbers)) != len(numbers):
        yield "two panels have one id"
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            yield f"{panel['title']} is beyond the edge"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (other := taken.setdefault((x, y), panel["title"])) != panel["title"]:
                    yield f"{panel['title']} lies on {other}"
                    return


def own_legend_rule(dashboard: Dashboard) -> Findings:
    """No legend that repeats the whole of a series."""
    for where, target in targets(dashboard):
        if target.get("format") != "table" and target.get("legendFormat", "__auto") == "__auto":
            yield f"{where} has no legend"


def links(value: Any) -> Iterator[str]:
    """Every url below."""
    if isinstance(value, dict):
        if isinstance(value.get("url"), str):
            yield value["url"]
        for below in value.values():
            yield from links(below)
    elif isinstance(value, list):
        for below in value:
            yield from links(below)


def own_link_rule(dashboard: Dashboard, uids: frozenset[str]) -> Findings:
    for url in links(dashboard):
        board = re.match(r"/d/([\w-]+)(?:[?/]|$)", url)
        if board and board[1] not in uids:
            yield f"{url} leads to no dashboard"
        if not board and not RUNBOOK.fullmatch(url):
            yield f"{url} leads elsewhere"


def own_runbook_rule(dashboard: Dashboard, anchors: frozenset[str]) -> Findings:
    for url in links(dashboard):
        match = RUNBOOK.fullmatch(url)
        if match and match["anchor"] is not None and match["anchor"] not in anchors:
            yield f"the runbook has no section {match['anchor']}"


def rules(uids: frozenset[str], anchors: frozenset[str]) -> Mapping[str, Callable[[Dashboard], Findings]]:
    """All of them by name."""
    found = {name: rule for name, rule in globals().items() if name.endswith("_rule") or name == "uneditable_dashboard"}
    found["own_link_rule"] = functools.partial(own_link_rule, uids=uids)
    found["own_runbook_rule"] = functools.partial(own_runbook_rule, anchors=anchors)
    return found
