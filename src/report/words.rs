//! Numbers, times and other people's text, for a terminal.

use std::time::SystemTime;

use jiff::{Timestamp, tz::TimeZone};

/// Columns of a terminal that nobody has widened.
pub const COLUMNS: usize = 80;

/// A plugin's output is cut off at 8 KiB (Nagios) or less, performance data and all.
const MAX_SENTENCE: usize = 1500;

/// A number in seven columns at most; `?` if it is not known.
pub fn count(number: Option<f64>) -> String {
    match number {
        None => "?".to_owned(),
        Some(number) if number.is_infinite() => "unlim.".to_owned(),
        Some(number) if number.abs() < 1e6 => format!("{}", number.round()),
        Some(number) if number.abs() < 1e9 => format!("{:.1}M", number / 1e6),
        Some(number) => format!("{number:.0e}"),
    }
}

/// Memory in six columns at most.
pub fn bytes(number: Option<f64>) -> String {
    match number {
        Some(number) if number.is_finite() && number < 1e15 => {
            let mut rest = number / 1024.0;
            let mut units = ["K", "M", "G"].into_iter();
            let mut unit = units.next().unwrap_or_default();
            for next in units {
                if rest < 1000.0 {
                    break;
                }
                (rest, unit) = (rest / 1024.0, next);
            }
            format!("{rest:.0}{unit}")
        }
        _ => count(number),
    }
}

/// A part of a whole.
pub fn percent(share: f64) -> String {
    // Not 100% before it is; and 29 of 100, times 100, are a little less than 29.
    format!("{}%", count(Some((share * 100.0 + 1e-9).floor())))
}

/// How long ago that was.
pub fn ago(time: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(time).unwrap_or_default().as_secs();
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7199 => format!("{} min ago", seconds / 60),
        7200..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86400),
    }
}

/// `2026-11-24 06:25`, here.
pub fn clock(time: SystemTime) -> String {
    let zoned = Timestamp::try_from(time).map(|time| time.to_zoned(TimeZone::system()));
    zoned.map_or_else(|_| "?".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}

/// Whether a terminal shows it, and does nothing else.
pub fn is_harmless(character: char) -> bool {
    character.is_alphanumeric() || character.is_ascii_graphic() || character == ' '
}

/// Text that somebody else chose, with nothing in it that a terminal would obey, and `most` characters at most.
pub fn tame(text: &str, most: usize) -> String {
    let safe = |character| if is_harmless(character) { character } else { '?' };
    if text.chars().count() <= most {
        return text.chars().map(safe).collect();
    }
    text.chars().take(most.saturating_sub(2)).map(safe).chain("..".chars()).collect()
}

/// A sentence that may quote others.
pub fn one_line(text: &str) -> String {
    tame(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_SENTENCE)
}

/// Paragraphs of words to lines of [`COLUMNS`], those behind the first indented.
pub fn wrap(text: &str, indent: usize) -> String {
    let words = text.trim_start_matches(' ');
    let lead = (text.len() - words.len()).min(indent);
    let (mut lines, mut column) = (" ".repeat(lead), 0);
    for word in words.split(' ') {
        let length = word.chars().count();
        if column == 0 {
            column = lead;
        } else if column + 1 + length > COLUMNS {
            lines.push('\n');
            lines.push_str(&" ".repeat(indent));
            column = indent;
        } else {
            lines.push(' ');
            column += 1;
        }
        // A word that fits no line is cut: what it leads to is shown elsewhere, whole.
        let word = tame(word, COLUMNS - indent);
        column += word.chars().count();
        lines.push_str(&word);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers() {
        for (number, text) in [
            (None, "?"),
            (Some(0.0), "0"),
            (Some(999_999.0), "999999"),
            (Some(4_294_967_295.0), "4e9"),
            (Some(25_000_000.0), "25.0M"),
            (Some(1e308), "1e308"),
            (Some(f64::INFINITY), "unlim."),
        ] {
            assert_eq!(count(number), text);
        }
        for (number, text) in
            [(0.0, "0K"), (5e6, "5M"), (1_048_576_000.0, "1G"), (2e9, "2G"), (1e300, "1e300")]
        {
            assert_eq!(bytes(Some(number)), text);
        }
        for (part, whole, text) in
            [(999, 1000, "99%"), (1000, 1000, "100%"), (0, 1, "0%"), (29, 100, "29%"), (57, 100, "57%")]
        {
            assert_eq!(percent(f64::from(part) / f64::from(whole)), text);
        }
    }

    #[test]
    fn text_of_others_is_tamed() {
        assert_eq!(tame("bob\u{1b}[31m\n\u{202e}é", 40), "bob?[31m??é");
        assert_eq!(tame("abcdefgh", 5), "abc..");
    }

    proptest! {
        #[test]
        fn no_line_is_too_long(text in "\\PC{0,200}", indent in 0..8_usize, number in any::<f64>()) {
            for line in wrap(&text, indent).lines() {
                prop_assert!(line.chars().count() <= COLUMNS, "{}", line);
            }
            prop_assert!(count(Some(number)).len() <= 7 && bytes(Some(number.abs())).len() <= 7);
        }
    }
}
