//! One line of Dovecot's configuration (`config_parse_line`, src/config/config-parser.c).

use crate::limits::defaults::Generation;

/// What a line of a file is before lines are joined.
#[derive(Debug, PartialEq)]
pub enum Piece<'a> {
    /// Empty, or a comment. It also ends what earlier lines began: Dovecot forgets that.
    Nothing,
    /// To be joined to the next line.
    Begun(&'a str),
    /// The last, or the only one.
    Ended(&'a str),
}

/// What a line says.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// `KEY = VALUE`
    Set(String, Value),
    /// `KIND NAME {`
    Begin(String, String),
    /// `group @LABEL NAME {`
    Group(String, String),
    /// `}`
    End,
    /// `!include PATTERN`, and whether something must match.
    Include(String, bool),
}

/// The right side of a setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// As it stands.
    Text(String),
    /// What is in this file: `<FILE`.
    File(String),
    /// Words of which some begin with `$`.
    Variables(String),
}

/// What counts as white space: in 2.4 all that C does.
fn blank(generation: Generation) -> impl Fn(char) -> bool {
    move |char| {
        [' ', '\t'].contains(&char)
            || generation == Generation::V24 && ['\r', '\n', '\x0b', '\x0c'].contains(&char)
    }
}

/// Takes comments and white space from a line of a file.
pub fn piece(line: &str, generation: Generation) -> Piece<'_> {
    let blank = blank(generation);
    // C sees no further.
    let line = line.split('\0').next().unwrap_or_default().trim_start_matches(&blank);
    if line.is_empty() || line.starts_with('#') {
        return Piece::Nothing;
    }
    let line = uncommented(line).trim_end_matches(&blank);
    match line.strip_suffix('\\') {
        Some(begun) => Piece::Begun(begun.trim_end_matches(&blank)),
        None => Piece::Ended(line),
    }
}

/// Up to a `#` outside quotes. Where a quote is not closed, nothing is a comment.
fn uncommented(line: &str) -> &str {
    let mut bytes = line.bytes().enumerate();
    while let Some((place, byte)) = bytes.next() {
        match byte {
            b'#' => return &line[..place],
            b'\'' | b'"' => loop {
                match bytes.next() {
                    None => return line,
                    Some((_, end)) if end == byte => break,
                    Some((_, b'\\')) => drop(bytes.next()),
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    line
}

/// Reads a line whose pieces are joined.
pub fn parse(line: &str, generation: Generation) -> Result<Line, &'static str> {
    let blank = blank(generation);
    let (key, rest) = match line.strip_prefix('"') {
        Some(quoted) if generation == Generation::V24 => to_quote(quoted, true).unwrap_or((quoted, "")),
        _ => line.split_at(line.find(|char| blank(char) || char == '=').unwrap_or(line.len())),
    };
    let include = match key {
        "!include" => Some(true),
        "!include_try" => Some(false),
        _ => None,
    };
    let after = rest.trim_start_matches(&blank);
    if let Some(must) = include.filter(|_| !rest.starts_with('=')) {
        return Ok(Line::Include(after.to_owned(), must));
    }
    if let Some(value) = after.strip_prefix('=') {
        return Ok(Line::Set(key.to_owned(), value_of(value.trim_start_matches(&blank), &blank)));
    }
    if key == "}" && after.is_empty() {
        return Ok(Line::End);
    }
    let word = |text: &'_ str| {
        let (word, rest) = text.split_at(text.find(&blank).unwrap_or(text.len()));
        (word.to_owned(), rest.trim_start_matches(&blank).to_owned())
    };
    let (begin, open) = if after.starts_with('{') {
        (Line::Begin(key.to_owned(), String::new()), after.to_owned())
    } else if key == "group" && generation == Generation::V24 {
        let (label, rest) = word(after);
        let (name, rest) = word(&rest);
        (Line::Group(label, name), rest)
    } else if let Some(quoted) = after.strip_prefix('"') {
        let (name, rest) = to_quote(quoted, false).ok_or("a quote is not closed")?;
        let rest = rest.trim_start_matches(&blank).to_owned();
        (Line::Begin(key.to_owned(), unescaped(name)), rest)
    } else {
        let (name, rest) = word(after);
        (Line::Begin(key.to_owned(), name), rest)
    };
    match open.strip_prefix('{') {
        Some("") => Ok(begin),
        Some(_) => Err("something follows the '{'"),
        None => Err("'=' or '{' is missing"),
    }
}

/// Splits at the closing quote.
fn to_quote(text: &str, escapes: bool) -> Option<(&str, &str)> {
    let mut bytes = text.bytes().enumerate();
    while let Some((place, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((&text[..place], &text[place + 1..])),
            b'\\' if escapes => drop(bytes.next()),
            _ => {}
        }
    }
    None
}

fn value_of(text: &str, blank: impl Fn(char) -> bool) -> Value {
    if let Some(file) = text.strip_prefix('<') {
        return Value::File(file.trim_start_matches(blank).to_owned());
    }
    let Some(quote) = text.chars().next().filter(|char| "'\"".contains(*char)) else {
        let text = text.to_owned();
        return if text.contains('$') { Value::Variables(text) } else { Value::Text(text) };
    };
    let inner = text[1..].strip_suffix(quote);
    Value::Text(inner.map_or_else(|| text.to_owned(), unescaped))
}

fn unescaped(text: &str) -> String {
    let mut chars = text.chars();
    std::iter::from_fn(|| match chars.next()? {
        '\\' => chars.next(),
        char => Some(char),
    })
    .collect()
}
