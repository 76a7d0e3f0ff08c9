use super::*;
use crate::log::{
    follow::MAX_RETIRED,
    grammar::{Event, NEEDLES},
    place::file_clock,
    tail::{BLOCK, TURN},
};
use std::{
    fs::{self, File},
    io::Write,
};
use tempfile::TempDir;

/// A folder with logs in it, what follows them, and the numbers of the warnings that came out.
struct Log {
    folder: TempDir,
    files: Files,
    seen: Vec<u32>,
    now: Instant,
}

impl Log {
    /// Follows `dovecot.log`, which holds `before`, unless that is nothing.
    fn with(before: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dovecot.log");
        if let Some(before) = before {
            fs::write(&path, before).unwrap();
        }
        Self::of(folder, &["dovecot.log"])
    }

    fn of(folder: TempDir, names: &[&str]) -> Self {
        let files = Files::new(&[], SystemTime::now(), KeptFiles::default());
        let mut log = Self { folder, files, seen: vec![], now: Instant::now() };
        log.follow(names, KeptFiles::default());
        log
    }

    fn follow(&mut self, names: &[&str], kept: KeptFiles) {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        self.files = Files::new(&paths, SystemTime::now(), kept);
    }

    /// As if the program had ended and begun again, with what it saved.
    fn restart(&mut self, names: &[&str]) {
        assert!(self.files.kept().are_possible());
        let saved = serde_json::to_string(&self.files.kept()).unwrap();
        self.follow(names, serde_json::from_str(&saved).unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self, name: &str) -> File {
        File::options().append(true).create(true).open(self.path(name)).unwrap()
    }

    fn pass(&mut self) -> bool {
        let (seen, needles) = (&mut self.seen, Needles::new(&NEEDLES));
        self.files.pass(true, self.now, &needles, &mut |found| {
            if let Event::DropWarning(warning) = &found.event {
                seen.extend(warning.number);
            }
            true
        })
    }

    /// Lets so much time go by that quiet files are closed.
    fn linger(&mut self) {
        self.now += LINGER;
        self.pass();
        self.pass();
    }

    fn state(&self) -> LogState {
        self.files.states().next().unwrap().clone()
    }

    fn position(&self) -> u64 {
        self.state().progress.unwrap().position
    }

    fn expect(&mut self, numbers: impl IntoIterator<Item = u32>) {
        self.pass();
        assert_eq!(self.seen, numbers.into_iter().collect::<Vec<u32>>());
        self.pass();
        assert!(!self.pass(), "nothing is left, and nothing comes twice");
    }
}

fn line(number: u32) -> String {
    format!(
        "Nov 23 15:54:28 master: Warning: service(imap-login): process_limit ({number}) reached, client connections are being dropped\n"
    )
}

fn write(mut file: &File, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        file.write_all(line(number).as_bytes()).unwrap();
    }
}

#[test]
fn starts_at_the_end_of_what_is_there() {
    let mut log = Log::with(Some(&line(1)));
    log.expect([]);
    write(&log.open("dovecot.log"), [2]);
    log.expect([2]);
    let state = log.state();
    let progress = state.progress.unwrap();
    assert_eq!(
        (state.counts.lines, progress.position, progress.size),
        (1, 2 * line(1).len() as u64, progress.position)
    );
    assert!(state.trouble.is_none() && state.last_read.is_some());
}

#[test]
fn a_file_made_since_the_start_of_the_program_is_new() {
    let mut log = Log::with(Some(&line(1)));
    let since = SystemTime::now() - Duration::from_secs(60);
    log.files = Files::new(&[log.path("dovecot.log")], since, KeptFiles::default());
    log.expect([1]);
}

#[test]
fn what_came_before_the_first_pass_counts() {
    let mut log = Log::with(Some(&line(1)));
    write(&log.open("dovecot.log"), [2]);
    log.expect([2]);
}

#[test]
fn a_start_in_the_middle_of_a_line() {
    let (half, rest) = (&line(1)[..40], &line(1)[40..]);
    let mut log = Log::with(Some(half));
    log.open("dovecot.log").write_all(rest.as_bytes()).unwrap();
    write(&log.open("dovecot.log"), [2]);
    log.expect([2]);
}

#[test]
fn waits_for_a_file_and_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later/dovecot.log");
    let mut log = Log::of(folder, &["later/dovecot.log"]);
    log.expect([]);
    let trouble = log.state().trouble.unwrap();
    assert!(trouble.contains("waited for") && trouble.contains("later/dovecot.log"), "{trouble}");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, line(1)).unwrap();
    log.expect([1]);
    assert_eq!(log.state().trouble, None);
}

#[test]
fn a_folder_is_no_log() {
    let mut log = Log::with(None);
    fs::create_dir(log.path("dovecot.log")).unwrap();
    log.expect([]);
    let state = log.state();
    assert!(state.trouble.unwrap().contains("--dovecot.log-file"));
    assert!(state.counts.read_errors > 0);
    fs::remove_dir(log.path("dovecot.log")).unwrap();
    write(&log.open("dovecot.log"), [1]);
    log.expect([1]);
}

#[test]
fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dovecot.log");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut log = Log::of(folder, &["dovecot.log"]);
    log.expect([]);
    assert!(log.state().trouble.unwrap().contains("no regular file"));
}

#[test]
fn lines_may_come_in_pieces() {
    let mut log = Log::with(Some(""));
    for part in line(1).as_bytes().chunks(10) {
        assert!(log.seen.is_empty());
        log.open("dovecot.log").write_all(part).unwrap();
        log.pass();
    }
    log.expect([1]);
}

#[test]
fn renamed_while_the_writer_keeps_the_old_file() {
    let mut log = Log::with(Some(""));
    let old = log.open("dovecot.log");
    write(&old, 1..3);
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    write(&old, 3..5);
    log.pass();
    assert!(log.state().trouble.is_some());
    write(&old, 5..6);
    let new = log.open("dovecot.log");
    log.pass();
    write(&old, 6..7);
    write(&new, 7..8);
    log.expect(1..8);
    let state = log.state();
    assert_eq!((state.counts.rotations, state.counts.truncations, state.trouble), (1, 0, None));
}

#[test]
fn the_new_file_may_be_longer_than_the_old() {
    let mut log = Log::with(Some(""));
    write(&log.open("dovecot.log"), 1..2);
    log.pass();
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    write(&log.open("dovecot.log"), 2..9);
    log.expect(1..9);
}

#[test]
fn the_last_line_of_an_old_file_is_not_the_start_of_the_new() {
    let mut log = Log::with(Some(""));
    log.open("dovecot.log").write_all(&line(1).as_bytes()[..40]).unwrap();
    log.pass();
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    log.open("dovecot.log").write_all(&line(1).as_bytes()[40..]).unwrap();
    write(&log.open("dovecot.log"), [2]);
    log.expect([2]);
}

#[test]
fn deleted_and_made_again() {
    let mut log = Log::with(Some(&line(0)));
    let mut writer = log.open("dovecot.log");
    for round in 0..20 {
        write(&writer, [3 * round + 1]);
        fs::remove_file(log.path("dovecot.log")).unwrap();
        write(&writer, [3 * round + 2]);
        writer = log.open("dovecot.log");
        write(&writer, [3 * round + 3]);
        log.expect(1..3 * round + 4);
    }
    assert_eq!((log.state().counts.rotations, log.state().counts.truncations), (20, 0));
}

#[test]
fn copied_and_truncated() {
    let mut log = Log::with(Some(""));
    let writer = log.open("dovecot.log");
    for round in 0..5 {
        write(&writer, [3 * round + 1, 3 * round + 2]);
        log.pass();
        fs::copy(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
        writer.set_len(0).unwrap();
        write(&writer, [3 * round + 3]);
        log.expect(1..3 * round + 4);
    }
    assert_eq!((log.state().counts.truncations, log.state().counts.rotations), (5, 0));
}

#[test]
fn truncated_and_grown_beyond_the_old_place() {
    let mut log = Log::with(Some(""));
    write(&log.open("dovecot.log"), 1..3);
    log.pass();
    File::create(log.path("dovecot.log")).unwrap();
    write(&log.open("dovecot.log"), 3..50);
    log.expect(1..50);
    assert_eq!(log.state().counts.truncations, 1);
}

#[test]
fn truncated_and_grown_to_the_same_size() {
    let mut log = Log::with(Some(""));
    write(&log.open("dovecot.log"), 1..3);
    log.pass();
    let changed = fs::metadata(log.path("dovecot.log")).unwrap().modified().unwrap();
    let new = File::create(log.path("dovecot.log")).unwrap();
    write(&new, 3..5);
    // The clock that stamps files may not have moved on.
    new.set_modified(changed + Duration::from_millis(4)).unwrap();
    log.expect(1..5);
}

#[test]
fn files_that_came_and_went_between_two_looks() {
    let mut log = Log::with(Some(""));
    let rotate = |log: &Log, from: u32, to: u32| {
        fs::rename(log.path(&format!("dovecot.log.{from}")), log.path(&format!("dovecot.log.{to}"))).unwrap();
    };
    fs::write(log.path("dovecot.log.9"), line(1000)).unwrap();
    let born = fs::metadata(log.path("dovecot.log.9")).unwrap().created().unwrap();
    while file_clock() <= born {}
    write(&log.open("dovecot.log"), [1]);
    log.pass();
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    write(&log.open("dovecot.log"), [2]);
    rotate(&log, 1, 2);
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    write(&log.open("dovecot.log"), [3]);
    rotate(&log, 2, 3);
    rotate(&log, 1, 2);
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    write(&log.open("dovecot.log"), [4]);
    fs::write(log.path("dovecot.log.8.gz"), line(1001)).unwrap();
    log.pass();
    log.seen.sort_unstable();
    log.expect(1..5);
    assert_eq!(log.state().counts.rotations, 3);
}

#[test]
fn many_files_that_came_and_went_between_two_looks() {
    let mut log = Log::with(Some(""));
    for number in 1..=20 {
        write(&log.open("dovecot.log"), [number]);
        fs::rename(log.path("dovecot.log"), log.path(&format!("dovecot.log.{number}"))).unwrap();
    }
    write(&log.open("dovecot.log"), [21]);
    log.pass();
    log.seen.sort_unstable();
    log.expect(1..22);
}

#[test]
fn made_and_rotated_before_it_was_ever_seen() {
    let mut log = Log::with(None);
    log.pass();
    write(&log.open("dovecot.log"), [1]);
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    write(&log.open("dovecot.log"), [2]);
    log.pass();
    log.seen.sort_unstable();
    log.expect([1, 2]);
}

#[test]
fn truncated_and_grown_before_the_first_byte_was_read() {
    let mut log = Log::with(Some(&line(1)));
    fs::write(log.path("dovecot.log"), [line(2), line(3)].concat()).unwrap();
    log.expect([2, 3]);
}

#[test]
fn a_link_to_another_file_and_back() {
    let mut log = Log::with(None);
    fs::write(log.path("a"), line(100)).unwrap();
    std::os::unix::fs::symlink(log.path("a"), log.path("dovecot.log")).unwrap();
    log.follow(&["dovecot.log"], KeptFiles::default());
    write(&log.open("a"), [1]);
    log.pass();
    let point = |log: &Log, name: &str| {
        std::os::unix::fs::symlink(log.path(name), log.path("new")).unwrap();
        fs::rename(log.path("new"), log.path("dovecot.log")).unwrap();
    };
    write(&log.open("b"), [2]);
    point(&log, "b");
    log.expect(1..3);
    // Long after, when "a" is no longer read.
    log.linger();
    write(&log.open("a"), [3]);
    point(&log, "a");
    log.expect(1..4);
}

#[test]
fn the_folder_moved_away_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).unwrap();
    fs::write(logs.join("dovecot.log"), line(100)).unwrap();
    let mut log = Log::of(folder, &["logs/dovecot.log"]);
    write(&log.open("logs/dovecot.log"), [1]);
    log.pass();
    fs::rename(&logs, log.path("away")).unwrap();
    write(&log.open("away/dovecot.log"), [2]);
    log.pass();
    fs::rename(log.path("away"), &logs).unwrap();
    write(&log.open("logs/dovecot.log"), [3]);
    log.expect(1..4);
    assert_eq!((log.state().counts.rotations, log.state().counts.truncations), (0, 0));
}

#[test]
fn old_files_are_given_up_but_not_forgotten() {
    let mut log = Log::with(Some(""));
    for number in 0..20 {
        write(&log.open("dovecot.log"), [number + 1]);
        log.pass();
        fs::rename(log.path("dovecot.log"), log.path(&format!("dovecot.log.{number}"))).unwrap();
    }
    write(&log.open("dovecot.log"), [21]);
    log.expect(1..22);
    assert_eq!(log.files.kept().left.len(), 20 - MAX_RETIRED);
    log.linger();
    assert_eq!(log.files.kept().left.len(), 20);
    fs::rename(log.path("dovecot.log.3"), log.path("dovecot.log")).unwrap();
    write(&log.open("dovecot.log"), [22]);
    log.expect(1..23);
}

#[test]
fn a_forged_line_is_told_from_a_warning() {
    let mut log = Log::with(Some(""));
    let forged = line(5).replace("master:", "auth: Debug: master:");
    log.open("dovecot.log").write_all(forged.as_bytes()).unwrap();
    log.expect([]);
    assert_eq!(log.state().counts.unanchored_warnings, 1);
}

#[test]
fn a_flood_in_one_file_does_not_starve_another() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["flood.log", "dovecot.log"].map(|name| folder.path().join(name));
    let mut log = Log::of(folder, &["flood.log", "dovecot.log"]);
    fs::write(&paths[0], vec![b'\n'; (TURN + 1) * BLOCK]).unwrap();
    fs::write(&paths[1], line(1)).unwrap();
    assert!(log.pass());
    assert_eq!(log.seen, [1]);
    assert_eq!(log.position(), (TURN * BLOCK) as u64);
    log.expect([1]);
    assert_eq!(log.state().counts.lines, ((TURN + 1) * BLOCK) as u64);
}

#[test]
fn a_pattern() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.log"), line(100)).unwrap();
    let mut log = Log::of(folder, &["*.log*"]);
    write(&log.open("a.log"), [1]);
    log.expect([1]);
    // One that comes is read from its start, one that a rotation made of another is not read again, nor is another
    // name of the same file.
    write(&log.open("b.log"), [2]);
    log.expect(1..3);
    fs::rename(log.path("a.log"), log.path("a.log.1")).unwrap();
    write(&log.open("a.log.1"), [3]);
    fs::hard_link(log.path("b.log"), log.path("c.log")).unwrap();
    std::os::unix::fs::symlink(log.path("b.log"), log.path("d.log")).unwrap();
    log.expect(1..4);
    write(&log.open("a.log"), [4]);
    write(&log.open("c.log"), [5]);
    fs::write(log.path("e.log.gz"), line(101)).unwrap();
    log.expect(1..6);
    // Where one name goes, another takes over.
    fs::remove_file(log.path("b.log")).unwrap();
    log.linger();
    write(&log.open("d.log"), [6]);
    write(&log.open("c.log"), [7]);
    log.pass();
    log.seen.sort_unstable();
    assert_eq!(log.state().trouble, None);
    log.expect(1..8);
}

#[test]
fn a_pattern_that_matches_nothing_yet() {
    let mut log = Log::of(tempfile::tempdir().unwrap(), &["*/x.log"]);
    log.expect([]);
    assert!(log.state().trouble.unwrap().contains("no file matches"));
    fs::create_dir(log.path("a")).unwrap();
    write(&log.open("a/x.log"), [1]);
    log.expect([1]);
    assert_eq!(log.state().trouble, None);
}

#[test]
fn one_file_by_two_flags_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("dovecot.log"), "").unwrap();
    std::os::unix::fs::symlink("dovecot.log", folder.path().join("link")).unwrap();
    let mut log = Log::of(folder, &["dovecot.log", "*.log", "link"]);
    write(&log.open("dovecot.log"), [1]);
    log.expect([1]);
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    write(&log.open("dovecot.log"), [2]);
    log.expect(1..3);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut log = Log::with(Some(&line(100)));
    write(&log.open("dovecot.log"), [1]);
    log.open("dovecot.log").write_all(&line(2).as_bytes()[..40]).unwrap();
    log.pass();
    log.restart(&["dovecot.log"]);
    log.open("dovecot.log").write_all(&line(2).as_bytes()[40..]).unwrap();
    log.expect(1..3);
    log.restart(&["dovecot.log"]);
    log.expect(1..3);
}

#[test]
fn rotations_while_it_does_not_run() {
    let mut log = Log::with(Some(&line(100)));
    let old = log.open("dovecot.log");
    write(&old, [1]);
    log.pass();
    let kept = log.files.kept();
    write(&old, [2]);
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.2")).unwrap();
    write(&log.open("dovecot.log"), [3]);
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    log.follow(&["dovecot.log"], kept);
    log.pass();
    log.seen.sort_unstable();
    log.expect(1..4);
    write(&log.open("dovecot.log"), [4]);
    write(&old, [5]);
    log.pass();
    log.seen.sort_unstable();
    log.expect(1..6);
}

#[test]
fn copied_and_truncated_while_it_does_not_run() {
    let mut log = Log::with(Some(&line(100)));
    let writer = log.open("dovecot.log");
    write(&writer, [1]);
    log.pass();
    let kept = log.files.kept();
    for number in [2, 3] {
        write(&writer, [number]);
        let _ = fs::rename(log.path("dovecot.log.1"), log.path("dovecot.log.2"));
        fs::copy(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
        writer.set_len(0).unwrap();
    }
    write(&writer, [4]);
    log.follow(&["dovecot.log"], kept);
    log.pass();
    log.seen.sort_unstable();
    log.expect(1..5);
}

#[test]
fn a_copy_beside_a_new_file_is_not_read_again() {
    let mut log = Log::with(Some(""));
    write(&log.open("dovecot.log"), 1..9);
    log.pass();
    fs::copy(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    write(&log.open("dovecot.log"), [9]);
    fs::remove_file(log.path("dovecot.log")).unwrap();
    write(&log.open("dovecot.log"), [10]);
    log.expect(1..11);
}

#[test]
fn a_copy_that_is_begun_while_the_log_is_rotated_is_not_read_again() {
    let mut log = Log::with(Some(""));
    fs::rename(log.path("dovecot.log"), log.path("dovecot.log.1")).unwrap();
    let writer = log.open("dovecot.log");
    write(&writer, 1..3);
    File::create(log.path("dovecot.log.2")).unwrap();
    log.expect(1..3);
    write(&writer, [3]);
    fs::copy(log.path("dovecot.log"), log.path("dovecot.log.2")).unwrap();
    log.pass();
    // What was written before the copy ended is found in it.
    write(&writer, [4]);
    fs::copy(log.path("dovecot.log"), log.path("dovecot.log.2")).unwrap();
    writer.set_len(0).unwrap();
    write(&writer, [5]);
    log.expect(1..6);
}

#[test]
fn a_log_that_is_not_followed_for_a_while_keeps_its_place() {
    let mut log = Log::with(Some(&line(100)));
    write(&log.open("dovecot.log"), [1]);
    log.expect([1]);
    // As when doveconf does not tell at the start where the log is.
    log.restart(&["other.log"]);
    write(&log.open("dovecot.log"), [2]);
    log.pass();
    log.restart(&["dovecot.log"]);
    log.expect(1..3);
}

#[test]
fn a_pattern_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.log"), line(100)).unwrap();
    let mut log = Log::of(folder, &["*.log"]);
    write(&log.open("a.log"), [1]);
    log.pass();
    let kept = log.files.kept();
    write(&log.open("a.log"), [2]);
    write(&log.open("b.log"), [3]);
    log.follow(&["*.log"], kept);
    log.expect(1..4);
}

#[test]
fn no_more_files_than_there_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::of(folder, &["*.log"]);
    for number in 0..=MAX_FILES {
        fs::write(log.path(&format!("{number}.log")), "").unwrap();
    }
    log.pass();
    assert!(log.files.paths().count() == MAX_FILES && log.state().trouble.unwrap().contains("more than"));
}
