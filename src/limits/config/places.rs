//! Where a setting is, and where a further one is read last.

use std::path::{Path, PathBuf};

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

/// The places that set one of `keys` of `service` now, in the order in which Dovecot reads them.
pub fn of_setting(config: &Path, service: &Service, keys: &[&str]) -> Vec<String> {
    let (mut places, mut blocks) = (Vec::new(), Vec::new());
    let Ok(mut lines) = Lines::of(config) else { return places };
    while let Some(text) = lines.next() {
        match parse(&text) {
            Some(Line::Begin(kind, name)) => blocks.push((kind, name)),
            Some(Line::Group(kind, name)) => blocks.push((format!("@{kind}"), name)),
            Some(Line::End) => drop(blocks.pop()),
            Some(Line::Set(key, _)) => {
                let path = format!("service/{service}/");
                let within = matches!(blocks.as_slice(), [(kind, name)] if kind == "service" && name == service.as_str());
                let key = if within { Some(key.as_str()) } else { key.strip_prefix(&path) };
                if key.is_some_and(|key| {
                    keys.contains(&key.strip_prefix("service_").unwrap_or(key)) || keys.contains(&key)
                }) {
                    places.push(lines.place());
                }
            }
            Some(Line::Include(pattern, must)) => drop(lines.include(&pattern, must)),
            None => {}
        }
    }
    places
}

fn parse(text: &str) -> Option<Line> {
    match line::piece(text, Generation::V24) {
        Piece::Ended(text) => line::parse(text, Generation::V24).ok(),
        _ => None,
    }
}
