use super::*;
use std::{fs, io::Write};
use tempfile::TempDir;

/// A folder with a log in it, its follower, and the numbers of the warnings that came out.
struct Log {
    folder: TempDir,
    follower: Follower,
    seen: Vec<u32>,
}

impl Log {
    /// Follows `dovecot.log`, which holds `before`, unless that is nothing.
    fn with(before: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dovecot.log");
        if let Some(before) = before {
            fs::write(&path, before).unwrap();
        }
        Self { follower: Follower::new(&[path], SystemTime::now()), folder, seen: vec![] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self, name: &str) -> File {
        File::options().append(true).create(true).open(self.path(name)).unwrap()
    }

    fn pass(&mut self) -> bool {
        let seen = &mut self.seen;
        self.follower.pass(&mut |_, event| {
            if let Event::DropWarning(warning) = event {
                seen.extend(warning.number);
            }
            true
        })
    }

    fn state(&self) -> LogState {
        self.follower.states().remove(0)
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
    assert_eq!((state.lines, state.position, state.size), (1, 2 * line(1).len() as u64, state.position));
    assert!(state.trouble.is_none() && state.last_read.is_some());
}

#[test]
fn a_file_made_since_the_start_of_the_program_is_new() {
    let mut log = Log::with(Some(&line(1)));
    log.follower = Follower::new(&[log.path("dovecot.log")], SystemTime::now() - Duration::from_secs(60));
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
    let follower = Follower::new(std::slice::from_ref(&path), SystemTime::now());
    let mut log = Log { folder, follower, seen: vec![] };
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
    assert!(state.read_errors > 0);
    fs::remove_dir(log.path("dovecot.log")).unwrap();
    write(&log.open("dovecot.log"), [1]);
    log.expect([1]);
}

#[test]
fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dovecot.log");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut log = Log { follower: Follower::new(&[path], SystemTime::now()), folder, seen: vec![] };
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
    assert_eq!((state.rotations, state.truncations, state.trouble), (1, 0, None));
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
    assert_eq!((log.state().rotations, log.state().truncations), (20, 0));
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
    assert_eq!((log.state().truncations, log.state().rotations), (5, 0));
}

#[test]
fn truncated_and_grown_beyond_the_old_place() {
    let mut log = Log::with(Some(""));
    write(&log.open("dovecot.log"), 1..3);
    log.pass();
    File::create(log.path("dovecot.log")).unwrap();
    write(&log.open("dovecot.log"), 3..50);
    log.expect(1..50);
    assert_eq!(log.state().truncations, 1);
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
    assert_eq!(log.state().rotations, 3);
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
    log.follower = Follower::new(&[log.path("dovecot.log")], SystemTime::now());
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
    let retired = log.follower.sources[0].retired.remove(0);
    log.follower.sources[0].places.push(retired.place);
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
    let follower = Follower::new(&[logs.join("dovecot.log")], SystemTime::now());
    let mut log = Log { folder, follower, seen: vec![] };
    write(&log.open("logs/dovecot.log"), [1]);
    log.pass();
    fs::rename(&logs, log.path("away")).unwrap();
    write(&log.open("away/dovecot.log"), [2]);
    log.pass();
    fs::rename(log.path("away"), &logs).unwrap();
    write(&log.open("logs/dovecot.log"), [3]);
    log.expect(1..4);
    assert_eq!((log.state().rotations, log.state().truncations), (0, 0));
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
    assert_eq!(log.follower.sources[0].retired.len(), MAX_RETIRED);
    // A quiet one is closed.
    log.follower.sources[0].retired[0].last_byte -= LINGER;
    log.pass();
    assert_eq!(log.follower.sources[0].retired.len(), MAX_RETIRED - 1);
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
    assert_eq!(log.state().unanchored_warnings, 1);
}

#[test]
fn a_flood_in_one_file_does_not_starve_another() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["flood.log", "dovecot.log"].map(|name| folder.path().join(name));
    let mut log = Log { follower: Follower::new(&paths, SystemTime::now()), folder, seen: vec![] };
    fs::write(&paths[0], vec![b'\n'; (TURN + 1) * BLOCK]).unwrap();
    fs::write(&paths[1], line(1)).unwrap();
    assert!(log.pass());
    assert_eq!(log.seen, [1]);
    assert_eq!(log.state().position, (TURN * BLOCK) as u64);
    log.expect([1]);
    assert_eq!(log.state().lines, ((TURN + 1) * BLOCK) as u64);
}
