//! When a line was logged: by its own time stamp, or by what the source has beside it.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, Zoned, civil::DateTime, tz::TimeZone};

use super::header::{self, MONTHS};

/// A stamp without a year that lies further ahead is of last year.
const AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// When a line was logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stamp<'a> {
    /// What stands before Dovecot's words in the line.
    Header(&'a str),
    /// The source knows.
    Time(SystemTime),
}

impl Stamp<'_> {
    /// The time, if there is one. A stamp without a zone is taken to be in this system's.
    pub fn time(self, now: SystemTime) -> Option<SystemTime> {
        match self {
            Self::Time(time) => Some(time),
            Self::Header(header) => of_header(header, now, &TimeZone::system()),
        }
    }
}

/// The time stamp at the start of `line`, a whole one or its header.
fn of_header(line: &str, now: SystemTime, zone: &TimeZone) -> Option<SystemTime> {
    let line = header::priority(line).unwrap_or(line);
    let line = line.strip_prefix("1 ").unwrap_or(line);
    let text = line.strip_suffix(header::timestamp(line)?)?;
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        let zoned = text.parse::<Timestamp>();
        return zoned.map(Into::into).ok().or_else(|| here(text.parse().ok()?, now, zone));
    }
    let [month, day, clock] = text.split_ascii_whitespace().collect::<Vec<_>>()[..] else { return None };
    let month = 1 + MONTHS.iter().position(|name| *name == month)?;
    let this_year = Timestamp::try_from(now).ok()?.to_zoned(zone.clone()).year();
    let in_year = |year: i16| {
        let date = format!("{year:04}-{month:02}-{day:0>2}T{clock}");
        here(date.parse().ok()?, now, zone)
    };
    in_year(this_year).filter(|time| *time <= now + AHEAD).or_else(|| in_year(this_year - 1))
}

/// When clocks of this zone show it. In the hour that they show twice that is the second time, unless that is yet to come.
fn here(clock: DateTime, now: SystemTime, zone: &TimeZone) -> Option<SystemTime> {
    let times = zone.to_ambiguous_zoned(clock);
    let time = |zoned: Zoned| SystemTime::from(zoned.timestamp());
    let second = times.clone().later().map(time).ok().filter(|second| *second <= now);
    second.or_else(|| times.compatible().map(time).ok())
}

/// The time stamp of a whole line of log.
pub fn of_line(line: &str, now: SystemTime) -> Option<SystemTime> {
    Stamp::Header(&header::unwrap(line)?).time(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps() {
        let now: Timestamp = "2027-01-02T00:30:00Z".parse().expect("a time");
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (line, expected) in [
            ("Jan 01 23:59:59 master: ", Some("2027-01-01T22:59:59Z")),
            ("Jan  2 01:00:00 host dovecot: master: ", Some("2027-01-02T00:00:00Z")),
            ("Jan 03 01:00:00 x", Some("2027-01-03T00:00:00Z")),
            ("Dec 31 12:00:00.25 x", Some("2026-12-31T11:00:00.25Z")),
            ("<22>Dec 31 12:00:00 host dovecot[1]: ", Some("2026-12-31T11:00:00Z")),
            ("2026-11-23T15:54:28.5+02:00 x", Some("2026-11-23T13:54:28.5Z")),
            ("2026-11-23T15:54:28+0200 x", Some("2026-11-23T13:54:28Z")),
            ("2026-11-23T15:54:28Z x", Some("2026-11-23T15:54:28Z")),
            ("2026-11-23 15:54:28,123 x", Some("2026-11-23T14:54:28.123Z")),
            ("<22>1 2026-11-23T15:54:28Z host dovecot - - - ", Some("2026-11-23T15:54:28Z")),
            ("Feb 29 12:00:00 x", None),
            ("Jan 32 12:00:00 x", None),
            ("master: ", None),
            ("", None),
        ] {
            let found = of_header(line, now.into(), &zone);
            let expected = expected.map(|time| time.parse::<Timestamp>().expect("a time").into());
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn the_hour_that_comes_twice() {
        // From 03:00 at UTC+2 back to 02:00 at UTC+1.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        for (now, expected) in [
            ("2026-10-25T00:31:00Z", "2026-10-25T00:30:00Z"),
            ("2026-10-25T01:31:00Z", "2026-10-25T01:30:00Z"),
        ] {
            let now = now.parse::<Timestamp>().expect("a time").into();
            for line in ["Oct 25 02:30:00 x", "2026-10-25 02:30:00 x"] {
                let found =
                    of_header(line, now, &zone).map(|time| Timestamp::try_from(time).expect("a time"));
                assert_eq!(found.map(|time| time.to_string()).as_deref(), Some(expected), "{line}");
            }
        }
    }
}
