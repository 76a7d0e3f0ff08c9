//! `docs/METRICS.md` is made from the catalogue: `UPDATE_GOLDEN=1` writes it anew.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use dovecot_capacity_exporter::metrics::{CATALOGUE, Kind};

fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\nMade from the program's own catalogue. What is not known is absent, never 0; a counter that an alert \
         needs is there at 0\nfrom the first scrape. `service` is Dovecot's name of a service, `imap-login` for instance: if your \
         scrape configuration sets\na target label `service` as well, as a ServiceMonitor does, say `honor_labels: true`.\n\n\
         Of a service that lets nobody log in, nor serves who has, only its processes, `process_limit`, `client_limit` and drop\nwarnings are shown until \
         it has a process or the log tells of it: Dovecot has a score of such services.\n\n\
         | metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for metric in CATALOGUE {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Info => "info",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(text, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help)
            .expect("a String");
    }
    text
}

#[test]
fn the_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, document()).expect("written");
    }
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), document(), "run it with UPDATE_GOLDEN=1");
}

#[test]
fn the_catalogue_keeps_its_rules() {
    let mut names = BTreeSet::new();
    for metric in CATALOGUE {
        assert!(names.insert(metric.name), "{} stands there twice", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        assert_eq!(metric.name.ends_with("_info"), metric.kind == Kind::Info, "{}", metric.name);
        assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '\\', '|']), "{}", metric.name);
        assert!(
            metric.name.starts_with("dovecot_") || metric.name.starts_with("process_"),
            "{}",
            metric.name
        );
    }
}

/// Every metric of the catalogue is on some golden page, so none is there in name only; but for what only a running
/// kernel tells, which an end-to-end test compares.
#[test]
fn every_metric_is_on_a_page() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let pages = fs::read_dir(golden)
        .expect("the folder")
        .map(|file| fs::read_to_string(file.expect("a file").path()));
    let pages: String = pages.map(|page| page.expect("text")).collect();
    for metric in CATALOGUE.iter().filter(|metric| metric.name != "dovecot_listener_queue_limit") {
        let sample =
            |line: &str| line.strip_prefix(metric.name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        assert!(pages.lines().any(sample), "{}", metric.name);
    }
}
