//! Where a setting is, and where a further one is read last.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use super::{
    include::Lines,
    line::{self, Line, Piece},
};
use crate::{limits::defaults::Generation, service::Service};

/// The file whose end Dovecot reads last: what stands there overrides all else. Debian's configuration ends with
/// `!include_try local.conf`.
pub fn last_file(config: &Path) -> Option<PathBuf> {
    let mut lines = Lines::of(config).ok()?;
    let (mut last, mut depth) = (None, 0);
    while let Some(text) = lines.next() {
        match parse(&text) {
            Some(Line::Begin(..) | Line::Group(..)) => depth += 1,
            Some(Line::End) => depth -= 1,
            Some(line) => {
                last = Some(line);
                continue;
            }
            None => continue,
        }
        last = None;
    }
    match last {
        Some(Line::Include(path, _)) if depth == 0 && !path.contains(['*', '?', '[', '{']) => {
            Some(config.parent()?.join(path))
        }
        _ => Some(config.to_owned()),
    }
}

/// What sets one of `keys` of `service` now, in the order in which Dovecot reads it: the key, and the place. The error
/// is why not all of it can be read.
pub fn of_setting(config: &Path, service: &Service, keys: &[&str]) -> Result<Vec<(String, String)>, String> {
    let (mut places, mut blocks) = (Vec::new(), Vec::new());
    let unread = |path: &Path, why: &dyn Display| format!("{} cannot be read ({why})", path.display());
    let mut lines = Lines::of(config).map_err(|error| unread(config, &error))?;
    while let Some(text) = lines.next() {
        match parse(&text) {
            Some(Line::Begin(kind, name)) => blocks.push((kind, name)),
            Some(Line::Group(kind, name)) => blocks.push((format!("@{kind}"), name)),
            Some(Line::End) => drop(blocks.pop()),
            Some(Line::Set(key, _)) => {
                let path = format!("service/{service}/");
                let within = matches!(blocks.as_slice(), [(kind, name)] if kind == "service" && name == service.as_str());
                let key = if within { Some(key.as_str()) } else { key.strip_prefix(&path) };
                let known = |key: &&str| keys.contains(key);
                // In 2.4 service_process_limit is the same there, and service_count none of these.
                let key = key.filter(known).or_else(|| key?.strip_prefix("service_").filter(known));
                places.extend(key.map(|key| (key.to_owned(), lines.place())));
            }
            Some(Line::Include(pattern, must)) => {
                let denied = lines.include(&pattern, must)?;
                denied.first().map_or(Ok(()), |path| Err(unread(path, &"permission denied")))?;
            }
            None => {}
        }
    }
    Ok(places)
}

fn parse(text: &str) -> Option<Line> {
    match line::piece(text, Generation::V24) {
        Piece::Ended(text) => line::parse(text, Generation::V24).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("dovecot.conf");
        fs::write(&path, text).expect("a file");
        (folder, path)
    }

    #[test]
    fn what_is_read_last() {
        for (text, last) in [
            ("!include conf.d/*.conf\n!include_try local.conf\n# Nothing more.\n\n", "local.conf"),
            ("!include_try local.conf\nprotocols = imap\n", "dovecot.conf"),
            ("!include_try local.conf\nservice imap {\n}\n", "dovecot.conf"),
            ("!include conf.d/*.conf\n", "dovecot.conf"),
            ("service imap {\n  !include local.conf\n}\n", "dovecot.conf"),
            ("", "dovecot.conf"),
        ] {
            let (folder, path) = config(text);
            assert_eq!(last_file(&path), Some(folder.path().join(last)), "{text}");
        }
        assert_eq!(last_file(Path::new("/nonexistent/dovecot.conf")), None);
    }

    #[test]
    fn where_it_is_set() {
        let text = "!include_try more.conf\nservice imap-login {\n  inet_listener imap {\n    process_limit = 1\n  }\n\
             process_limit = 5\n}\nservice imap {\n  process_limit = 6\n}\nservice/imap-login/process_limit = 7\n";
        let (folder, path) = config(text);
        fs::write(folder.path().join("more.conf"), "service imap-login {\n  service_process_limit = 4\n}\n")
            .expect("a file");
        let service = Service::parse("imap-login").expect("a name");
        let places = of_setting(&path, &service, &["process_limit"]);
        let place = |file, line| {
            ("process_limit".to_owned(), format!("{} line {line}", folder.path().join(file).display()))
        };
        assert_eq!(
            places,
            Ok(vec![place("more.conf", 2), place("dovecot.conf", 6), place("dovecot.conf", 11)])
        );
        assert_eq!(of_setting(&path, &service, &["client_limit"]), Ok(vec![]));
    }

    #[test]
    fn what_cannot_be_read_may_set_it() {
        let (folder, path) =
            config("!include a.conf\n!include b.conf\nservice imap {\n  process_limit = 5\n}\n");
        let place = |file: &str| folder.path().join(file);
        fs::write(place("a.conf"), vec![b'\n'; 8 << 20]).expect("a file");
        fs::write(place("b.conf"), "\n").expect("a file");
        let service = Service::parse("imap").expect("a name");
        let places = || of_setting(&path, &service, &["process_limit"]);
        let words = |file: &str, why| Err(format!("{} cannot be included ({why})", place(file).display()));
        let large = "the configuration is too large: it has more than 8 MiB or 1000 files";
        assert_eq!(places(), words("a.conf", large));
        fs::remove_file(place("a.conf")).expect("a file");
        assert_eq!(places(), Err(format!("nothing matches {}", place("a.conf").display())));
        assert_eq!(
            of_setting(&place("c.conf"), &service, &[]).map_err(|error| error.contains("c.conf")),
            Err(true)
        );
    }
}
