//! A page of a running exporter, read: the inverse of [`Page::openmetrics`].

use std::collections::BTreeMap;

use super::{CATALOGUE, Metric, Page};

impl Page {
    /// Reads a page of OpenMetrics. Samples of metrics that the catalogue does not have are passed over, because
    /// another version of the exporter may have them; a page without its end is none. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.strip_suffix("# EOF\n").ok_or("it has no end")?;
        let metrics: BTreeMap<&str, &'static Metric> =
            CATALOGUE.into_iter().map(|metric| (metric.name, metric)).collect();
        let mut page = Self::default();
        for (number, line) in (1..).zip(lines.lines()).filter(|(_, line)| !line.starts_with('#')) {
            let (name, labels, value) = sample(line).ok_or_else(|| format!("line {number} is no sample"))?;
            let Some(metric) = metrics.get(name) else { continue };
            let values: Option<Vec<&str>> =
                metric.labels.iter().map(|label| labels.get(label).map(String::as_str)).collect();
            // What is no number is not known.
            if let Some(values) = values.filter(|_| !value.is_nan()) {
                page.add(metric, &values, value);
            }
        }
        Ok(page)
    }
}

/// Reads `name{label="value",…} number`.
fn sample(line: &str) -> Option<(&str, BTreeMap<&str, String>, f64)> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, quoted) = rest.strip_prefix(',').unwrap_or(rest).split_once("=\"")?;
            let (value, behind) = unquote(quoted)?;
            labels.insert(label, value);
            rest = behind;
        }
        rest = &rest[1..];
    }
    let number = rest.strip_prefix(' ')?;
    Some((name, labels, number.parse().ok()?))
}

/// The value up to the closing quote, and what follows that.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[place + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_page_is_read_as_it_was_written(values in prop::collection::vec((any::<prop::sample::Index>(), "\\PC{0,5}[\"\\\\\n]{0,2}", 0.0..1e12_f64), 0..30)) {
            let mut page = Page::default();
            for metric in CATALOGUE {
                // In the order of the catalogue, as the page has them.
                for (index, label, value) in &values {
                    if std::ptr::eq(CATALOGUE[index.index(CATALOGUE.len())], metric) {
                        let info = metric.kind == metrics::Kind::Info;
                        let labels: Vec<&str> = metric.labels.iter().map(|_| label.as_str()).collect();
                        page.add(metric, &labels, if info { 1.0 } else { *value });
                    }
                }
            }
            let text = page.openmetrics().expect("text");
            prop_assert_eq!(Page::parse(&text).expect("a page"), page);
        }

        #[test]
        fn no_half_of_a_page_is_one(text in "\\PC{0,40}", cut in 0..5_usize) {
            let mut page = Page::default();
            page.add(&metrics::BUILD_INFO, &[&text], 1.0);
            let whole = page.openmetrics().expect("text");
            prop_assert!(Page::parse(&whole[..whole.len() - 1 - cut]).is_err());
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-z_{}=,\\\\\" #0-9\n]{0,60}") {
            let _ = Page::parse(&(text + "\n# EOF\n"));
        }
    }

    #[test]
    fn what_others_write() {
        let page = Page::parse(
            "# TYPE x gauge\nx 1\ndovecot_master_up NaN\ndovecot_service_processes{more=\"1\",service=\"a\"} 2\ndovecot_service_client_limit{service=\"a\"} +Inf\n# EOF\n",
        );
        let page = page.expect("a page");
        assert_eq!(page.of(&metrics::MASTER_UP).count(), 0);
        assert_eq!(page.of(&metrics::SERVICE_PROCESSES).collect::<Vec<_>>(), [(&["a".to_owned()][..], 2.0)]);
        assert_eq!(
            page.of(&metrics::SERVICE_CLIENT_LIMIT).next().map(|(_, value)| value),
            Some(f64::INFINITY)
        );
        for bad in
            ["x\n# EOF\n", "x{ 1\n# EOF\n", "x{a=\"} 1\n# EOF\n", "x one\n# EOF\n", "<html>\n", "", "x 1\n"]
        {
            assert!(Page::parse(bad).is_err(), "{bad:?}");
        }
    }
}
