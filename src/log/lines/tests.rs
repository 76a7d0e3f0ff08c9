use super::*;
use proptest::prelude::*;

/// The lines that come out when bytes arrive in `blocks`, read as files are: what was not taken is given again.
fn lines(blocks: &[&[u8]]) -> (Vec<Vec<u8>>, Taken) {
    let needles = Needles::new(&["yes", "also"]);
    let (mut lines, mut found, mut total, mut rest) =
        (Lines::default(), Vec::new(), Taken::default(), Vec::new());
    for block in blocks {
        rest.extend_from_slice(block);
        let taken = lines.take(&rest, &needles, &mut |line, _| found.push(line.to_vec()));
        total.lines += taken.lines;
        total.oversized += taken.oversized;
        rest.drain(..taken.bytes);
        assert!(rest.len() <= MAX_LINE);
    }
    (found, total)
}

#[test]
fn only_lines_with_a_needle_in_order() {
    let (found, taken) = lines(&[b"no\nalso 1\nyes 2 also\n\nyes 3\nyes unfinished"]);
    assert_eq!(found, [&b"also 1"[..], b"yes 2 also", b"yes 3"]);
    assert_eq!(taken, Taken { bytes: 0, lines: 5, oversized: 0 });
}

#[test]
fn a_line_may_come_in_pieces() {
    assert_eq!(lines(&[b"y", b"", b"e", b"s\nx", b"\n", b"\nyes", b"\n"]).0, [b"yes", b"yes"]);
}

#[test]
fn a_file_entered_in_the_middle_of_a_line() {
    let needles = Needles::new(&["yes"]);
    for (before, expected) in [(&b"half"[..], vec!["whole yes"]), (b"a\n", vec!["yes half", "whole yes"])] {
        let (mut lines, mut found) = (Lines::after(before), Vec::new());
        lines.take(b"yes half\nwhole yes\n", &needles, &mut |line, _| found.push(line.to_vec()));
        assert_eq!(found, expected.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>());
    }
}

#[test]
fn the_last_line_may_lack_its_newline() {
    let (needles, mut found) = (Needles::new(&["yes"]), Vec::new());
    let mut lines = Lines::default();
    assert_eq!(lines.take(b"yes", &needles, &mut |_, _| unreachable!()), Taken::default());
    lines.finish(b"yes", &needles, &mut |line, _| found.push(line.to_vec()));
    lines.finish(b"", &needles, &mut |_, _| unreachable!());
    assert_eq!(found, [b"yes"]);
}

#[test]
fn a_hole_before_a_line_is_no_part_of_it() {
    assert_eq!(lines(&[&vec![0; 3 * MAX_LINE], b"\0\0yes\n\0yes\n"]).0, [b"yes", b"yes"]);
}

#[test]
fn a_hole_may_be_anywhere_and_come_in_any_blocks() {
    let needles = Needles::new(&["yes"]);
    let longest = [&b"yes "[..], &vec![b'x'; MAX_LINE - 4]].concat();
    let log = [&b"a\n"[..], &vec![0; 70_000], &longest, b"\n\0\0\nyes\0\n", &[0; 5000], b"yes\n"].concat();
    for step in [log.len(), 100_000, 65_536, 9973] {
        let (mut lines, mut found, mut start) = (Lines::default(), Vec::new(), 0);
        let mut oversized = 0;
        for end in (0..log.len()).step_by(step).skip(1).chain([log.len()]) {
            let on_line: OnLine = &mut |line, before| found.push((line.len(), before));
            let taken = lines.take(&log[start..end], &needles, on_line);
            start += taken.bytes;
            oversized += taken.oversized;
        }
        assert_eq!((start, oversized), (log.len(), 0));
        let behind = Before::LongLine;
        assert_eq!(found, [(MAX_LINE, Before::Lines), (4, behind), (3, behind)], "{step}");
    }
}

#[test]
fn a_line_too_long_may_be_a_piece() {
    let needles = Needles::new(&["yes"]);
    for (head, expected) in [
        (&b"2026-11-23T15:54:28Z stderr P "[..], Before::Piece),
        (b"{\"log\":\"", Before::Piece),
        (b"{\"log\":\"x\\n\",\"", Before::LongLine),
        (b"x", Before::LongLine),
    ] {
        let log = [head, &vec![b'x'; 2 * MAX_LINE], b"\nyes\n"].concat();
        for cut in [0, head.len() + MAX_LINE, 2 * MAX_LINE, log.len() - 5, log.len()] {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            let mut on_line = |_: &[u8], before| found.push(before);
            let first = lines.take(&log[..cut], &needles, &mut on_line).bytes;
            lines.take(&log[first..], &needles, &mut on_line);
            assert_eq!(found, [expected], "{cut}");
        }
    }
}

#[test]
fn what_continues_a_piece_is_told_from_a_line() {
    let needles = Needles::new(&["yes"]);
    let log = b"2026-11-23T15:54:28Z stderr P yes 1\n2026-11-23T15:54:28Z stderr F yes 2\n2026-11-23T15:54:28Z stderr F yes 3\n";
    for cut in 0..=log.len() {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut on_line = |_: &[u8], before| found.push(before == Before::Piece);
        let first = lines.take(&log[..cut], &needles, &mut on_line).bytes;
        lines.take(&log[first..], &needles, &mut on_line);
        assert_eq!(found, [false, true, false], "{cut}");
        let end = memrchr(b'\n', &log[..cut]).map_or(0, |newline| newline + 1);
        assert_eq!(Lines::after(&log[..end]).piece, end == 36, "{end}");
    }
}

#[test]
fn what_may_be_split_is_told_from_whole_lines() {
    let needles = Needles::new(&["yes"]);
    for (length, lines_between, expected) in [
        (LONG_LINE, 0, Before::LongLine),
        (LONG_LINE, 31, Before::LongLine),
        (LONG_LINE, 32, Before::Lines),
        (LONG_LINE - 1, 0, Before::Lines),
    ] {
        let log =
            [&b"a\n".repeat(50)[..], &vec![b'-'; length], b"\n", &b"b\n".repeat(lines_between), b"yes\n"]
                .concat();
        for cut in (0..=log.len()).step_by(7) {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            let mut on_line = |_: &[u8], before| found.push(before);
            let first = lines.take(&log[..cut], &needles, &mut on_line).bytes;
            lines.take(&log[first..], &needles, &mut on_line);
            assert_eq!(found, [expected], "{length} {lines_between} {cut}");
        }
    }
}

#[test]
fn memory_stays_bounded_under_a_line_without_end() {
    let (mut lines, needles) = (Lines::default(), Needles::new(&["yes"]));
    let mut oversized = 0;
    for _ in 0..1000 {
        let taken = lines.take(&vec![b'x'; MAX_LINE + 1], &needles, &mut |_, _| unreachable!());
        assert_eq!(taken.bytes, MAX_LINE + 1);
        oversized += taken.oversized;
    }
    assert_eq!(oversized, 1);
    let mut found = 0;
    assert_eq!(lines.take(b"yes\nyes\n", &needles, &mut |_, _| found += 1).lines, 2);
    assert_eq!(found, 1);
}

#[test]
fn the_bound_is_exact() {
    for (length, oversized) in [(MAX_LINE, 0), (MAX_LINE + 1, 1), (3 * MAX_LINE, 1)] {
        let log = [b"a\n", &b"yes ".repeat(length.div_ceil(4))[..length], b"\nb\n"].concat();
        let (found, taken) = lines(&[&log]);
        assert_eq!((found.len() as u64, taken.oversized), (1 - oversized, oversized), "{length}");
    }
}

proptest! {
    /// However a log is cut into blocks, the same lines come out as from `split`.
    #[test]
    fn cuts_do_not_matter(
        parts in prop::collection::vec(
            prop_oneof![
                4 => Just(b"yes".to_vec()), 4 => Just(b"\n".to_vec()), 2 => Just(b"also\n".to_vec()),
                2 => prop::collection::vec(1_u8.., 0..9), 1 => Just(vec![b'-'; MAX_LINE - 2]),
            ], 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let log = parts.concat();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len() + 1)).collect();
        places.extend([0, log.len()]);
        places.sort_unstable();
        let blocks: Vec<&[u8]> = places.windows(2).map(|pair| &log[pair[0]..pair[1]]).collect();
        let mut whole: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
        let tail = whole.pop().unwrap_or_default();
        let (long, short): (Vec<&[u8]>, Vec<&[u8]>) = whole.iter().partition(|line| line.len() > MAX_LINE);
        let holds = |line: &&[u8]| line.windows(3).any(|at| at == b"yes") || line.windows(4).any(|at| at == b"also");
        let expected: Vec<Vec<u8>> = short.into_iter().filter(holds).map(<[u8]>::to_vec).collect();
        let (found, taken) = lines(&blocks);
        prop_assert_eq!(found, expected);
        prop_assert_eq!(taken.lines, whole.len() as u64);
        prop_assert_eq!(taken.oversized, long.len() as u64 + u64::from(tail.len() > MAX_LINE));
    }
}
