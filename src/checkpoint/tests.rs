use super::*;
use crate::{
    log::grammar::{DropWarning, Event},
    service::{LimitKind, Service},
};
use std::{collections::BTreeMap, time::SystemTime};

fn checkpoint() -> Checkpoint {
    let mut tally = Tally::default();
    let service = Service::parse("imap-login").expect("a name");
    let warning = DropWarning { service, limit: LimitKind::Process, number: Some(5), reuse_port: false };
    tally.count(&Event::DropWarning(warning), 3, Some(SystemTime::now()));
    let counts = LogCounts { lines: 7, ..LogCounts::default() };
    Checkpoint::new(tally, BTreeMap::from([("/var/log/mail.log".to_owned(), counts)]), Kept::default())
}

#[test]
fn what_is_saved_is_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    assert!(Checkpoint::load(&path).expect("nothing is wrong").is_none());
    let saver = Saver::new(path.clone()).expect("a thread");
    saver.finish(&checkpoint());
    let found = Checkpoint::load(&path).expect("nothing is wrong").expect("a state");
    assert_eq!(found.to_json(), checkpoint_with_time_of(&found).to_json());
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
}

/// Times are when the test ran.
fn checkpoint_with_time_of(other: &Checkpoint) -> Checkpoint {
    Checkpoint { tally: other.tally.clone(), ..checkpoint() }
}

#[test]
fn what_is_no_state_is_set_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    let whole = String::from_utf8(checkpoint().to_json()).expect("text");
    let older = whole.replace("state 1", "state 0");
    let names = whole.replace("\"imap-login\"", "\"../x\"");
    let cases = ["", "{}", "\0\0\0", "state", &whole[..whole.len() / 2], &older, &names];
    for bad in
        cases.map(ToOwned::to_owned).into_iter().chain([format!("{whole}{whole}")]).chain(changed(&whole))
    {
        let bad = &*bad;
        fs::write(&path, bad).expect("written");
        let reason = Checkpoint::load(&path).expect_err(bad);
        assert!(reason.contains("starts anew") && reason.contains("state.unusable"), "{reason}");
        assert!(!path.exists());
        assert_eq!(fs::read(folder.path().join("state.unusable")).expect("it is there"), bad.as_bytes());
    }
}

/// States that the reader of JSON takes, and that nobody wrote, or whose numbers cannot be.
fn changed(whole: &str) -> Vec<String> {
    let place = |offset: u64, before: &str, lines: &str| {
        let identity = r#"{"device":1,"inode":2,"birth":null}"#;
        let (before, lines) = (before.repeat(256), format!(r#"{{{lines},"piece":false,"since_long":32}}"#));
        let place = format!(
            r#"{{"identity":{identity},"offset":{offset},"fingerprint":"{before}","head":"{before}","lines":{lines}}}"#
        );
        whole.replace(r#""left":[]"#, &format!(r#""left":[{place}]"#))
    };
    for good in [place(300, "0a", r#""skipping":false"#), place(300, "61", r#""skipping":true"#)] {
        assert_eq!(Checkpoint::from_json(good.as_bytes()).map(|good| good.to_json()), Ok(good.into_bytes()));
    }
    let (count, other) = (r#""reloads":0"#, r#"{"/var/log/a":{"/var/log/b":{"seen":"#);
    let other = format!(
        r#""logs":{other}{{"secs_since_epoch":1,"nanos_since_epoch":1}},"real":null,"places":[]}}}}"#
    );
    vec![
        format!("{whole}\n"),
        whole.replace(count, r#""reloads":0,"reloads":0"#),
        whole.replace(r#""cursor":null"#, ""),
        whole.replace(",\"cursor\":null", ""),
        whole.replace(count, r#""reloads":9007199254740993"#),
        whole.replace(count, r#""reloads":18446744073709551615"#),
        whole.replace(r#""cursor":null"#, "\"cursor\":\"a\\u0000\""),
        whole.replace(r#""logs":{},"left""#, &format!(r#"{other},"left""#)),
        // Fewer bytes were read than stand before.
        place(3, "0a", r#""skipping":false"#),
        // Fewer bytes stand before than are known to.
        place(300, "", r#""skipping":false"#).replace(r#""head":"""#, r#""head":"0a""#),
        // Within a line that is not passed over.
        place(300, "61", r#""skipping":false"#),
        place(300, "0a0a", r#""skipping":false"#),
    ]
}

#[test]
fn a_folder_in_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let reason = Checkpoint::load(folder.path()).expect_err("no file");
    assert!(reason.contains("cannot be read"), "{reason}");
    let saver = Saver::new(folder.path().to_owned()).expect("a thread");
    assert!(await_true(|| saver.save(&checkpoint())));
    let trouble = await_some(|| saver.result());
    assert!(trouble.expect("a reason").contains("cannot be written"));
}

fn await_true(mut condition: impl FnMut() -> bool) -> bool {
    while !condition() {
        thread::yield_now();
    }
    true
}

fn await_some<T>(mut find: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = find() {
            return found;
        }
        thread::yield_now();
    }
}
