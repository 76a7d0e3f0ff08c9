use super::*;
use std::{fs, path::PathBuf};

/// A folder with these files, of which the first is the configuration.
fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let config = folder.path().join(files[0].0);
    (folder, config)
}

fn read_all(files: &[(&str, &str)]) -> Result<Limits, String> {
    let (_folder, config) = folder(files);
    read(&config).map_err(|failure| match failure {
        Failure::Refused(reason) => reason,
        Failure::Missing => "missing".to_owned(),
    })
}

fn of(files: &[(&str, &str)], service: &str) -> Settings {
    let limits = read_all(files).expect("a configuration");
    limits.services.get(&Service::parse(service).expect("a name")).cloned().unwrap_or_default()
}

fn process_limit(files: &[(&str, &str)]) -> Option<Limit> {
    of(files, "imap-login").process_limit
}

const HEAD: &str = "dovecot_config_version = 2.4.1\ndovecot_storage_version = 2.4.0\nprotocols = imap\n";

// What doveconf says of thousands of configurations is compared in tests/e2e/test_config.py; here is what no comparison
// finds.

#[test]
fn an_empty_configuration_is_one_of_2_3() {
    let limits = read_all(&[("a", "")]).expect("a configuration");
    assert!(limits.services.len() > 20);
    assert_eq!(process_limit(&[("a", "")]), Some(Limit::Of(100)));
    assert_eq!((limits.unknown, limits.base_dir), (None, None));
    assert_eq!(limits.instance_name.as_deref(), Some("dovecot"));
}

#[test]
fn other_settings() {
    let text = "base_dir = /srv/run\ninstance_name = lab\nlog_path = /srv/log\nprotocols = imap\n";
    let limits = read_all(&[("a", text)]).expect("a configuration");
    assert_eq!(limits.base_dir, Some("/srv/run".into()));
    assert_eq!(limits.instance_name.as_deref(), Some("lab"));
    assert_eq!(limits.log_files, [Path::new("/srv/log")]);
    assert_eq!(limits.source, LimitSource::Config);
    assert_eq!(of(&[("a", text)], "pop3-login"), Settings::default());
    assert_eq!(of(&[("a", text)], "doveadm").program, Some(Program::of_executable("doveadm-server")));
}

#[test]
fn words_beside_those_that_packagers_set() {
    // Debian enables nothing, others three protocols: what more there is, is not known.
    let text = "protocols = $protocols sieve\n";
    assert_eq!(of(&[("a", text)], "imap-login").process_limit, Some(Limit::Of(100)));
    assert_eq!(of(&[("a", "protocols = sieve\n")], "imap-login").process_limit, None);
}

#[test]
fn values_that_are_not_known_are_said() {
    for (head, value) in [
        ("", "$ENV:LIMIT"),
        ("", "$no_such_setting"),
        (HEAD, "%{system:cpu_count}"),
        (HEAD, "$SET:service/auth/service_client_limit"),
        (HEAD, "$ENV:LIMIT"),
    ] {
        let text = format!("{head}service imap-login {{\n  process_limit = {value}\n}}\n");
        let limits = read_all(&[("a", &text)]).expect("a configuration");
        assert!(limits.unknown.is_some_and(|reason| reason.contains(value)), "{value}");
        assert_eq!(process_limit(&[("a", &text)]), None, "{value}");
    }
}

#[test]
fn what_has_no_end_ends() {
    for (files, reason) in [
        (&[("a", "!include a\n")][..], "includes itself"),
        (&[("a", "!include ./b\n"), ("b", "!include_try a\n")], "includes itself"),
        (&[("a", "!include_try {{1,2}{1,2}{1,2}{1,2}{1,2}{1,2}{1,2}{1,2}{1,2}{1,2}{1,2}\n")], "beyond"),
        (&[("a", "!include_try [^a]\n")], "beyond"),
        (&[("a", "!include_try **/x\n")], "beyond"),
        (&[("a", "!include_try [a\n")], "beyond"),
        (&[("a", "!include_try /dev/zero\n")], "no regular file"),
        (&[("a", "service imap {\n  process_limit = </dev/zero\n}\n")], "no regular file"),
    ] {
        let error = read_all(files).expect_err(reason);
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("line"), "{error}");
    }
    let long = "#".repeat(9 << 20);
    let error = read_all(&[("a", "!include b\n"), ("b", &long)]).expect_err("too large");
    assert!(error.contains("too large"), "{error}");
    let deep = format!("!include_try {}\n", "a/".repeat(1 << 20));
    assert!(read_all(&[("a", &deep)]).is_err_and(|error| error.contains("beyond")));
    // One long line is no trouble.
    assert_eq!(process_limit(&[("a", &long[..4 << 20])]), Some(Limit::Of(100)));
}

#[test]
fn patterns_match_in_the_order_of_glob() {
    let text = |number| format!("service imap-login {{\n  process_limit = {number}\n}}\n");
    let (one, two, three) = (text(1), text(2), text(3));
    let all = |include| {
        let (one, two, three) = (one.as_str(), two.as_str(), three.as_str());
        read_all(&[("a", include), ("d/10.conf", one), ("d/9.conf", two), ("d/é.conf", three)])
    };
    for (include, last) in [
        ("!include d/*.conf\n", 3),
        ("!include d/*9.conf\n", 2),
        ("!include d/{9,10}.conf\n", 1),
        ("!include d/{10,9}.conf\n", 2),
        ("!include {d/9,{d/1,x}0}.conf\n", 1),
        ("!include_try d/.*\n", 100),
        ("!include d\n", 100),
    ] {
        let limits = all(include).expect("a configuration");
        let login = &limits.services[&Service::parse("imap-login").expect("a name")];
        assert_eq!(login.process_limit, Some(Limit::Of(last)), "{include}");
    }
    // To Dovecot this is two characters.
    assert!(all("!include d/?.conf\n").is_err_and(|error| error.contains("beyond")));
}

#[test]
fn sentences_say_where() {
    let error = read_all(&[("a", "\nservice imap {\n  process_limit = many\n}\n")]).expect_err("no number");
    assert!(error.contains("/a line 3: process_limit = many is no number"), "{error}");
    let missing = read_all(&[("a", "!include b*\n")]).expect_err("no match");
    assert!(missing.contains("line 1: nothing matches"), "{missing}");
    let pro = read_all(&[("a", "dovecot_config_version = 3.1.0\n")]).expect_err("other defaults");
    assert!(pro.contains("dovecot_config_version"), "{pro}");
    assert!(matches!(read(Path::new("/no/such/file")), Err(Failure::Missing)));
}

proptest::proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "(service |\\{|\\}|=|\"|'|\\\\|\n|#|<|\\$|@|group |process_limit|!include |é| ){0,60}") {
        drop(read_all(&[("a", &text)]));
        drop(read_all(&[("a", &format!("{HEAD}{text}"))]));
    }
}
