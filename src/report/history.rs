//! What a Prometheus remembers of a service: by the series that our recording rules make.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::source;
use crate::service::Service;

const CLIENTS: &str = "instance_service:dovecot_service_clients:in_use";
const WARNINGS: &str = "instance_service:dovecot_service_drop_warnings:increase5m";
/// For an answer: a year of a busy Prometheus takes more than a page.
const ANSWER_TIME: Duration = Duration::from_secs(30);
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Growth takes this many days: each is compared with the same day of the week before.
const GROWTH_DAYS: u64 = 15;
/// Hours that a day must have to be compared.
const DAY_HOURS: usize = 20;
/// Pairs of days a week apart, or days without any, that say something.
const PAIRS: usize = 3;
const DAYS: usize = 5;

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Most clients at a time in the period.
    pub peak: f64,
    /// Of how much of the period there is something.
    pub span: Duration,
    /// Clients that a week adds to the peak of a day, and from what that is known.
    pub growth: Option<(f64, String)>,
    /// When the last drop warning of the period was counted.
    pub last_warning: Option<SystemTime>,
}

/// Of a point: a time of the year 5138, or clients of a thousand hosts.
const MOST_VALUE: f64 = 1e11;

/// A time and a value.
type Point = (u64, f64);

/// Asks the Prometheus at `url`; the error is a sentence.
pub fn read(
    url: &str,
    instance: Option<&str>,
    service: &Service,
    period: Duration,
    now: SystemTime,
) -> Result<History, String> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let url = url.trim_end_matches('/');
    let shown = source::shown(url);
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let selector = match instance {
        Some(instance) => format!("service={}, instance={}", quoted(service.as_str()), quoted(instance)),
        None => format!("service={}", quoted(service.as_str())),
    };
    let window = period.as_secs().max(GROWTH_DAYS * DAY);
    let query = format!("max_over_time({CLIENTS}{{{selector}}}[1h])");
    let (start, end) = (now.saturating_sub(window - HOUR).to_string(), now.to_string());
    let parameters = [("query", query.as_str()), ("start", &start), ("end", &end), ("step", "3600")];
    let found = by_instance(series(&ask(url, "query_range", &parameters)?, url)?);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    let points = match (found.values().next(), names.as_slice()) {
        (Some(points), [_]) => points,
        (None, _) => {
            return Err(format!(
                "Prometheus at {shown} has no {CLIENTS} of {service}: load alerts/dovecot.rules.yml there, or name another service"
            ));
        }
        (Some(_), names) => {
            return Err(format!(
                "Prometheus at {shown} has {service} of several hosts: give --instance one of {}",
                names.join(", ")
            ));
        }
    };
    let mut history = of(points, period, now).ok_or_else(|| {
        format!(
            "Prometheus at {shown} has nothing of {service} in the last {}: give a longer --period",
            days(period)
        )
    })?;
    let query =
        format!("max(max_over_time(timestamp({WARNINGS}{{{selector}}} > 0)[{}s:5m]))", period.as_secs());
    let found = series(&ask(url, "query", &[("query", &query), ("time", &now.to_string())])?, url)?;
    let last = found.first().and_then(|(_, points)| points.first()).map(|(_, time)| *time);
    let last = last.and_then(|time| Duration::try_from_secs_f64(time).ok());
    history.last_warning = last.and_then(|time| SystemTime::UNIX_EPOCH.checked_add(time));
    Ok(history)
}

fn ask(url: &str, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
    let text = source::get(&format!("{url}/api/v1/{path}"), "application/json", parameters, ANSWER_TIME);
    let shown = source::shown(url);
    let text = text.map_err(|error| match error {
        ureq::Error::Timeout(_) => format!(
            "Prometheus at {shown} does not answer within {} s: give a shorter --period, or --prometheus the URL of another",
            ANSWER_TIME.as_secs()
        ),
        ureq::Error::StatusCode(401 | 403) => {
            format!("Prometheus at {shown} lets nobody in ({error}): give --prometheus a URL that it answers to anybody")
        }
        _ => {
            let error = error.to_string().replace(url, &shown);
            format!("Prometheus at {shown} cannot be read ({error}): give --prometheus the URL of a running one")
        }
    })?;
    serde_json::from_slice(&text).map_err(|_| no_prometheus(url))
}

fn no_prometheus(url: &str) -> String {
    format!("{} is no Prometheus: give --prometheus the URL of a running one", source::shown(url))
}

/// The instance and the points of each series.
fn series(answer: &Value, url: &str) -> Result<Vec<(String, Vec<Point>)>, String> {
    let found = answer["data"]["result"].as_array().ok_or_else(|| no_prometheus(url))?;
    let point = |point: &Value| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time")]
        let time = point[0].as_f64()? as u64;
        let value: f64 = point[1].as_str()?.parse().ok()?;
        // No number is none, and so is one that no service has.
        (0.0..=MOST_VALUE).contains(&value).then_some((time, value))
    };
    let one = |series: &Value| {
        let points = match series["values"].as_array() {
            Some(values) => values.iter().filter_map(point).collect(),
            None => point(&series["value"]).into_iter().collect(),
        };
        (series["metric"]["instance"].as_str().unwrap_or_default().to_owned(), points)
    };
    Ok(found.iter().map(one).collect())
}

/// The most at a time, for each instance: it may have been scraped by several jobs.
fn by_instance(found: Vec<(String, Vec<Point>)>) -> BTreeMap<String, Vec<Point>> {
    let mut all: BTreeMap<String, BTreeMap<u64, f64>> = BTreeMap::new();
    for (instance, points) in found {
        let most = all.entry(instance).or_default();
        for (time, clients) in points {
            let known = most.entry(time).or_insert(clients);
            *known = known.max(clients);
        }
    }
    all.into_iter().map(|(instance, points)| (instance, points.into_iter().collect())).collect()
}

/// What hourly peaks say; nothing if there are none in the period.
fn of(points: &[Point], period: Duration, now: u64) -> Option<History> {
    let within = points.iter().filter(|(time, _)| now.saturating_sub(*time) < period.as_secs());
    let peak = within.clone().map(|(_, clients)| *clients).max_by(f64::total_cmp)?;
    // What Prometheus has missed was not seen.
    let span = Duration::from_secs(HOUR * within.count() as u64);
    let mut days: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (time, clients) in points {
        days.entry(now.saturating_sub(*time) / DAY).or_default().push(*clients);
    }
    let peaks: BTreeMap<u64, f64> = days
        .into_iter()
        .filter(|(_, hours)| hours.len() >= DAY_HOURS)
        .filter_map(|(ago, hours)| Some((ago, hours.into_iter().max_by(f64::total_cmp)?)))
        .collect();
    Some(History { peak, span, growth: growth(&peaks), last_warning: None })
}

/// What a week adds to the peak of a day, by how many days ago it was. The median, so that one odd day is nothing.
fn growth(peaks: &BTreeMap<u64, f64>) -> Option<(f64, String)> {
    let pairs: Vec<(f64, f64)> = peaks
        .iter()
        .flat_map(|(ago, peak)| {
            peaks.range(ago + 1..).map(move |(earlier, before)| (earlier - ago, peak - before))
        })
        .map(|(days, more)| (f64::from(u32::try_from(days).unwrap_or(u32::MAX)), more))
        .collect();
    let week: Vec<f64> =
        pairs.iter().filter(|(days, _)| (days - 7.0).abs() < 0.5).map(|(_, more)| *more).collect();
    if week.len() >= PAIRS {
        let text = format!("{} days beside the same days a week before", week.len());
        return Some((median(week)?, text));
    }
    let slopes: Vec<f64> = pairs.iter().map(|(days, more)| 7.0 * more / days).collect();
    let text = format!("the peaks of {} days, which a weekend may bend", peaks.len());
    (peaks.len() >= DAYS).then_some(())?;
    Some((median(slopes)?, text))
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

/// `7 days`, `5 hours`.
pub fn days(time: Duration) -> String {
    let (number, one) = match time.as_secs() {
        seconds if seconds >= 2 * DAY => (seconds / DAY, "day"),
        seconds => (seconds / HOUR, "hour"),
    };
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: u64 = 1_800_000_000;

    /// Hourly peaks of so many days: a busy hour a day, less at weekends, and what each day adds.
    fn made_up(days: u64, each_day: f64, incident: Option<u64>) -> Vec<Point> {
        let point = |hour: u64| {
            let (day, of_day) = (hour / 24, hour % 24);
            let base = if day % 7 >= 5 { 40.0 } else { 60.0 };
            let age = u32::try_from(days - day).expect("few");
            let busy = if of_day == 10 { 1.0 } else { 0.3 };
            let clients = busy * (base - each_day * f64::from(age));
            let extra = if incident == Some(day) && of_day == 12 { 500.0 } else { 0.0 };
            (NOW - (days * 24 - hour - 1) * HOUR, clients + extra)
        };
        (0..days * 24).map(point).collect()
    }

    #[test]
    fn a_week_beside_the_week_before() {
        let points = made_up(15, 1.0, Some(3));
        let history = of(&points, Duration::from_secs(7 * DAY), NOW).expect("points");
        assert_eq!(history.span, Duration::from_secs(7 * DAY));
        let (growth, text) = history.growth.expect("two weeks");
        assert!((growth - 7.0).abs() < 1e-9, "{growth}");
        assert!(text.starts_with("8 days beside"), "{text}");
        // The incident is older than the period.
        assert!(history.peak < 61.0);
        let all = of(&points, Duration::from_secs(15 * DAY), NOW).expect("points");
        assert!(all.peak > 500.0);
    }

    #[test]
    fn of_what_prometheus_answers() {
        let one =
            |instance: &str, values: Value| json!({ "metric": { "instance": instance }, "values": values });
        let answer = json!({ "data": { "result": [
            one("a", json!([[1, "5"], [2, "7"], [3, "NaN"], [4, "+Inf"], [5, "-1"], [6, "1e300"], [7], "x"])),
            // The same host, of a job by another name.
            one("a", json!([[2, "6"], [3, "8"]])),
            one("b", json!([])),
        ] } });
        let found = by_instance(series(&answer, "").expect("series"));
        let points = [("a".to_owned(), vec![(1, 5.0), (2, 7.0), (3, 8.0)]), ("b".to_owned(), vec![])];
        assert_eq!(found, BTreeMap::from(points));
        for no in [json!([1]), json!({}), json!({ "data": { "result": "x" } })] {
            assert!(series(&no, "http://x").expect_err("none").contains("is no Prometheus"), "{no}");
        }
    }

    #[test]
    fn one_week_and_less() {
        let week = of(&made_up(5, 1.0, None), Duration::from_secs(7 * DAY), NOW).expect("points");
        assert_eq!(week.span, Duration::from_secs(5 * DAY));
        let (growth, text) = week.growth.expect("five days");
        assert!((growth - 7.0).abs() < 1e-9 && text.contains("weekend"), "{growth} {text}");
        let short = of(&made_up(2, 1.0, None), Duration::from_secs(7 * DAY), NOW).expect("points");
        assert_eq!(short.growth, None);
        assert_eq!(of(&[], Duration::from_secs(DAY), NOW), None);
        assert_eq!(
            (days(Duration::from_secs(7 * DAY)), days(Duration::from_secs(HOUR))),
            ("7 days".into(), "1 hour".into())
        );
    }

    #[test]
    fn a_clock_that_was_never_set() {
        let service = Service::parse("imap-login").expect("a name");
        let asked = |now| read("http://me:secret@127.0.0.1:1", None, &service, Duration::from_secs(DAY), now);
        let refused = asked(SystemTime::UNIX_EPOCH).expect_err("nobody listens");
        assert!(refused.starts_with("Prometheus at http://127.0.0.1:1 cannot be read ("), "{refused}");
    }
}
