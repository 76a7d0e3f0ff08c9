//! Commands to paste into a shell.

use std::path::Path;

use crate::cli::Config;

/// A word as the shell reads it: as it is, or in quotes where that would be another.
pub fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_-./:@+,%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The words that start the doveconf that was given, for the configuration that was.
pub fn doveconf(config: &Config) -> Vec<String> {
    start(&config.doveconf, config)
}

/// The same for the doveadm beside it.
pub fn doveadm(config: &Config) -> Vec<String> {
    start(&config.doveconf.with_file_name("doveadm"), config)
}

fn start(program: &Path, config: &Config) -> Vec<String> {
    let mut words = vec![quoted(&program.to_string_lossy())];
    // What another doveconf reads by itself is not known.
    let stock = ["doveconf", "/etc/dovecot/dovecot.conf"].map(Path::new);
    if [config.doveconf.as_path(), &config.dovecot_config] != stock {
        words.extend(["-c".to_owned(), quoted(&config.dovecot_config.to_string_lossy())]);
    }
    words
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_the_same_word(word in "[^\0]{0,20}") {
            let shown = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(&word))]).output().expect("a shell");
            prop_assert_eq!(String::from_utf8_lossy(&shown.stdout), word);
        }
    }

    #[test]
    fn quotes_are_for_what_needs_them() {
        for plain in ["/etc/dovecot/dovecot.conf", "dovecot@mail.service", "./a_b-c+d,e%f:0"] {
            assert_eq!(quoted(plain), plain);
        }
        for (word, text) in
            [(r"dovecot@a\x2db", r"'dovecot@a\x2db'"), ("", "''"), ("it's", r"'it'\''s'"), ("~", "'~'")]
        {
            assert_eq!(quoted(word), text);
        }
    }
}
