//! The catalogue: every metric's name, kind, labels and meaning, and how a page of them is written.

pub mod catalogue;
pub mod parse;

use std::fmt::{self, Write};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

pub use catalogue::*;

/// What a metric's values do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only rises while the exporter runs.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Is 1; its labels are what it tells.
    Info,
}

/// One entry of the catalogue.
#[derive(Debug, Eq, PartialEq)]
pub struct Metric {
    /// As Prometheus stores it.
    pub name: &'static str,
    /// What its values do.
    pub kind: Kind,
    /// The names of its labels, in the order in which a sample gives their values.
    pub labels: &'static [&'static str],
    /// What it is, its source and when it is absent. Ends in a full stop.
    pub help: &'static str,
}

impl Metric {
    /// Name and unit as OpenMetrics has them: without the suffix of a counter or an info metric.
    fn family(&self) -> (&'static str, Option<Unit>) {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Info => "_info",
        };
        let name = self.name.strip_suffix(suffix).unwrap_or(self.name);
        let with =
            |unit: Unit| name.strip_suffix(unit.as_str())?.strip_suffix('_').map(|name| (name, Some(unit)));
        with(Unit::Seconds).or_else(|| with(Unit::Bytes)).unwrap_or((name, None))
    }
}

/// The samples of one page, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page(Vec<Sample>);

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    metric: &'static Metric,
    labels: Vec<String>,
    value: f64,
}

/// The content type of [`Page::openmetrics`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of [`Page::classic`].
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Page {
    /// Adds a sample; one label value for each of the metric's label names.
    pub fn add(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        self.0.push(Sample { metric, labels: labels.iter().map(ToString::to_string).collect(), value });
    }

    /// Adds a sample if its value is known.
    pub fn add_known(&mut self, metric: &'static Metric, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.add(metric, labels, value);
        }
    }

    /// The samples of `metric`: values of its labels, and what they are at.
    pub fn of(&self, metric: &'static Metric) -> impl Iterator<Item = (&[String], f64)> {
        let samples = self.0.iter().filter(move |sample| std::ptr::eq(sample.metric, metric));
        samples.map(|sample| (&sample.labels[..], sample.value))
    }

    /// The page as OpenMetrics 1.0 has it.
    pub fn openmetrics(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    /// The page in Prometheus' text format 0.0.4, which `prometheus_client` does not write.
    pub fn classic(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        for (metric, samples) in self.families() {
            let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
            writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.help, metric.name)?;
            for sample in samples {
                text.push_str(metric.name);
                for (index, (name, value)) in metric.labels.iter().zip(&sample.labels).enumerate() {
                    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                    write!(text, "{}{name}=\"{value}\"", if index == 0 { '{' } else { ',' })?;
                }
                let end = if metric.labels.is_empty() { "" } else { "}" };
                let value =
                    if sample.value.is_infinite() { "+Inf".to_owned() } else { sample.value.to_string() };
                writeln!(text, "{end} {value}")?;
            }
        }
        Ok(text)
    }

    /// The samples of each metric that has any, in the order of the catalogue.
    fn families(&self) -> impl Iterator<Item = (&'static Metric, Vec<&Sample>)> {
        CATALOGUE.into_iter().filter_map(|metric| {
            let samples: Vec<&Sample> =
                self.0.iter().filter(|sample| std::ptr::eq(sample.metric, metric)).collect();
            (!samples.is_empty()).then_some((metric, samples))
        })
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (metric, samples) in self.families() {
            let (name, unit) = metric.family();
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
            };
            let mut family = encoder.encode_descriptor(name, metric.help, unit.as_ref(), kind)?;
            for sample in samples {
                let values = sample.labels.iter().map(String::as_str);
                let labels: Vec<(&str, &str)> = metric.labels.iter().copied().zip(values).collect();
                match metric.kind {
                    Kind::Info => family.encode_info(&labels)?,
                    kind if labels.is_empty() => encode_value(kind, &mut family, sample.value)?,
                    kind => encode_value(kind, &mut family.encode_family(&labels)?, sample.value)?,
                }
            }
        }
        Ok(())
    }
}

/// Writes whole numbers without a fraction, for people.
fn encode_value(kind: Kind, encoder: &mut MetricEncoder, value: f64) -> fmt::Result {
    #[expect(clippy::cast_possible_truncation, reason = "only used where it is exact")]
    let whole = Some(value as i64).filter(|_| value.fract() == 0.0 && value.abs() < 1e15);
    match (kind, whole) {
        (Kind::Counter, Some(whole)) => {
            encoder.encode_counter::<NoLabelSet, u64, f64>(&whole.unsigned_abs(), None)
        }
        (Kind::Counter, None) => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
        (_, Some(whole)) => encoder.encode_gauge(&whole),
        (_, None) => encoder.encode_gauge(&value),
    }
}
