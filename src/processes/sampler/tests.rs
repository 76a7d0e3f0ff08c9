use super::*;
use std::fs;

use crate::processes::made_up::Proc;

fn sample(sampler: &mut Sampler, proc: &Proc) -> Vec<(String, u64)> {
    let programs = sampler.sample(proc.path()).expect("a master");
    programs.into_iter().map(|(program, count)| (program.as_str().to_owned(), count)).collect()
}

fn watching(master: i32) -> Sampler {
    let mut sampler = Sampler::default();
    sampler.watch(Some(master));
    sampler
}

#[test]
fn children_that_called_exec_count() {
    let proc = Proc::new();
    proc.master(100, "dovecot");
    proc.process(102, 100, "S", "imap-login", b"dovecot/imap-login\0");
    proc.process(103, 100, "R", "dovecot", b"/usr/sbin/dovecot\0-F\0");
    proc.process(104, 1, "S", "imap-login", b"dovecot/imap-login\0");
    proc.process(105, 100, "S", "sh", b"/bin/sh\0");
    let mut sampler = watching(100);
    assert_eq!(sample(&mut sampler, &proc), [("imap-login".to_owned(), 1), ("log".to_owned(), 1)]);
    // Known ones are not read again; the one that had not called exec is.
    for pid in [102, 103] {
        fs::write(proc.path().join(format!("{pid}/cmdline")), b"dovecot/imap\0").expect("written");
    }
    let expected = [("imap", 1), ("imap-login", 1), ("log", 1)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(sample(&mut sampler, &proc), expected);
    // A child that left the list and is there again may be another.
    fs::write(proc.path().join("100/task/100/children"), "101 103 ").expect("written");
    assert_eq!(sample(&mut sampler, &proc).len(), 2);
    fs::write(proc.path().join("100/task/100/children"), "101 103 102 ").expect("written");
    assert_eq!(sample(&mut sampler, &proc), [("imap".to_owned(), 2), ("log".to_owned(), 1)]);
}

#[test]
fn without_a_master_there_is_no_sample() {
    let proc = Proc::new();
    assert!(Sampler::default().sample(proc.path()).is_none());
    assert!(watching(100).sample(proc.path()).is_none());
}

#[test]
fn a_burst_shows_for_a_minute() {
    let service = Service::parse("imap-login").expect("a name");
    let (mut peaks, start) = (Peaks::default(), Instant::now());
    let at = |second: u64| start + Duration::from_secs(second);
    for second in 0..100 {
        let count = if second == 20 { 9 } else { 2 };
        peaks.note(at(second), [(service.clone(), count)].into());
        assert_eq!(peaks.of(&service), if (20..80).contains(&second) { 9 } else { 2 }, "second {second}");
    }
    assert_eq!(peaks.of(&Service::other()), 0);
}

#[test]
fn a_sample_stands_for_the_time_since_the_one_before() {
    let service = Service::parse("imap-login").expect("a name");
    let (mut peaks, start) = (Peaks::default(), Instant::now());
    let mut note = |milliseconds: u64, reached: bool| {
        let reached = reached.then(|| service.clone()).into_iter();
        peaks.note_limits(start + Duration::from_millis(milliseconds), reached);
        peaks.at_limit(&service).as_millis()
    };
    assert_eq!(note(0, false), 0);
    assert_eq!(note(1000, true), 1000);
    assert_eq!(note(2200, true), 2200);
    assert_eq!(note(3000, false), 2200);
    // The machine slept.
    assert_eq!(note(900_000, true), 4200);
}
