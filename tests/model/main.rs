//! The log follower against a model: random scripts of what writers, rotations and the program do, on real files,
//! and what must have been counted after each pass.
//!
//! `MODEL_SCRIPTS=1000000 cargo test --release --test model` runs so many scripts instead of the 10,000 of CI, and
//! `MODEL_SEED=TEXT` other ones. A script that fails is shrunk and printed. No time passes in it: the follower is
//! told the time, and the clock that stamps files, which the kernel moves on every few milliseconds, is awaited for
//! many scripts at once.

#![expect(clippy::unwrap_used, reason = "a test that cannot look fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use dovecot_capacity_exporter::{
    checkpoint::Checkpoint,
    log::{
        files::{Files, KeptFiles},
        grammar::{Event, NEEDLES},
        needles::Needles,
        place::file_clock,
        reader::Kept,
        state::LogCounts,
    },
    tally::Tally,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

mod disk;
mod ideal;
mod script;

use disk::Disk;
use ideal::Ideal;
use script::{Script, Step};

/// Scripts that wait together for the clock. Each has some dozens of files open.
const BATCH: usize = 16;

/// What the program counted.
#[derive(Clone, Debug, Default)]
struct Counted {
    tally: Tally,
    /// How often each number.
    numbers: BTreeMap<u32, u32>,
}

/// A script that runs.
struct Run<'a> {
    script: &'a Script,
    steps: std::slice::Iter<'a, Step>,
    root: PathBuf,
    disk: Disk,
    files: Files,
    counted: Counted,
    ideal: Ideal,
    saved: Option<(Vec<u8>, BTreeMap<u32, u32>, Ideal)>,
    started: bool,
    /// When the program was started: in truth, and in the script's milliseconds.
    began: (Instant, u64),
    looked: bool,
    now: u64,
    statistics: BTreeMap<String, u64>,
}

impl<'a> Run<'a> {
    /// With the files that there are before the program starts.
    fn new(script: &'a Script, root: PathBuf) -> Self {
        let mut disk = Disk::new(&root);
        for (name, lines) in script.before.iter().enumerate() {
            if let Some(lines) = lines {
                disk.open(name);
                // By less than a line nobody knows a file again.
                disk.write(name, *lines, (script.begun && *lines > 0).then_some(50));
            }
        }
        let files = Files::new(&[], SystemTime::now(), KeptFiles::default());
        let (counted, ideal, began) = (Counted::default(), Ideal::default(), (Instant::now(), 0));
        Self {
            script,
            steps: script.steps.iter(),
            root,
            disk,
            files,
            counted,
            ideal,
            saved: None,
            started: false,
            began,
            looked: false,
            now: 0,
            statistics: BTreeMap::new(),
        }
    }

    fn follow(&mut self, kept: KeptFiles) {
        let paths = ["logs/a.log", "link", "logs/p*.log"].map(|path| self.root.join(path));
        self.files = Files::new(&paths, SystemTime::now(), kept);
    }

    fn save(&mut self) {
        let logs = self.files.states().map(|state| (state.log.to_string(), state.counts)).collect();
        let kept = Kept { files: self.files.kept(), ..Kept::default() };
        let json = Checkpoint::new(self.counted.tally.clone(), logs, kept).to_json();
        self.saved = Some((json, self.counted.numbers.clone(), self.ideal.clone()));
    }

    /// Starts the program with what was saved.
    fn start(&mut self) {
        self.began = (Instant::now(), self.now);
        self.looked = false;
        let Some((json, numbers, ideal)) = &self.saved else {
            self.counted = Counted::default();
            self.ideal = Ideal::new(&self.disk, self.now);
            self.follow(KeptFiles::default());
            return;
        };
        let checkpoint = Checkpoint::from_json(json).unwrap();
        self.counted = Counted { tally: checkpoint.tally, numbers: numbers.clone() };
        self.ideal = ideal.resume(&self.disk, self.now);
        self.follow(checkpoint.kept.files);
        for state in self.files.states_mut() {
            state.counts = checkpoint.logs[&*state.log];
        }
    }

    /// Reads, and compares.
    fn pass(&mut self, look: bool) -> Result<(), String> {
        self.now += 1;
        // The first is a look in any case.
        let look = look || !std::mem::replace(&mut self.looked, true);
        let now = self.began.0 + Duration::from_millis(self.now - self.began.1);
        let (needles, counted) = (Needles::new(&NEEDLES), &mut self.counted);
        self.files.pass(look, now, &needles, &mut |found| {
            counted.tally.count(&found.event, found.times, Some(SystemTime::now()));
            if let Event::DropWarning(warning) = &found.event {
                *counted.numbers.entry(warning.number.unwrap()).or_default() += found.times;
            }
            true
        });
        self.ideal.pass(&self.disk, look, self.now);
        for what in self.ideal.happened.drain(..) {
            *self.statistics.entry(what.to_owned()).or_default() += 1;
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<(), String> {
        let (ideal, numbers) = (&mut self.ideal, &self.counted.numbers);
        let is_once = |number: &u32, times: u32| times == 1 || ideal.twice.contains(number);
        let twice: Vec<_> = numbers.iter().filter(|(number, times)| !is_once(number, **times)).collect();
        let found: BTreeSet<u32> = numbers.keys().copied().collect();
        let lost: Vec<_> = ideal.counted.difference(&found).collect();
        let invented: Vec<_> =
            found.difference(&ideal.counted).filter(|number| !ideal.maybe.contains(number)).collect();
        if !(twice.is_empty() && lost.is_empty() && invented.is_empty()) {
            return Err(format!("lost {lost:?}, invented {invented:?}, twice {twice:?}"));
        }
        ideal.counted = found;
        let total: u64 = self.counted.tally.services().map(|(_, tally)| tally.all_drop_warnings()).sum();
        let mut counts = LogCounts::default();
        for state in self.files.states() {
            counts.lines += state.counts.lines;
            counts.bytes += state.counts.bytes;
            counts.rotations += state.counts.rotations;
            counts.truncations += state.counts.truncations;
        }
        let slack = counts.rotations.saturating_sub(ideal.rotations).min(ideal.slack);
        counts.rotations -= slack;
        let found = (total, counts.lines, counts.bytes, counts.rotations, counts.truncations);
        let all = numbers.values().copied().map(u64::from).sum();
        let wanted = (all, ideal.lines, ideal.bytes, ideal.rotations, ideal.truncations);
        let exact = ideal.exact && ideal.maybe.is_empty();
        if total != all || exact && found != wanted {
            return Err(format!(
                "(warnings, lines, bytes, rotations, truncations) are {found:?}, not {wanted:?}"
            ));
        }
        *self.statistics.entry(if exact { "exact" } else { "inexact" }.into()).or_default() += 1;
        Ok(())
    }

    /// Goes on until the clock is to be awaited, or to the end: then it returns that it is done.
    fn go_on(&mut self) -> Result<bool, String> {
        if !self.started {
            self.started = true;
            self.disk.now.tick += 1;
            self.start();
            if self.script.saved {
                self.save();
            }
        }
        while let Some(step) = self.steps.next() {
            if matches!(step, Step::Crash) && self.saved.is_none() {
                if self.disk.has_less_than_a_line() {
                    continue;
                }
                // It starts as at first.
                self.started = false;
                return Ok(false);
            }
            let number = self.script.steps.len() - self.steps.len();
            let done = self.step(*step).map_err(|error| format!("step {number}, {step:?}: {error}"))?;
            if done {
                let words = format!("{step:?}");
                let kind = match step {
                    Step::Rotate(_, style) => format!("{style:?}"),
                    _ => words.split('(').next().unwrap().to_owned(),
                };
                *self.statistics.entry(kind).or_default() += 1;
            }
            if matches!(step, Step::Tick) {
                return Ok(false);
            }
        }
        // At last all comes to rest.
        if self.disk.away {
            self.disk.move_folder();
        }
        for _ in 0..3 {
            self.pass(true).map_err(|error| format!("at the end: {error}"))?;
        }
        self.disk.check();
        *self.statistics.entry("counted".into()).or_default() += self.counted.numbers.len() as u64;
        *self.statistics.entry("maybe".into()).or_default() += self.ideal.maybe.len() as u64;
        Ok(true)
    }

    /// Does one step; returns whether it could be done.
    fn step(&mut self, step: Step) -> Result<bool, String> {
        let disk = &mut self.disk;
        Ok(match step {
            Step::Write(name, lines) => disk.write(name, lines, None),
            Step::Begin(name, part) => disk.write(name, 0, Some(part)),
            Step::Reopen(name) => disk.open(name),
            Step::Rotate(name, style) => disk.rotate(name, style),
            Step::Copy(name) => disk.copy(name),
            Step::Truncate(name) => disk.truncate(name),
            Step::Remove(name) => disk.remove(name),
            Step::RemoveRotated(name) => disk.remove_rotated(name),
            Step::Compress(name) => disk.compress(name),
            Step::Restore(name) => disk.restore(name),
            Step::HardLink(from, to) => disk.hard_link(from, to),
            Step::Switch(to) => {
                disk.switch(to);
                true
            }
            Step::MoveFolder => {
                // Where a copy went away with its folder, nobody can tell later what it is a copy of.
                if !disk.away {
                    self.pass(true)?;
                }
                self.disk.move_folder();
                true
            }
            Step::Tick => {
                disk.now.tick += 1;
                true
            }
            Step::Pass => {
                self.pass(true)?;
                true
            }
            Step::Glance => {
                let look = self.ideal.is_loose();
                self.pass(look)?;
                !look
            }
            Step::Linger => {
                // A second more than the longest that a real start may take.
                self.now += ideal::LINGER + 1000;
                self.pass(true)?;
                true
            }
            Step::Save => {
                self.save();
                true
            }
            Step::Restart => {
                self.save();
                self.start();
                true
            }
            Step::Crash => {
                self.start();
                true
            }
        })
    }
}

/// Waits until the clock that stamps files is past the present: some kernels stamp a file with the precise time.
fn tick() {
    let now = SystemTime::now();
    while file_clock() <= now {
        std::thread::yield_now();
    }
}

/// Runs scripts, all to the next tick, in turn; returns which failed first, and why.
fn run(
    scripts: &[Script],
    folder: &Path,
    statistics: &mut BTreeMap<String, u64>,
) -> Result<(), (usize, String)> {
    let root = |number: usize| folder.join(number.to_string());
    let mut runs: Vec<_> =
        scripts.iter().enumerate().map(|(number, script)| (number, Run::new(script, root(number)))).collect();
    let mut failed = None;
    while !runs.is_empty() && failed.is_none() {
        tick();
        runs.retain_mut(|(number, run)| match run.go_on() {
            Ok(false) => true,
            Ok(true) => {
                for (kind, times) in &run.statistics {
                    *statistics.entry(kind.clone()).or_default() += times;
                }
                false
            }
            Err(error) => {
                failed = failed.take().or(Some((*number, error)));
                false
            }
        });
    }
    (0..scripts.len()).for_each(|number| fs::remove_dir_all(root(number)).unwrap());
    failed.map_or(Ok(()), Err)
}

/// Runs so many scripts, and shrinks the first that fails.
fn run_many(scripts: usize, seed: [u8; 32], folder: &Path) -> BTreeMap<String, u64> {
    let config = Config { failure_persistence: None, max_shrink_iters: 5_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let strategy = script::script();
    let mut statistics = BTreeMap::new();
    for _ in 0..scripts.div_ceil(BATCH) {
        let trees: Vec<_> = (0..BATCH).map(|_| strategy.new_tree(&mut runner).unwrap()).collect();
        let scripts: Vec<Script> = trees.iter().map(ValueTree::current).collect();
        let Err((number, error)) = run(&scripts, folder, &mut statistics) else { continue };
        let tree = trees.into_iter().nth(number).unwrap();
        // More than once: the order in which a folder is read, and where the clock moves on, are anybody's guess.
        let shrunk = runner.run_one(tree, |script| {
            (0..8).try_for_each(|_| {
                run(std::slice::from_ref(&script), folder, &mut BTreeMap::new())
                    .map_err(|(_, error)| TestCaseError::fail(error))
            })
        });
        panic!("{error}\n{:?}\nshrunk: {shrunk:?}", scripts[number]);
    }
    statistics
}

#[test]
fn counts_what_the_model_counts() {
    let scripts: usize = std::env::var("MODEL_SCRIPTS").map_or(10_000, |scripts| scripts.parse().unwrap());
    let mut seed = [0; 32];
    let words = std::env::var("MODEL_SEED").unwrap_or_default();
    seed.iter_mut().zip(words.bytes()).for_each(|(byte, word)| *byte = word);
    // In memory, where there is such a place.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let folder = folder.path().canonicalize().unwrap();

    // Two on every machine, so that everybody runs the same scripts.
    let threads = 2;
    let mut statistics = BTreeMap::new();
    std::thread::scope(|scope| {
        let part = |thread: usize| {
            let mut seed = seed;
            seed[31] = u8::try_from(thread).unwrap();
            let folder = folder.join(thread.to_string());
            scope.spawn(move || run_many(scripts.div_ceil(threads), seed, &folder))
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        for part in parts {
            for (kind, times) in part.join().unwrap_or_else(|error| std::panic::resume_unwind(error)) {
                *statistics.entry(kind).or_default() += times;
            }
        }
    });
    script::assert_all_happened(&statistics, scripts);
}
