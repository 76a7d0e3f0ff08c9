//! What may happen: steps of writers, of rotations and of the program, in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;

/// The logs that are written: one that a flag names, two to which a link may lead, three that a pattern matches.
pub const NAMES: [&str; 6] = ["a.log", "c.log", "d.log", "p1.log", "p2.log", "p3.log"];
/// Those to which the link may lead.
pub const TARGETS: [usize; 3] = [0, 1, 2];

/// How a log is rotated.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// logrotate's `create`: `.1` becomes `.2` and so on, the log `.1`; the writer opens a new one at once.
    Create,
    /// The same with the date as a suffix.
    Date,
    /// logrotate's `nocreate`: the writer keeps the old file until it reopens.
    NoCreate,
    /// A new file is made, but the writer keeps the old one until it reopens.
    CreateKeep,
    /// logrotate's `copytruncate`.
    CopyTruncate,
    /// The log is copied, removed and made anew.
    CopyDelete,
    /// It is removed, and made anew.
    Delete,
    /// Two rotations, and a line between them.
    Twice,
    /// A file that is longer takes its place.
    Replace,
    /// A copy of it takes its place, as after an editor.
    Edit,
    /// It is truncated and longer than before at once.
    Rewrite,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// The writer of a log writes so many lines, behind the rest of one that it had begun.
    Write(usize, usize),
    /// It writes the beginning of a line, so much of a hundred.
    Begin(usize, usize),
    /// It opens its log again, and makes it if it is missing.
    Reopen(usize),
    /// Its log is rotated.
    Rotate(usize, Style),
    /// Its log is copied, as by the first half of `copytruncate`.
    Copy(usize),
    /// Its log is truncated, as by the second half.
    Truncate(usize),
    /// Its log is removed.
    Remove(usize),
    /// The newest rotated file is removed.
    RemoveRotated(usize),
    /// The newest rotated file is compressed.
    Compress(usize),
    /// The newest rotated file, if it is no copy, takes the place of the log again.
    Restore(usize),
    /// The second log becomes another name of the first one's file.
    HardLink(usize, usize),
    /// The link leads to another log.
    Switch(usize),
    /// The folder goes away, or comes back.
    MoveFolder,
    /// The clock that stamps files moves on.
    Tick,
    /// The program reads and looks at every path.
    Pass,
    /// The program reads, and looks only where it finds nothing.
    Glance,
    /// So much time goes by that it closes quiet files, at its next look.
    Linger,
    /// It saves its state.
    Save,
    /// It saves its state, ends and starts again.
    Restart,
    /// It is killed, and starts again with the state that it saved last.
    Crash,
}

/// What there is at the start, and what happens then.
#[derive(Clone, Debug)]
pub struct Script {
    /// How many lines each log holds before the program first starts; nothing where it is missing.
    pub before: [Option<usize>; NAMES.len()],
    /// Whether behind them another one is begun.
    pub begun: bool,
    /// Whether the program saves its state as soon as it has started.
    pub saved: bool,
    /// What happens.
    pub steps: Vec<Step>,
}

fn style() -> impl Strategy<Value = Style> {
    use Style::*;
    prop::sample::select(vec![
        Create,
        Create,
        Date,
        NoCreate,
        CreateKeep,
        CopyTruncate,
        CopyTruncate,
        CopyDelete,
        Delete,
        Twice,
        Replace,
        Rewrite,
        Edit,
    ])
}

fn step() -> impl Strategy<Value = Step> {
    // Most happens to the first log, so that much happens to one.
    let name = || prop_oneof![3 => Just(0), 4 => 1..NAMES.len()];
    prop_oneof![
        24 => (name(), 1..4_usize).prop_map(|(name, lines)| Step::Write(name, lines)),
        5 => (name(), 0..100_usize).prop_map(|(name, part)| Step::Begin(name, part)),
        5 => name().prop_map(Step::Reopen),
        16 => (name(), style()).prop_map(|(name, style)| Step::Rotate(name, style)),
        2 => name().prop_map(Step::Copy),
        2 => name().prop_map(Step::Truncate),
        2 => name().prop_map(Step::Remove),
        1 => name().prop_map(Step::RemoveRotated),
        1 => name().prop_map(Step::Compress),
        1 => name().prop_map(Step::Restore),
        1 => (name(), name()).prop_map(|(from, to)| Step::HardLink(from, to)),
        2 => prop::sample::select(&TARGETS[..]).prop_map(Step::Switch),
        2 => Just(Step::MoveFolder),
        1 => Just(Step::Tick),
        14 => Just(Step::Pass),
        6 => Just(Step::Glance),
        2 => Just(Step::Linger),
        4 => Just(Step::Save),
        3 => Just(Step::Restart),
        3 => Just(Step::Crash),
    ]
}

/// Any script.
pub fn script() -> impl Strategy<Value = Script> {
    let before = prop::array::uniform(prop::option::of(0..4_usize));
    (before, any::<bool>(), prop::bool::weighted(0.8), prop::collection::vec(step(), 1..50))
        .prop_map(|(before, begun, saved, steps)| Script { before, begun, saved, steps })
}

/// That each kind of step was done, and came out in each way, in at least one script of two hundred; and that nearly
/// every line and every comparison was certain.
#[expect(clippy::print_stdout, reason = "a long run tells what it was made of")]
pub fn assert_all_happened(statistics: &BTreeMap<String, u64>, scripts: usize) {
    let steps = "Write Begin Reopen Copy Truncate Remove RemoveRotated Compress Restore HardLink Switch MoveFolder Tick \
                 Pass Glance Linger Save Restart Crash Create Date NoCreate CreateKeep CopyTruncate CopyDelete Delete \
                 Twice Replace Edit Rewrite";
    let outcomes = ["truncated", "rotated", "swept", "copy", "taken up", "given up", "another's"];
    for kind in steps.split_whitespace().chain(outcomes) {
        let times = statistics.get(kind).copied().unwrap_or_default();
        assert!(
            times >= scripts as u64 / 200,
            "{kind} happened {times} times in {scripts} scripts: {statistics:#?}"
        );
    }
    assert!(statistics["maybe"] * 50 < statistics["counted"], "too much is uncertain: {statistics:#?}");
    assert!(statistics["inexact"] * 3 < statistics["exact"], "too much is inexact: {statistics:#?}");
    println!("{scripts} scripts: {statistics:?}");
}
