"""Writes the two dashboards. They are files to import as they are; this is where to change them.

    python3 dashboards/build.py

What is in use, the capacity and what counts as turned away are those of alerts/dovecot.rules.yml, so that the screen and the
pager agree. The fleet's dashboard asks for what the rules record, since with a thousand hosts the raw series are too many for
each look; the host's asks for the raw series, and needs no rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RUNBOOK = "https://runbook.example.org/runbook.md"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
Json = dict[str, Any]

# One meaning each: red, clients are turned away or a limit; orange, somebody should look before it comes to that; green, well.
RED, ORANGE, GREEN, BLUE, LIGHT = "red", "orange", "green", "blue", "super-light-blue"
# A service has the same colour in every panel, others are grey; none is one of those above.
SERVICES = {
    "imap-login": "blue", "imap": "purple", "pop3-login": "light-blue", "pop3": "light-purple", "lmtp": "#48c9b0",
    "submission-login": "#1f9e89", "submission": "#7ad9c6", "managesieve-login": "#8ea9db", "managesieve": "#b4a7d6",
    "auth": "#c7b42c", "anvil": "#9aa83a",
}  # fmt: skip

# The jobs that the rules take for the exporter's.
JOBS = "(.*/)?dovecot(-capacity(-exporter)?)?"
HOSTS = 'job=~"$job", instance=~"$instance"'
SOME = HOSTS + ', service=~"$service"'
WORST = HOSTS + ', instance=~"$worst"'
DETAIL = HOSTS + ', service=~"$detail"'
NO_WORKERS = 'service!~"auth-worker|indexer-worker"'
# Who waits for a worker is not turned away, and a full stats loses statistics.
TURNS_AWAY = 'service!~"auth-worker|indexer-worker|stats"'


IN_USE, CAPACITY, RATIO = "clients:in_use", "clients:capacity", "clients_per_capacity:ratio"

# They serve Dovecot's own processes, and are shown over time only if they get full.
INWARD = "aggregator|anvil|auth|config|director|dns-client|health-check|indexer|ipc|log|old-stats|replicator|stats|tcpwrap"


def recorded(what: str, of: str) -> str:
    return f"instance_service:dovecot_service_{what}{{{of}}}"


def in_use(of: str) -> str:
    return (
        f"(dovecot_service_connections{{{of}}} or clamp_min("
        f"((dovecot_service_restart_request_limit{{{of}}} == 1) * dovecot_service_processes{{{of}}}"
        f" <= dovecot_service_process_limit{{{of}}}) - dovecot_service_process_min_avail{{{of}}}, 0))"
    )


def capacity(of: str) -> str:
    return f"(dovecot_service_connection_capacity{{{NO_WORKERS}, {of}}} > 1)"


def ratio(of: str) -> str:
    return f"{in_use(of)} / {capacity(of)}"


def drop_warnings(of: str) -> str:
    return f"sum without (limit) (increase(dovecot_service_drop_warnings_total{{{TURNS_AWAY}, {of}}}[5m]))"


def kills(of: str) -> str:
    return f"increase(dovecot_service_queue_full_kills_total{{{of}}}[5m])"


def lost(of: str) -> str:
    return f"increase(dovecot_service_handover_failures_total{{{of}}}[5m])"


def turned_away(warned: str, thrown_out: str, of: str) -> str:
    return f"({warned} > 0 or {thrown_out} > 0 or dovecot_service_listen_paused{{{TURNS_AWAY}, {of}}} == 1)"


def sources_down(of: str) -> str:
    return (
        f'(dovecot_exporter_source_up{{source!="master", {of}}} == 0'
        f' or (dovecot_exporter_source_up{{source="master", {of}}} == 0 and ignoring (source, service)'
        f' dovecot_service_client_limit{{service=~".+-login", {of}}} > 1))'
    )


def not_seen(of: str) -> str:
    """One series for each thing that an exporter cannot see, and for each exporter that does not answer."""
    return f"({sources_down(of)} or up{{{of}}} == 0)"


def not_in_force(of: str) -> str:
    return (
        f"dovecot_service_process_limit_configured{{{of}}} != dovecot_service_process_limit{{{of}}}"
        f' unless ignoring (source) dovecot_exporter_limit_source_info{{source="flag", {of}}}'
    )


def per_minute(counter: str) -> str:
    return f"60 * rate({counter}[$__rate_interval])"


def or_zero(number: str, of: str, needs: str = "") -> str:
    """0 where there is nothing to count; nothing where no exporter answers or nobody records what it needs, for that is not well."""
    zero = f"0 * count(up{{{of}}} == 1)"
    return f"{number} or {zero}" + (f" and count({needs})" if needs else "")


def seen(sources: str) -> str:
    """Whether any of them can be read."""
    return f'dovecot_exporter_source_up{{{HOSTS}, source=~"{sources}"}} == 1'


def or_none(counter: str, label: str) -> str:
    """By this label, per minute; where there was none in all of the time, one that says so, for nobody may have looked."""
    each = per_minute(counter)
    silent = f"(0 * sum({each}) and sum(increase({counter}[$__range] @ end())) == 0)"
    return f'sum by ({label}) ({each}) > 0 or label_replace({silent}, "{label}", "none", "", "")'


# --- Parts --------------------------------------------------------------------


def steps(*pairs: tuple[float | None, str]) -> Json:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in pairs]}


NO_STEPS = steps((None, "text"))
FULLNESS = steps((None, GREEN), (0.8, ORANGE), (1, RED))


def known(*pairs: tuple[float, str]) -> Json:
    """For a single value: grey where there is none, since nobody knows then that it is well."""
    return steps((None, "#6e7681"), *pairs)


def target(expr: str, legend: str = "", ref: str = "A", table: bool = False, instant: bool = False) -> Json:
    return {
        "refId": ref, "datasource": DATASOURCE, "expr": expr, "legendFormat": legend or "__auto", "editorMode": "code",
        "format": "table" if table else "time_series", "instant": table or instant, "range": not (table or instant),
    }  # fmt: skip


def targets(*pairs: tuple[str, str], **options: bool) -> list[Json]:
    return [target(expr, legend, "ABCDEFGHIJKL"[i], **options) for i, (expr, legend) in enumerate(pairs)]


def override(pattern: str, **properties: Any) -> Json:
    matcher = {"id": "byRegexp", "options": pattern}
    return {"matcher": matcher, "properties": [{"id": id.replace("__", "."), "value": value} for id, value in properties.items()]}


def fixed(color: str) -> Json:
    return {"mode": "fixed", "fixedColor": color}


def dashed(pattern: str) -> Json:
    """A limit, wherever there is one: dashed and red, for beyond it clients are turned away."""
    return override(
        pattern, color=fixed(RED), custom__lineStyle={"fill": "dash", "dash": [8, 6]}, custom__lineWidth=2, custom__fillOpacity=0
    )


def shades(color: str) -> Json:
    return {"mode": "shades", "fixedColor": color}


OF_SERVICES = [
    override("/.*/", color=shades("#95a5a6")),
    *(override(f"/^{name}$/", color=fixed(color)) for name, color in SERVICES.items()),
]


def panel(type: str, title: str, description: str, of: list[Json], *, unit: str, **more: Any) -> Json:
    links = more.pop("anchor", None)
    defaults = {"unit": unit, "thresholds": more.pop("thresholds", NO_STEPS), "mappings": more.pop("mappings", [])}
    defaults |= more.pop("defaults", {})
    shape = {
        "type": type, "title": title, "description": description, "datasource": DATASOURCE, "targets": of,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])}, "options": more.pop("options"),
    }  # fmt: skip
    if links is not None:
        shape["links"] = [link("What to do (runbook)", f"{RUNBOOK}#{links}", blank=True)]
    return shape | more


def stat(title: str, description: str, of: list[Json], *, unit: str = "none", **more: Any) -> Json:
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "background",
        "graphMode": "none", "justifyMode": "center", "textMode": "auto", "orientation": "auto",
    } | more.pop("shape", {})  # fmt: skip
    return panel("stat", title, description, of, unit=unit, options=options, **more)


def lines(title: str, description: str, of: list[Json], *, unit: str, **more: Any) -> Json:
    custom = {
        "drawStyle": "line", "lineWidth": 2, "fillOpacity": 8, "lineInterpolation": "stepAfter", "showPoints": "never",
        "spanNulls": False, "axisSoftMin": 0, "stacking": {"mode": "none", "group": "A"},
    } | more.pop("custom", {})  # fmt: skip
    legend = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []} | more.pop("legend", {})
    defaults = {"custom": custom, "color": {"mode": "palette-classic"}, "min": 0} | more.pop("defaults", {})
    options = {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return panel("timeseries", title, description, of, unit=unit, defaults=defaults, options=options, **more)


def bars(title: str, description: str, of: list[Json], **more: Any) -> Json:
    """Stacked, of what comes in fits and starts: lines would be a hatching."""
    custom = {"drawStyle": "bars", "fillOpacity": 90, "lineWidth": 0, "barWidthFactor": 0.9, "stacking": {"mode": "normal", "group": "A"}}
    return lines(title, description, of, unit="short", maxDataPoints=40, custom=custom | {"axisSoftMax": 5}, **more)


def table(title: str, description: str, of: list[Json], *, transformations: list[Json], sort: Sequence[str] = (), **more: Any) -> Json:
    options = {
        "showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "fields": ""},
        "sortBy": [{"displayName": name, "desc": True} for name in sort],
    }  # fmt: skip
    defaults = {"custom": {"align": "auto", "filterable": False}} | more.pop("defaults", {})
    return panel("table", title, description, of, unit="none", defaults=defaults, options=options, transformations=transformations, **more)


def named(columns: Json, hidden: Sequence[str] = ("Time",)) -> list[Json]:
    """One row for each set of labels, with the columns in this order."""
    order = {name: i for i, name in enumerate(columns)}
    organize = {"excludeByName": dict.fromkeys(hidden, True), "indexByName": order, "renameByName": columns}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]


def column(name: str, **properties: Any) -> Json:
    shape = override("", **properties)
    shape["matcher"] = {"id": "byName", "options": name}
    return shape


CELL = {"type": "color-background", "mode": "basic"}
WIDTH = 95  # of a column with a number


def reddens(name: str, width: int = WIDTH) -> Json:
    return column(name, decimals=0, unit="none", custom__width=width, thresholds=steps((None, "transparent"), (0.0001, RED)), custom__cellOptions=CELL)


def used(name: str = "Used") -> Json:
    fullness = steps((None, "transparent"), (0.8, ORANGE), (1, RED))
    return column(name, unit="percentunit", decimals=0, custom__width=WIDTH, thresholds=fullness, custom__cellOptions=CELL)


def number(name: str, **properties: Any) -> Json:
    return column(name, unit="none", decimals=0, custom__width=WIDTH, **properties)


def says(name: str, color: str) -> Json:
    """A column of 1 where something is so, and of nothing elsewhere."""
    yes = {"type": "value", "options": {"1": {"text": "yes", "color": color, "index": 0}}}
    return column(name, mappings=[yes], thresholds=steps((None, "transparent")), custom__cellOptions=CELL, custom__align="center",
                  custom__width=WIDTH + 25)  # fmt: skip


def row(title: str) -> Json:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def link(title: str, url: str, icon: str = "external link", keep: bool = False, blank: bool = False) -> Json:
    return {
        "title": title, "type": "link", "icon": icon, "tooltip": title, "url": url, "tags": [], "asDropdown": False,
        "targetBlank": blank, "includeVars": False, "keepTime": keep,
    }  # fmt: skip


def placed(rows: Sequence[tuple[int, Sequence[tuple[int, Json]]]]) -> Iterator[Json]:
    """Rows of (height, panels with their widths of 24), from the top."""
    y, number = 0, 0
    for height, members in rows:
        x = 0
        for width, member in members:
            number += 1
            yield {"id": number, **member, "gridPos": {"h": height, "w": width, "x": x, "y": y}}
            x += width
        # What is repeated takes room for more, which Grafana makes itself.
        y += height


# --- Dashboards ---------------------------------------------------------------


def variable(name: str, label: str, query: str, **more: Any) -> Json:
    return {
        "type": "query", "name": name, "label": label, "query": query, "definition": query, "datasource": DATASOURCE, "refresh": 2,
        "sort": 1, "multi": True, "includeAll": True, "allValue": ".+", "regex": "", "hide": 0, "options": [],
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    } | more  # fmt: skip


def variables() -> list[Json]:
    datasource = {
        "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "regex": "", "hide": 0,
        "multi": False, "includeAll": False, "refresh": 1, "options": [],
    }  # fmt: skip
    return [
        datasource,
        variable("job", "Job", "label_values(dovecot_exporter_build_info, job)", allValue=JOBS),
        variable("instance", "Instance", 'label_values(dovecot_exporter_build_info{job=~"$job"}, instance)'),
    ]


def annotation(name: str, color: str, expr: str, title: str, text: str) -> Json:
    return {
        "name": name, "enable": True, "hide": False, "iconColor": color, "datasource": DATASOURCE, "expr": expr, "step": "15s",
        "titleFormat": title, "textFormat": text, "tagKeys": "instance", "useValueForTime": False,
    }  # fmt: skip


def annotations(hosts: str, of: str, by: str, whose: str) -> Json:
    warned = f"sum by ({by}) (increase(dovecot_service_drop_warnings_total{{{TURNS_AWAY}, {of}}}[$__rate_interval])) > 0"
    reloaded = f"sum by (instance) (increase(dovecot_master_reloads_total{{{hosts}}}[$__rate_interval])) > 0"
    return {
        "list": [
            annotation("Drop warnings", RED, warned, "Drop warnings", f"{whose}: clients are being dropped."),
            annotation("Reloads", BLUE, reloaded, "Reload", "Dovecot on {{instance}} was reloaded."),
        ]
    }


def dashboard(uid: str, title: str, description: str, **more: Any) -> Json:
    return {
        "uid": uid, "title": title, "description": description, "tags": ["dovecot"], "schemaVersion": 39, "version": 1,
        "editable": False, "graphTooltip": 1, "timezone": "browser", "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "timepicker": {}, "fiscalYearStartMonth": 0, "liveNow": False, "weekStart": "",
    } | more  # fmt: skip


DROPS_ARE = (
    "A warning is not a dropped client: Dovecot writes at most one a second and about one in ten seconds while it is stuck, and each "
    "may stand for none or for hundreds."
)
USED_IS = (
    "Clients that are served, of those that can be served at a time. Where the exporter may ask Dovecot's master (root): slots in use; "
    "else, where each client has a process to itself: processes, less those kept ready. Unknown for services in performance mode whose "
    "master the exporter may not ask."
)


def counts(what: str, number: str, description: str, color: str, anchor: str, at: float = 1, needs: str = "") -> Json:
    return stat(what, description, [target(or_zero(number, HOSTS, needs), what, instant=True)], thresholds=known((0, GREEN), (at, color)), anchor=anchor,
                defaults={"decimals": 0})  # fmt: skip


def fleet() -> Json:
    full, clients, room = recorded(RATIO, HOSTS), recorded(IN_USE, HOSTS), recorded(CAPACITY, HOSTS)
    warned, thrown_out = recorded("drop_warnings:increase5m", HOSTS), recorded("queue_full_kills:increase5m", HOSTS)
    away = turned_away(warned, thrown_out, HOSTS)
    top = f"topk(20, max by (instance, service) ({full}))"
    columns = [
        ("Turned away", f"max by (instance, service) (0 * {away} + 1)"),
        ("Used", top),
        ("In use", f"max by (instance, service) ({clients}) and {top}"),
        ("Capacity", f"max by (instance, service) ({room}) and {top}"),
        ("Drop warnings", f"sum by (instance, service) ({warned}) > 0"),
        ("Thrown out", f"sum by (instance, service) ({thrown_out}) > 0"),
        ("Users lost", f"sum by (instance, service) ({lost(HOSTS)}) > 0"),
        ("Waiting", f"sum by (instance, service) (dovecot_listener_queue_connections{{{HOSTS}}}) > 0 and ({top} or max by (instance, service) ({away}))"),
    ]
    to_host = (
        "/d/dovecot-capacity-host?${datasource:queryparam}&${job:queryparam}&var-instance=${__data.fields.Host}"
        "&var-service=${__data.fields.Service}&${__url_time_range}"
    )
    data_link = [{"title": "This service on this host", "url": to_host, "targetBlank": False}]
    worst = f"query_result(topk(10, max by (instance) (0 * {away} + 10 or {full})))"
    login = HOSTS + ', service=~"[a-z0-9]+-login"'  # not imap-urlauth-login
    worst_full = recorded(RATIO, WORST)
    peak = f"max by (instance, service) (max_over_time({worst_full}[$__range] @ end()))"
    outward = peak.replace(WORST, f'{WORST}, service!~"{INWARD}"')
    of_logins, for_logins = recorded(IN_USE, login), recorded(CAPACITY, login)
    unseen = f"max by (instance, source) ({not_seen(HOSTS)})"
    panels = [
        (4, [
            (4, counts("Turning clients away", f"count({away})",
                       "Services, each on its host, that said so in the last five minutes: a drop warning, a client thrown out to make "
                       "room for another, or the master that has stopped listening. auth-worker, indexer-worker and "
                       "stats, which turn away no client, do not count.", RED, "dovecotclientsturnedaway", needs=warned)),
            (4, counts("Users lost after login", f"sum({lost(HOSTS)} > 0)",
                       "In the last five minutes: the password was right, and imap (or another service behind the login) had no room.",
                       RED, "dovecotloginslost", at=0.5)),
            (4, counts("80 % full or more", f"count({full} >= 0.8)", f"Services, each on its host. {USED_IS}", ORANGE, "dovecotservicenearlimit", needs=full)),
            (4, counts("Dovecot not running", f"count(dovecot_master_up{{{HOSTS}}} == 0)",
                       "Hosts whose exporter sees no Dovecot master: nobody can log in there.", RED, "dovecotmasterdown")),
            (4, counts("Hosts not fully seen", f"count(max by (instance) ({not_seen(HOSTS)}))",
                       "Hosts whose exporter does not answer, or cannot see all it needs: what is missing is in no other panel. Which "
                       "they are: at the bottom.", ORANGE, "dovecotexportersourcedown")),
            (4, stat("Hosts", "Exporters that Prometheus scrapes.", [target(f"count(up{{{HOSTS}}})", "Hosts", instant=True)],
                     thresholds=steps((None, "text")), shape={"colorMode": "none"}, defaults={"decimals": 0})),
        ]),
        (12, [(24, table(
            "Which are closest to their limit?",
            f"The 20 fullest services, and all that turned clients away in the last five minutes, which is what the columns behind "
            f"Capacity count. Click a host. {USED_IS} {DROPS_ARE}",
            targets(*((expr, name) for name, expr in columns), table=True),
            transformations=named({"instance": "Host", "service": "Service",
                                   **{f"Value #{'ABCDEFGH'[i]}": name for i, (name, _) in enumerate(columns)}}),
            sort=["Turned away", "Used"],
            overrides=[
                column("Host", links=data_link), column("Service", custom__width=200),
                says("Turned away", RED), used(), number("In use"), number("Capacity"),
                reddens("Drop warnings", WIDTH + 25), reddens("Thrown out"), reddens("Users lost"),
                number("Waiting"),
            ], anchor="dovecotclientsturnedaway"))]),
        (1, [(24, row("How did it come to this?"))]),
        (9, [
            (12, lines("Used share of capacity, worst hosts",
                       f"Of the hosts that are chosen above as worst (those that turn clients away, then the fullest) the six services that "
                       f"were the fullest in this time. The colours only tell them apart. {USED_IS}",
                       [target(f"max by (instance, service) ({worst_full}) and topk(6, {outward} or {peak} >= 0.5)", "{{instance}} {{service}}")],
                       unit="percentunit", thresholds=FULLNESS,
                       custom={"fillOpacity": 0, "thresholdsStyle": {"mode": "dashed"}, "axisSoftMax": 1.05}, anchor="dovecotserviceatlimit")),
            (12, bars("Drop warnings per minute, worst hosts", f"Lines in Dovecot's log. {DROPS_ARE}",
                      [target(or_none(f"dovecot_service_drop_warnings_total{{{WORST}}}", "instance"), "{{instance}}")],
                      overrides=[override("/^none$/", color=fixed("text"))], anchor="dovecotclientsturnedaway")),
        ]),
        (9, [
            (12, lines("The fleet as one: used share of capacity",
                       "Clients of all hosts together, of what all can serve, for each service that lets users log in. A host that tells only "
                       "half of it is left out. One host may be full while the fleet is not.",
                       [target(f"sum by (service) ({of_logins} and {for_logins}) / sum by (service) ({for_logins} and {of_logins})", "{{service}}")],
                       unit="percentunit", thresholds=FULLNESS, overrides=OF_SERVICES,
                       maxDataPoints=30,  # each is dear where there are a thousand hosts
                       custom={"thresholdsStyle": {"mode": "dashed"}, "axisSoftMax": 1.05})),
            (12, table("Which hosts are not fully seen?",
                       "Exporters that do not answer (no source), and sources that an exporter cannot read. Why is in its log and on its "
                       "landing page. The master's socket counts only where a login service runs in performance mode: there it alone "
                       "tells the load.",
                       [target(f"topk(50, 1 - {unseen})", table=True)],
                       transformations=named({"instance": "Host", "source": "Source", "Value": "Missing"}),
                       overrides=[says("Missing", ORANGE)], defaults={"noValue": "All hosts are fully seen"},
                       anchor="dovecotexportersourcedown")),
        ]),
    ]  # fmt: skip
    own = variable("worst", "Worst hosts", worst, regex='/instance="([^"]+)"/', sort=0)
    del own["allValue"]  # all of these ten, not all there are
    return dashboard(
        "dovecot-capacity-fleet", "Dovecot capacity: fleet",
        "Which hosts and services are closest to the limit at which Dovecot turns clients away, and which do so now. The recording "
        "rules of alerts/dovecot.rules.yml must be loaded in this Prometheus.",
        templating={"list": [*variables(), own]}, annotations=annotations(WORST, WORST, "job", "One of the worst hosts"), panels=list(placed(panels)),
        links=[link("Host", "/d/dovecot-capacity-host", "dashboard", keep=True), link("Runbook", RUNBOOK, "doc", blank=True)],
    )  # fmt: skip


def host() -> Json:
    lettered = [
        ("Used", f"max by (service) ({ratio(SOME)})"),
        ("In use", f"max by (service) ({in_use(SOME)}) and max by (service) ({capacity(SOME)})"),
        ("Capacity", f"max by (service) ({capacity(SOME)})"),
        ("Processes", f"max by (service) (dovecot_service_processes{{{SOME}}}) and max by (service) ({capacity(SOME)})"),
        ("Peak, 1 min", f"max by (service) (dovecot_service_processes_peak{{{SOME}}}) and max by (service) ({capacity(SOME)})"),
        ("process_limit", f"max by (service) (dovecot_service_process_limit{{{SOME}}}) and max by (service) ({capacity(SOME)})"),
        ("on disk", f"max by (service) ({not_in_force(SOME)}) and max by (service) ({capacity(SOME)})"),
        ("client_limit", f"max by (service) (dovecot_service_client_limit{{{SOME}}}) and max by (service) ({capacity(SOME)})"),
    ]
    fullest = f"topk(1, max by (service) ({ratio(HOSTS)}))"
    most = f"max by (service) (max_over_time(({ratio(SOME)})[$__range:1m] @ end()))"
    outward = f'{most} unless max by (service) (dovecot_service_process_limit{{service=~"{INWARD}", {SOME}}})'
    # The last: where nobody is served, there is one all the same.
    detail = f"query_result(topk(4, ({outward} or {most} >= 0.5) > 0.001) or on () topk(1, {most}))"

    starts = f"dovecot_service_process_starts_total{{{SOME}}}"

    small = {"repeat": "detail", "repeatDirection": "h", "maxPerRow": 4}
    # The first row is of all services, whichever are chosen: who looks at imap-login is told that imap loses users.
    panels = [
        (4, [
            (5, counts("Turning clients away", f"count({turned_away(drop_warnings(HOSTS), kills(HOSTS), HOSTS)})",
                       "Services that said so in the last five minutes: a drop warning, a client thrown out to make room for another, or "
                       "the master that has stopped listening. auth-worker, indexer-worker and "
                       "stats, which turn away no client, do not count.", RED, "dovecotclientsturnedaway",
                       needs=seen("log|journal|master"))),
            (5, stat("Fullest service", USED_IS, [target(fullest, "{{service}}", instant=True)], unit="percentunit", thresholds=known((0, GREEN), (0.8, ORANGE), (1, RED)),
                     shape={"textMode": "value_and_name"}, defaults={"decimals": 0}, anchor="dovecotserviceatlimit")),
            (5, counts("Users lost after login", f"sum({lost(HOSTS)} > 0)",
                       "In the last five minutes: the password was right, and imap (or another service behind the login) had no room.",
                       RED, "dovecotloginslost", at=0.5, needs=seen("log|journal"))),
            (4, stat("Dovecot", "Whether a master process of the watched Dovecot runs. If not, nobody can log in.",
                     [target(f"min(dovecot_master_up{{{HOSTS}}})", "Dovecot", instant=True)], unit="none",
                     thresholds=known((0, RED), (1, GREEN)),
                     mappings=[{"type": "value", "options": {"0": {"text": "not running", "color": RED, "index": 1},
                                                            "1": {"text": "runs", "color": GREEN, "index": 0}}}],
                     anchor="dovecotmasterdown")),
            (5, counts("Limits not in force", f"count({not_in_force(HOSTS)})",
                       "Services whose process_limit on disk is not the one that the running Dovecot goes by: reload it. Which: the table "
                       "below.", ORANGE, "dovecotlimitnotinforce")),
        ]),
        (1, [(24, row("How full is it?"))]),
        (10, [
            (9, lines("Used share of capacity",
                       f"At 100 % the next client waits and is then turned away. The six that were the fullest in this time. {USED_IS}",
                       [target(f"max by (service) ({ratio(SOME)}) and topk(6, {most})", "{{service}}")],
                       unit="percentunit", thresholds=FULLNESS, overrides=OF_SERVICES,
                       custom={"thresholdsStyle": {"mode": "dashed"}, "axisSoftMax": 1.05}, anchor="dovecotserviceatlimit")),
            (15, table("Clients, processes and limits now",
                       f"Services whose capacity is known and more than one client. On disk: a process_limit that is not in force until a reload. {USED_IS}",
                       targets(*((expr, name) for name, expr in lettered), table=True),
                       transformations=named({"service": "Service",
                                              **{f"Value #{'ABCDEFGH'[i]}": name for i, (name, _) in enumerate(lettered)}}),
                       sort=["Used"],
                       overrides=[column("Service", custom__width=145), used(),
                                  *(number(name) for name, _ in lettered[1:] if name not in ("process_limit", "on disk")),
                                  column("process_limit", unit="none", decimals=0, custom__width=WIDTH + 15),
                                  number("on disk", thresholds=steps((None, "transparent"), (1, ORANGE)), custom__cellOptions=CELL)])),
        ]),
        (1, [(24, row("Clients and capacity, processes and limit: the fullest services"))]),
        (8, [(6, lines("$detail: clients and capacity",
                       f"In both modes this is what counts; capacity is process_limit times client_limit. {USED_IS}",
                       targets((f"max by (service) ({in_use(DETAIL)})", "clients"), (f"max by (service) ({capacity(DETAIL)})", "capacity")),
                       unit="none", overrides=[override("/^clients$/", color=fixed(BLUE)), dashed("/^capacity$/")],
                       anchor="dovecotserviceatlimit", **small))]),
        (8, [(6, lines("$detail: processes and limit",
                       "In performance mode processes say nothing about the load. Peak is the most that were seen in a minute, which a scrape "
                       "may miss. After a reload those of the earlier configuration count as well, so there may be more than the limit.",
                       targets((f"max by (service) (dovecot_service_processes{{{DETAIL}}})", "processes"),
                               (f"max by (service) (dovecot_service_processes_peak{{{DETAIL}}})", "peak, 1 min"),
                               (f"max by (service) (dovecot_service_process_limit{{{DETAIL}}})", "process_limit")),
                       unit="none", anchor="dovecotservicenearlimit",
                       overrides=[override("/^processes$/", color=fixed(BLUE)),
                                  override("/^peak/", color=fixed(LIGHT), custom__fillOpacity=0, custom__lineWidth=1),
                                  dashed("/^process_limit$/")],
                       **small))]),
        (1, [(24, row("Who is turned away?"))]),
        (8, [
            (8, bars("Drop warnings per minute", f"Lines in Dovecot's log. {DROPS_ARE}",
                     [target(or_none(f"dovecot_service_drop_warnings_total{{{SOME}}}", "service"), "{{service}}")],
                     overrides=[*OF_SERVICES, override("/^none$/", color=fixed("text"))], anchor="dovecotclientsturnedaway")),
            (8, lines("Clients thrown out, users lost, per minute",
                      "Thrown out: had not logged in yet, and a login process closed the connection to make room for another. Lost: had "
                      "logged in, and the service behind had no room. Refused: the user has mail_max_userip_connections already, which has "
                      "nothing to do with capacity.",
                      targets((f"sum by (service) ({per_minute(f'dovecot_service_queue_full_kills_total{{{HOSTS}}}')})", "{{service}} thrown out"),
                              (f"sum by (service) ({per_minute(f'dovecot_service_handover_failures_total{{{HOSTS}}}')})", "{{service}} lost"),
                              (f"sum({per_minute(f'dovecot_user_connection_limit_rejections_total{{{HOSTS}}}')})", "refused")),
                      unit="short", custom={"axisSoftMax": 5}, anchor="dovecotloginslost",
                      overrides=[override("/thrown out$/", color=fixed("dark-red")), override("/lost$/", color=fixed(RED)),
                                 override("/^refused$/", color=fixed("text"))])),
            (8, lines("Waiting in the kernel's queue",
                      "Clients that are connected as far as they know and that Dovecot has not accepted, by port. When the queue is full "
                      "further ones find no connection, and no log tells. A reload does not change the limit, a restart does.",
                      targets((f"sum by (service, port) (dovecot_listener_queue_connections{{{SOME}}})", "{{service}} {{port}}"),
                              (f"max by (service) (dovecot_listener_queue_limit{{{SOME}}})", "{{service}} limit")),
                      unit="none", overrides=[override("/.*/", color=fixed(BLUE)), override("/ (993|995|465)$/", color=fixed("purple")),
                                            dashed("/ limit$/")], anchor="dovecotclientsturnedaway")),
        ]),
        (1, [(24, row("Which limit is next?"))]),
        (8, [
            (8, panel("bargauge", "Used of the next limits",
                      "What raising process_limit meets next. client_limit of auth and anvil: what they need when all services are at their "
                      "limits, of what they have; above 100 % logins fail before process_limit is reached. Open files: the largest of these, "
                      "of what a process may open. Tasks: those of Dovecot's control group now, of TasksMax.",
                      targets((f"max by (service) (dovecot_service_client_limit_required{{{HOSTS}}} / dovecot_service_client_limit{{{HOSTS}}})",
                               "client_limit of {{service}}"),
                              (f"max(dovecot_service_client_limit_required{{{HOSTS}}}) / min(dovecot_master_open_files_limit{{{HOSTS}}})",
                               "open files"),
                              (f"max(dovecot_cgroup_tasks{{{HOSTS}}} / dovecot_cgroup_tasks_limit{{{HOSTS}}})", "tasks"), instant=True),
                      unit="percentunit", thresholds=known((0, GREEN), (0.8, ORANGE), (1, RED)), anchor="dovecotnextlimittoosmall",
                      # Those that are needed may be reached, not passed.
                      overrides=[override("/^(client_limit|open files)/", thresholds=known((0, GREEN), (1.0001, ORANGE)))],
                      defaults={"min": 0, "max": 1, "decimals": 0},
                      options={"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "orientation": "horizontal",
                               "displayMode": "basic", "valueMode": "color", "showUnfilled": True})),
            (8, table("client_limit needed and given",
                      "What auth and anvil need when all services are at their process_limit, as Dovecot reckons, and what they have.",
                      targets((f"max by (service) (dovecot_service_client_limit_required{{{HOSTS}}})", ""),
                              (f"max by (service) (dovecot_service_client_limit{{{HOSTS}}} and dovecot_service_client_limit_required{{{HOSTS}}})",
                               ""), table=True),
                      transformations=named({"service": "Service", "Value #A": "Needs", "Value #B": "Has"}), sort=["Needs"],
                      overrides=[number("Needs"), number("Has")], anchor="dovecotnextlimittoosmall")),
            (8, lines("Tasks and their limit",
                      "Processes and threads of Dovecot's control group, and pids.max (TasksMax of the unit). At the limit Dovecot's forks fail.",
                      targets((f"max(dovecot_cgroup_tasks{{{HOSTS}}})", "tasks"), (f"max(dovecot_cgroup_tasks_limit{{{HOSTS}}})", "limit")),
                      unit="none", overrides=[override("/^tasks$/", color=fixed(BLUE)), dashed("/^limit$/")],
                      defaults={"noValue": "The exporter does not see the control group"})),
        ]),
        (1, [(24, row("What does it cost?"))]),
        (8, [
            (8, lines("Resident memory", "Of each service's processes together; what they share, such as libraries, counts for each.",
                      [target(f"max by (service) (dovecot_service_resident_memory_bytes{{{SOME}}}) > 0", "{{service}}")],
                      unit="bytes", overrides=OF_SERVICES)),
            (8, lines("Processes started per minute",
                      "By the master. Where each client has a process to itself, that is clients per minute. Known where the exporter may ask "
                      "the master.",
                      [target(f"sum by (service) ({per_minute(starts)}) and topk(5, sum by (service) (increase({starts}[$__range] @ end())))",
                              "{{service}}")],
                      unit="short", overrides=OF_SERVICES, defaults={"noValue": "The exporter may not ask the master"})),
            (8, lines("Failed processes per minute",
                      "fork_failed: no more tasks or memory; throttled: failed at its start; startup_timeout: did not report in time; "
                      "out_of_memory: reached vsz_limit.",
                      [target(f"sum by (reason) ({per_minute(f'dovecot_service_failures_total{{{SOME}}}')})", "{{reason}}")],
                      unit="short", custom={"axisSoftMax": 5}, defaults={"color": shades(ORANGE)})),
        ]),
        (1, [(24, row("Does the exporter see everything?"))]),
        (7, [
            (8, stat("Sources", "1: could be read when it was last needed. Without master the clients of services in performance mode are "
                     "unknown; without log the warnings; without procfs the processes; without limits the limits.",
                     [target(f"min by (source) (dovecot_exporter_source_up{{{HOSTS}}})", "{{source}}", instant=True),
                      target(f"min(up{{{HOSTS}}})", "exporter", "B", instant=True)],
                     unit="none", thresholds=known((0, ORANGE), (1, GREEN)), shape={"textMode": "value_and_name"},
                     mappings=[{"type": "value", "options": {"0": {"text": "missing", "color": ORANGE, "index": 1},
                                                             "1": {"text": "seen", "color": GREEN, "index": 0}}}],
                     anchor="dovecotexportersourcedown")),
            (8, lines("Log not read yet",
                      "Bytes between the exporter's place in the log and the log's end: 0, or for a moment a line.",
                      [target(f"sum by (log) (dovecot_exporter_log_size_bytes{{{HOSTS}}} - dovecot_exporter_log_position_bytes{{{HOSTS}}})",
                              "{{log}}")],
                      unit="bytes", custom={"axisSoftMax": 4096}, anchor="dovecotexporterlognotread", overrides=[override("/.*/", color=fixed(BLUE))],
                      defaults={"noValue": "No log file is followed"})),
            (8, lines("Reading /proc", "How long the exporter took to read /proc for a page.",
                      [target(f"max by (instance) (dovecot_exporter_scrape_duration_seconds{{{HOSTS}}})", "{{instance}}")],
                      unit="s", overrides=[override("/.*/", color=fixed(BLUE))])),
        ]),
    ]  # fmt: skip
    own = variables()
    own[2]["includeAll"] = False
    del own[2]["current"]  # the first there is
    services = variable("service", "Service", f"label_values(dovecot_service_connection_capacity{{{HOSTS}}}, service)")
    fullest_ones = variable("detail", "In detail", detail, regex='/service="([^"]+)"/', sort=0)
    del fullest_ones["allValue"]  # all of these four, not all there are
    return dashboard(
        "dovecot-capacity-host", "Dovecot capacity: host",
        "Clients, processes and limits of one host's Dovecot: how full it is, who is turned away, which limit is next.",
        templating={"list": [*own, services, fullest_ones]}, annotations=annotations(HOSTS, SOME, "instance, service", "{{service}} on {{instance}}"), panels=list(placed(panels)),
        links=[link("Fleet", "/d/dovecot-capacity-fleet", "dashboard", keep=True), link("Runbook", RUNBOOK, "doc", blank=True)],
    )  # fmt: skip


def text(of: Json) -> str:
    return json.dumps(of, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    for made in (fleet(), host()):
        (HERE / f"{made['uid']}.json").write_text(text(made))


if __name__ == "__main__":
    main()
