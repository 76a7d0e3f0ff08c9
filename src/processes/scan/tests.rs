use super::*;
use std::fs;

use crate::processes::made_up::Proc;

fn counts(census: &Census) -> Vec<(&str, u64)> {
    census.programs.iter().map(|(program, count)| (program.as_str(), *count)).collect()
}

fn census(proc: &Proc) -> Census {
    Scanner::default().scan(proc.path(), &Wanted::default()).expect("it can be seen")
}

#[test]
fn only_live_children_of_the_master_that_called_exec_count() {
    let proc = Proc::new();
    proc.master(100, "dovecot");
    proc.process(102, 100, "S", "imap-login", b"dovecot/imap-login\0");
    proc.process(103, 100, "S", "imap-login", b"dovecot/imap-login [127.0.0.1 pre-login]\0");
    proc.process(104, 100, "Z", "imap-login", b"");
    proc.process(105, 100, "R", "dovecot", b"/usr/sbin/dovecot\0-F\0");
    proc.process(106, 100, "R", "imap-login", b"");
    proc.vanished(107);
    proc.process(108, 100, "S", "submission-login", b"dovecot/submission-login\0");
    // A user's process, an orphan of an earlier master, a child of a service.
    proc.process(109, 1, "S", "imap-login", b"dovecot/imap-login\0");
    proc.process(110, 102, "S", "imap-login", b"dovecot/imap-login\0");
    proc.process(111, 100, "S", "sh", b"/bin/sh\0/usr/local/bin/postlogin\0");
    // No process: a file, a name that is not a number.
    fs::write(proc.path().join("uptime"), "1 1").unwrap();
    let census = census(&proc);
    assert_eq!(counts(&census), [("imap-login", 2), ("log", 1), ("submission-login", 1)]);
    assert_eq!(census.master.map(|master| (master.pid, master.start)), Some((100, 100)));
    assert_eq!((census.generation, census.malformed), (Some((101, 101)), 0));
}

#[test]
fn children_that_the_kernel_does_not_list_count_too() {
    let proc = Proc::new();
    proc.master(100, "dovecot").process(102, 100, "S", "imap-login", b"dovecot/imap-login\0");
    fs::write(proc.path().join("100/task/100/children"), "101 ").unwrap();
    assert_eq!(counts(&census(&proc)), [("imap-login", 1), ("log", 1)]);
    fs::remove_file(proc.path().join("100/task/100/children")).unwrap();
    assert_eq!(counts(&census(&proc)), [("imap-login", 1), ("log", 1)]);
}

#[test]
fn a_process_that_makes_no_sense_is_left_out_and_said() {
    let proc = Proc::new();
    proc.master(100, "dovecot");
    proc.raw(102, "102 (imap-lo", b"dovecot/imap-login\0");
    let census = census(&proc);
    assert_eq!((counts(&census), census.malformed), (vec![("log", 1)], 1));
}

#[test]
fn no_dovecot() {
    let proc = Proc::new();
    proc.process(50, 1, "S", "bash", b"bash\0");
    let census = census(&proc);
    assert!(census.master.is_none() && census.programs.is_empty());
}

#[test]
fn a_reload_is_a_new_generation() {
    let proc = Proc::new();
    proc.master(100, "dovecot");
    let before = census(&proc).generation;
    proc.process(150, 100, "S", "log", b"dovecot/log\0");
    let after = census(&proc);
    assert!(after.generation > before);
    assert_eq!(counts(&after), [("log", 2)]);
}

#[test]
fn of_several_instances_the_wanted_one() {
    let proc = Proc::new();
    proc.master(100, "dovecot").process(102, 100, "S", "imap", b"dovecot/imap\0");
    proc.master(200, "dovecot-two").process(202, 200, "S", "lmtp", b"dovecot-two/lmtp\0");
    let chosen = |pid, name: Option<&str>| {
        let wanted = Wanted { pid, instance_name: name.map(Into::into) };
        Scanner::default()
            .scan(proc.path(), &wanted)
            .map(|census| census.master.map(|master| master.pid))
            .map_err(|blind| blind.to_string())
    };
    assert_eq!(chosen(Some(200), None), Ok(Some(200)));
    assert_eq!(chosen(Some(100), Some("two")), Ok(Some(100)));
    assert_eq!(chosen(None, Some("two")), Ok(Some(200)));
    assert_eq!(chosen(None, Some("dovecot-two")), Ok(Some(200)));
    // A stale master.pid.
    assert_eq!(chosen(Some(7), Some("dovecot")), Ok(Some(100)));
    assert_eq!(chosen(None, Some("three")), Ok(None));
    let several = chosen(None, None).expect_err("no way to tell");
    for word in ["100 (dovecot)", "200 (dovecot-two)", "--dovecot.config"] {
        assert!(several.contains(word), "{several}");
    }
}

#[test]
fn a_reload_command_is_no_second_master() {
    let proc = Proc::new();
    proc.master(100, "dovecot").process(300, 50, "S", "dovecot", b"dovecot\0reload\0");
    assert_eq!(census(&proc).master.map(|master| master.pid), Some(100));
}

#[test]
fn a_master_that_has_just_started_is_one() {
    let proc = Proc::new();
    proc.process(100, 1, "S", "dovecot", b"/usr/sbin/dovecot\0-F\0");
    let census = census(&proc);
    assert_eq!((census.master.map(|master| master.pid), census.generation), (Some(100), None));
    let wanted = |pid| Wanted { pid, instance_name: Some("one".into()) };
    let seen = |pid| Scanner::default().scan(proc.path(), &wanted(pid)).expect("it can be seen").master;
    assert_eq!(seen(Some(100)).map(|master| master.pid), Some(100));
    assert!(seen(None).is_none(), "it may be another instance's");
}

#[test]
fn a_proc_that_hides_processes_is_no_empty_one() {
    let hidden = |proc: &Proc| {
        let blind = Scanner::default().scan(proc.path(), &Wanted::default()).expect_err("hidden");
        assert!(matches!(blind, Blind::Hidden(_)), "{blind}");
    };
    // Process 1 is not shown, as with hidepid=2.
    let proc = Proc::new();
    proc.master(100, "dovecot");
    fs::remove_dir_all(proc.path().join("1")).unwrap();
    hidden(&proc);
    // Only this process and its ancestors, as in a PID name space of its own.
    let proc = Proc::new();
    proc.process(5, 1, "S", "exporter", b"exporter\0");
    std::os::unix::fs::symlink("5", proc.path().join("self")).unwrap();
    hidden(&proc);
    proc.process(6, 1, "S", "other", b"other\0");
    assert!(census(&proc).master.is_none());
    // This process is process 1, and something is run beside it.
    fs::remove_file(proc.path().join("self")).unwrap();
    std::os::unix::fs::symlink("1", proc.path().join("self")).unwrap();
    hidden(&proc);
    // What is no proc file system hides nothing.
    let empty = tempfile::tempdir().unwrap();
    for path in [empty.path(), &empty.path().join("x")] {
        let wrong = Scanner::default().scan(path, &Wanted::default()).expect_err("wrong").to_string();
        assert!(wrong.contains("--path.procfs"), "{wrong}");
    }
}

/// What running Dovecots showed in every state of their clients, with `verbose_proctitle`: in each snapshot all
/// processes of the master count, under the names of their executables.
#[test]
fn snapshots_of_real_servers() {
    let mut snapshots = 0;
    for generation in ["23", "24"] {
        let file = format!(
            "{}/tests/fixtures/proc/{generation}-be-states-title-yes.proc.txt",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = fs::read_to_string(file).unwrap();
        for snapshot in text.split("### ").skip(1) {
            let proc = Proc::new();
            let mut expected = BTreeMap::new();
            for line in snapshot.lines().filter(|line| line.starts_with("pid=")) {
                let field = |name: &str, end: &str| {
                    let (_, rest) = line.split_once(&format!("{name}=")).unwrap();
                    rest.split_once(end).unwrap().0
                };
                let cmdline = field("cmdline", "' ").trim_start_matches("b'").replace("\\x00", "\0");
                let (pid, parent) = (field("pid", " ").parse().unwrap(), field("ppid", " ").parse().unwrap());
                proc.process(
                    pid,
                    parent,
                    field("state", " "),
                    field(" comm", " ").trim_matches('\''),
                    cmdline.as_bytes(),
                );
                let executable = field("exe", " ").rsplit('/').next().unwrap().to_owned();
                if executable != "dovecot" {
                    *expected.entry(executable).or_default() += 1;
                }
            }
            let expected: Vec<(&str, u64)> =
                expected.iter().map(|(name, count)| (name.as_str(), *count)).collect();
            assert_eq!(counts(&census(&proc)), expected, "{generation}: {snapshot}");
            snapshots += 1;
        }
    }
    assert!(snapshots > 10, "{snapshots}");
}
