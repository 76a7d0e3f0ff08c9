//! Which of the two formats a scraper wants, by its `Accept` header.

/// How a page of metrics is written.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Format {
    /// Prometheus' text format 0.0.4, for all who ask for nothing we have.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that the values of `Accept` prefer; OpenMetrics if both are as welcome.
    pub fn choose<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let ranges = accept.flat_map(|value| value.split(',')).filter_map(Self::of_range);
        ranges.filter(|(weight, _)| *weight > 0).max().map_or(Self::Classic, |(_, format)| format)
    }

    /// The format that a range such as `text/plain;version=0.0.4;q=0.5` asks for, and how much, in thousandths.
    fn of_range(range: &str) -> Option<(u16, Self)> {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next()?.to_ascii_lowercase();
        let (mut version, mut weight) = (None, 1.0);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "version" => version = Some(value.trim().trim_matches('"')),
                "q" => weight = value.trim().parse().ok().filter(|weight| (0.0..=1.0).contains(weight))?,
                _ => {}
            }
        }
        let format = match (kind.as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => Self::OpenMetrics,
            ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", None) => Self::Classic,
            _ => return None,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 1")]
        Some(((weight * 1000.0_f32) as u16, format))
    }
}

#[cfg(test)]
mod tests {
    use super::{Format::*, *};

    #[test]
    fn what_scrapers_send() {
        let cases = [
            // Prometheus 2.42, then 3.x.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5",
                OpenMetrics,
            ),
            ("application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Classic),
            ("text/plain;version=0.0.4;q=1,*/*;q=0.1", Classic),
            // A browser, curl, nothing.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Classic),
            ("*/*", Classic),
            ("", Classic),
            ("application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"; charset=utf-8", OpenMetrics),
            ("text/plain, application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.3", Classic),
            ("application/openmetrics-text;q=0", Classic),
            ("application/openmetrics-text;q=2, ;;=,q=1;;", Classic),
        ];
        for (accept, format) in cases {
            assert_eq!(Format::choose([accept].into_iter()), format, "{accept}");
        }
        assert_eq!(
            Format::choose(["text/plain;q=0.1", "application/openmetrics-text"].into_iter()),
            OpenMetrics
        );
    }
}
