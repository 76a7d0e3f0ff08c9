//! The landing page: what a person sees first. Services beside their limits, and the state of each source.

use std::{
    fmt::{self, Display, Write},
    time::SystemTime,
};

use crate::{
    exporter::reading::{Reading, ServiceReading},
    limits::Limit,
    log::state::LogState,
    metrics,
    report::{
        facts::{Facts, ServiceFacts},
        troubles, words,
    },
};

const STYLE: &str = include_str!("landing.css");

/// The page as HTML, with the services that do nothing or without.
pub fn page(reading: &Reading, telemetry_path: &str, all: bool) -> String {
    let mut html = String::new();
    write(&mut html, reading, telemetry_path, all).expect("a String takes everything");
    html
}

fn write(html: &mut String, reading: &Reading, telemetry_path: &str, all: bool) -> fmt::Result {
    let version = env!("CARGO_PKG_VERSION");
    write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"refresh\" content=\"5\">\n\
         <title>Dovecot capacity exporter</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>Dovecot capacity exporter</h1><p>Version {version} · <a href=\"{telemetry_path}\">Metrics</a></p></header>\n<main>\n"
    )?;
    writeln!(html, "<h2>Services</h2>\n<p>{}</p>", Escaped(&summary(reading)))?;
    let facts = Facts::of(&reading.page());
    let of = |reading: &ServiceReading| facts.services.iter().find(|facts| facts.service == reading.service);
    let mut services: Vec<Row> =
        reading.services.iter().filter_map(|service| Some((service, of(service)?))).collect();
    services.sort_by(|(_, one), (_, other)| urgency(other).total_cmp(&urgency(one)));
    let active = services.iter().filter(|(_, facts)| facts.is_active()).count();
    write_services(html, if all { &services } else { &services[..active] })?;
    // Links, because what is unfolded does not outlive a refresh.
    if all {
        writeln!(html, "<p><a href=\"/\">Only services that do something</a></p>")?;
    } else {
        let idle = services.len() - active;
        writeln!(html, "<p><a href=\"/?all\">And {idle} services that do nothing</a></p>")?;
    }
    writeln!(
        html,
        "<p class=\"note\">A warning is a line in Dovecot's log, not a dropped client: one may stand for none or for hundreds. \
         After a reload there may be more processes than the limit. In performance mode (several clients in one process) \
         the number of processes says nothing about load, and only the master knows the connections.</p>"
    )?;
    write_sources(html, reading)?;
    html.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

fn summary(reading: &Reading) -> String {
    match &reading.census {
        Ok(census) => match &census.master {
            Some(master) => format!("Dovecot runs, its master process is {}.", master.pid),
            None => "No Dovecot runs.".to_owned(),
        },
        Err(_) => "Dovecot's processes cannot be seen.".to_owned(),
    }
}

/// A service as it was read, and what follows from that.
type Row<'a> = (&'a ServiceReading, &'a ServiceFacts);

/// Orders the services: those with warnings first, then by how full they are, then those that do anything at all.
fn urgency(service: &ServiceFacts) -> f64 {
    let warned = if service.warnings() > 0.0 { 1000.0 } else { 0.0 };
    let active = if service.is_active() { 1.0 } else { 0.0 };
    warned + active + service.share().unwrap_or_default()
}

fn write_services(html: &mut String, services: &[Row]) -> fmt::Result {
    html.push_str(
        "<div class=\"scroll\"><table>\n<thead><tr><th>Service<th class=\"wide\">Connections / capacity<th class=\"number\">Processes / limit\
         <th class=\"number\">Clients per process<th class=\"number\">Warnings<th>Last warning</tr></thead>\n<tbody>\n",
    );
    for (service, facts) in services {
        writeln!(
            html,
            "<tr><th scope=\"row\">{}<td>{}{} / {}<td class=\"number\">{}<td class=\"number\">{}<td class=\"number{}\">{}<td>{}</tr>",
            service.service,
            Meter(facts.share()),
            Known(facts.in_use()),
            Known(service.settings.connection_capacity()),
            Processes(service),
            Known(service.settings.client_limit.map(Limit::value)),
            if facts.warnings() > 0.0 { " bad" } else { "" },
            Known(facts.value(&metrics::SERVICE_DROP_WARNINGS)),
            troubles::last_warning(facts).map(ago).unwrap_or_default(),
        )?;
    }
    html.push_str("</tbody>\n</table></div>\n");
    Ok(())
}

fn write_sources(html: &mut String, reading: &Reading) -> fmt::Result {
    html.push_str("<h2>Sources</h2>\n<div class=\"scroll\"><table class=\"sources\">\n<tbody>\n");
    for (source, trouble) in reading.sources() {
        let logs: Vec<&LogState> = reading.logs.iter().filter(|log| log.source() == source).collect();
        for log in &logs {
            write_source(html, source, log.trouble.as_deref(), &of_log(log))?;
        }
        if logs.is_empty() {
            write_source(html, source, trouble, &detail(reading, source))?;
        }
    }
    html.push_str("</tbody>\n</table></div>\n");
    Ok(())
}

fn write_source(html: &mut String, source: &str, trouble: Option<&str>, detail: &str) -> fmt::Result {
    let (class, word) = if trouble.is_none() { ("good", "up") } else { ("bad", "down") };
    let detail = Escaped(trouble.unwrap_or(detail));
    writeln!(
        html,
        "<tr><th scope=\"row\">{source}<td class=\"{class}\">{word}<td class=\"wide\">{detail}</tr>"
    )
}

fn detail(reading: &Reading, source: &str) -> String {
    match source {
        "procfs" => format!("read in {:.1} ms", reading.duration.as_secs_f64() * 1000.0),
        "master" => "the master answered".to_owned(),
        "state" => "kept for the next start".to_owned(),
        _ => "the configuration was read".to_owned(),
    }
}

fn of_log(log: &LogState) -> String {
    let last = log
        .last_read
        .map_or_else(|| "nothing read since the start".to_owned(), |time| format!("last read {}", ago(time)));
    let progress = log.progress.map_or_else(String::new, |progress| {
        let files = if progress.files == 1 { String::new() } else { format!(", {} files", progress.files) };
        format!("{files}, {} bytes behind", progress.size - progress.position)
    });
    format!("{}, {last}{progress}", log.log)
}

fn ago(time: SystemTime) -> String {
    words::ago(time, SystemTime::now())
}

/// A number, or a dash if it is not known.
struct Known(Option<f64>);

impl Display for Known {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) if value.is_infinite() => formatter.write_str("unlimited"),
            Some(value) => write!(formatter, "{value}"),
            None => formatter.write_str("–"),
        }
    }
}

/// How full a service is, where that is known.
struct Meter(Option<f64>);

impl Display for Meter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(share) = self.0.filter(|share| share.is_finite()) else { return Ok(()) };
        let class = if share >= 1.0 { " class=\"full\"" } else { "" };
        write!(formatter, "<meter{class} value=\"{share:.3}\"></meter> ")
    }
}

/// Processes beside their limit, in force and on disk.
struct Processes<'a>(&'a ServiceReading);

impl Display for Processes<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.0;
        let in_force = service.settings.process_limit;
        #[expect(clippy::cast_precision_loss, reason = "for the eye")]
        let processes = service.processes.map(|processes| processes as f64);
        write!(formatter, "{} / {}", Known(processes), Known(in_force.map(Limit::value)))?;
        match service.configured.as_ref().and_then(|configured| configured.process_limit) {
            Some(configured) if in_force != Some(configured) => {
                write!(formatter, " ({} on disk)", Known(Some(configured.value())))
            }
            _ => Ok(()),
        }
    }
}

/// Text that may hold anything.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => formatter.write_str("&amp;"),
            '<' => formatter.write_str("&lt;"),
            '>' => formatter.write_str("&gt;"),
            '"' => formatter.write_str("&quot;"),
            _ => formatter.write_char(character),
        })
    }
}
