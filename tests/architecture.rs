//! Holds the levels: a file names only modules below it, and a foreign crate only where that crate has its place.

#![expect(clippy::unwrap_used, reason = "a test that cannot look fails")]

use std::{collections::BTreeMap, fs, path::Path};

/// Modules by level, words first. `main.rs` wires them and may name all.
const LEVELS: [&[&str]; 10] = [
    &["service"],
    &["cli"],
    // Below the log, which takes from it what the master remembers.
    &["master"],
    &["processes", "listeners", "limits", "log"],
    &["metrics", "tally"],
    &["checkpoint"],
    &["exporter"],
    &["health", "report"],
    &["web"],
    &["systemd"],
];

/// Foreign crates, and the files that alone may name them.
const PLACES: [(&str, &[&str]); 22] = [
    ("axum", &["web/config.rs", "web/guard.rs", "web/routes.rs", "web/serve.rs"]),
    ("base64", &["web/auth.rs"]),
    ("bcrypt", &["web/auth.rs", "web/config.rs"]),
    ("clap", &["cli.rs", "main.rs"]),
    ("glob", &["limits/config/include.rs", "log/files.rs"]),
    ("hyper", &["web/serve.rs"]),
    ("hyper_util", &["web/serve.rs"]),
    ("jiff", &["log/stamp.rs", "report/json.rs", "report/words.rs", "web/config.rs"]),
    ("linemux", &["log/hint.rs"]),
    ("listenfd", &["systemd.rs"]),
    ("memchr", &["log/export.rs", "log/grammar.rs", "log/header.rs", "log/lines.rs", "log/needles.rs"]),
    (
        "procfs",
        &[
            "listeners.rs",
            "processes/cgroup.rs",
            "processes/own.rs",
            "processes/process.rs",
            "processes/scan.rs",
        ],
    ),
    ("prometheus_client", &["metrics.rs"]),
    // The log has a module of that name.
    ("::ring", &["web/auth.rs"]),
    (
        "rustix",
        &[
            "limits/doveconf.rs",
            "listeners/diag.rs",
            "log/bell.rs",
            "log/copies.rs",
            "log/follow.rs",
            "log/place.rs",
            "log/reader.rs",
            "main.rs",
            "master.rs",
            "processes/process.rs",
            "processes/sampler.rs",
            "processes/scan.rs",
            "processes/walk.rs",
            "report/run.rs",
            "web/serve.rs",
        ],
    ),
    ("sd_notify", &["systemd.rs"]),
    ("serde_json", &["checkpoint.rs", "log/header.rs", "report/history.rs", "report/json.rs"]),
    ("serde_saphyr", &["web/config.rs"]),
    ("tokio_rustls", &["web/clients.rs", "web/serve.rs", "web/tls.rs"]),
    ("tower_http", &["web/routes.rs"]),
    ("ureq", &["report/history.rs", "report/source.rs"]),
    ("x509_cert", &["web/clients.rs"]),
];

fn sources() -> BTreeMap<String, String> {
    fn enter(folder: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                enter(&path, root, found);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                found.insert(name, code);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    enter(&root, &root, &mut found);
    found
}

/// The words of the code that stand for something: comments and strings do not count.
fn words(code: &str) -> Vec<&str> {
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let outside = lines.flat_map(|line| line.split('"').step_by(2));
    outside
        .flat_map(|part| part.split(|byte: char| !byte.is_alphanumeric() && !"_:".contains(byte)))
        .collect()
}

/// The modules of this crate that `code` names, in a path or in a group `use crate::{...}`.
fn named_modules(code: &str) -> Vec<String> {
    let mut named = Vec::new();
    for (place, _) in code.match_indices("crate::") {
        let rest = &code[place + "crate::".len()..];
        let group = rest.strip_prefix('{').and_then(|group| group.split_once(';')).map(|(group, _)| group);
        let parts = match group {
            Some(group) => top_level(group),
            None => vec![rest],
        };
        let word = |name: &str| {
            name.split(|byte: char| !byte.is_alphanumeric() && byte != '_').next().unwrap().to_owned()
        };
        named.extend(parts.into_iter().map(word).filter(|name| !name.is_empty()));
    }
    named
}

/// Splits `a::{b, c}, d}` at the commas outside inner braces.
fn top_level(group: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = group.split(|byte: char| {
        depth += i32::from(byte == '{') - i32::from(byte == '}');
        byte == ',' && depth == 0
    });
    parts.map(str::trim).collect()
}

fn level(module: &str) -> usize {
    let found = LEVELS.iter().position(|modules| modules.contains(&module));
    found.unwrap_or_else(|| panic!("{module} has no level: give it one in LEVELS"))
}

#[test]
fn modules_name_only_what_is_below_them() {
    let mut checked = 0;
    for (file, code) in sources() {
        if file == "main.rs" || file == "lib.rs" {
            continue;
        }
        let module = file.split(['/', '.']).next().unwrap();
        for named in named_modules(&code) {
            assert!(
                named == module || level(&named) < level(module),
                "src/{file}: {module} names {named}, which is not below it"
            );
            checked += 1;
        }
    }
    assert!(checked > 20, "the test looks at {checked} names only: it does not find them");
}

#[test]
fn foreign_crates_keep_to_their_places() {
    for (krate, places) in PLACES {
        let mut used = Vec::new();
        for (file, code) in sources() {
            let path = format!("{krate}::");
            if words(&code).iter().any(|word| word.starts_with(&path)) {
                assert!(
                    places.contains(&file.as_str()),
                    "src/{file} names {krate}, whose place is {places:?}"
                );
                used.push(file);
            }
        }
        assert_eq!(used.len(), places.len(), "{krate} is used in {used:?} only");
    }
}

#[test]
fn files_are_short() {
    for (file, code) in sources() {
        assert!(code.lines().count() <= 400, "src/{file} has more than 400 lines without its tests");
    }
}
