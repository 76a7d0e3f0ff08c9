//! The journal's export format to entries, in bounded memory, no I/O.
//!
//! As systemd's `docs/JOURNAL_EXPORT_FORMATS.md` has it: `NAME=TEXT\n`, or `NAME\n`, eight bytes of length in little
//! endian, DATA, `\n`; an empty line ends an entry.

use memchr::memchr;

use super::lines::MAX_LINE;

/// Longer ones than any cursor and any name are not these.
const MAX_NAME: usize = 1024;

/// One entry.
#[derive(Debug, Default)]
pub struct Entry {
    /// `__CURSOR`.
    pub cursor: String,
    /// `__REALTIME_TIMESTAMP`: microseconds since 1970.
    pub time: Option<u64>,
    /// `MESSAGE`; nothing if there is none, or if it is longer than [`MAX_LINE`].
    pub message: Option<Vec<u8>>,
}

/// What comes next.
#[derive(Debug, Default)]
enum Next {
    /// A field's name, up to `=` or a newline, or the end of the entry.
    #[default]
    Name,
    /// The text of a field, up to a newline.
    Text,
    /// The length of its data.
    Length,
    /// So many bytes of data, and a newline.
    Data(u64),
}

/// A reader of entries.
#[derive(Debug, Default)]
pub struct Export {
    next: Next,
    name: Vec<u8>,
    /// What there is of the field's value. Longer than [`MAX_LINE`]: too long.
    value: Vec<u8>,
    entry: Entry,
}

impl Export {
    /// Takes the next bytes and hands over each entry that they end.
    pub fn take(&mut self, mut bytes: &[u8], on_entry: &mut dyn FnMut(&Entry)) {
        while !bytes.is_empty() {
            let taken = match self.next {
                Next::Name => self.take_name(bytes, on_entry),
                Next::Text => {
                    let end = memchr(b'\n', bytes);
                    self.keep(&bytes[..end.unwrap_or(bytes.len())]);
                    if end.is_some() {
                        self.end_field();
                    }
                    end.map_or(bytes.len(), |end| end + 1)
                }
                Next::Length => {
                    let taken = bytes.len().min(8 - self.value.len());
                    self.value.extend_from_slice(&bytes[..taken]);
                    if let Ok(length) = <[u8; 8]>::try_from(&self.value[..]) {
                        self.value.clear();
                        self.next = Next::Data(u64::from_le_bytes(length));
                    }
                    taken
                }
                Next::Data(0) => {
                    self.end_field();
                    1
                }
                Next::Data(rest) => {
                    let taken = usize::try_from(rest).unwrap_or(usize::MAX).min(bytes.len());
                    self.keep(&bytes[..taken]);
                    self.next = Next::Data(rest - taken as u64);
                    taken
                }
            };
            bytes = &bytes[taken..];
        }
    }

    fn take_name(&mut self, bytes: &[u8], on_entry: &mut dyn FnMut(&Entry)) -> usize {
        let end = bytes.iter().position(|byte| matches!(byte, b'=' | b'\n'));
        let part = &bytes[..end.unwrap_or(bytes.len())];
        self.name.extend_from_slice(&part[..part.len().min(MAX_NAME - self.name.len())]);
        match end.map(|end| bytes[end]) {
            Some(b'=') => self.next = Next::Text,
            Some(_) if self.name.is_empty() => {
                // Without a cursor it is none.
                if !self.entry.cursor.is_empty() {
                    on_entry(&self.entry);
                }
                self.entry = Entry::default();
            }
            Some(_) => self.next = Next::Length,
            None => {}
        }
        end.map_or(bytes.len(), |end| end + 1)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE + 1 - self.value.len();
        self.value.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_field(&mut self) {
        match &self.name[..] {
            b"MESSAGE" if self.value.len() <= MAX_LINE => {
                self.entry.message = Some(std::mem::take(&mut self.value));
            }
            // No command takes one with a NUL in it.
            b"__CURSOR" if self.value.len() <= MAX_NAME && !self.value.contains(&0) => {
                self.entry.cursor = String::from_utf8_lossy(&self.value).into_owned();
            }
            b"__REALTIME_TIMESTAMP" => {
                self.entry.time = std::str::from_utf8(&self.value).ok().and_then(|time| time.parse().ok());
            }
            _ => {}
        }
        self.name.clear();
        self.value.clear();
        self.next = Next::Name;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(blocks: &[&[u8]]) -> Vec<(String, Option<Vec<u8>>)> {
        let (mut export, mut found) = (Export::default(), Vec::new());
        for block in blocks {
            export.take(block, &mut |entry| found.push((entry.cursor.clone(), entry.message.clone())));
        }
        found
    }

    #[test]
    fn text_and_data() {
        let mut log = b"__CURSOR=s=1;i=2\n_BOOT_ID=x=y\nMESSAGE=one\n\n\n__CURSOR=s=2\nMESSAGE\n".to_vec();
        log.extend(5_u64.to_le_bytes());
        log.extend(b"a\n\nb=\n\n__CURSOR=s=3\n\nMESSAGE=without cursor\n\n__CURSOR=unfinished\nMESSAGE=x\n");
        let some = |cursor: &str, message: Option<&[u8]>| (cursor.to_owned(), message.map(<[u8]>::to_vec));
        let expected = [some("s=1;i=2", Some(b"one")), some("s=2", Some(b"a\n\nb=")), some("s=3", None)];
        assert_eq!(entries(&[&log]), expected);
        let bytes: Vec<&[u8]> = log.chunks(1).collect();
        assert_eq!(entries(&bytes), expected);
    }

    #[test]
    fn a_message_too_long_is_none() {
        for (length, whole) in [(MAX_LINE, true), (MAX_LINE + 1, false), (10 * MAX_LINE, false)] {
            let mut log = b"__CURSOR=s=1\nMESSAGE\n".to_vec();
            log.extend((length as u64).to_le_bytes());
            log.extend(vec![b'x'; length]);
            log.extend(b"\n\n__CURSOR=s=2\nMESSAGE=");
            log.extend(vec![b'x'; length]);
            log.extend(b"\n\n");
            let found: Vec<bool> =
                entries(&[&log]).into_iter().map(|(_, message)| message.is_some()).collect();
            assert_eq!(found, [whole, whole]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_bounded_memory(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'=')], 0..200)) {
            let mut export = Export::default();
            export.take(&bytes, &mut |entry| assert!(!entry.cursor.is_empty()));
            prop_assert!(export.value.len() <= MAX_LINE + 1 && export.name.len() <= MAX_NAME);
        }
    }
}
