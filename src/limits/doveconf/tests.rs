use super::*;
use std::os::unix::fs::PermissionsExt;

fn fixture(name: &str) -> Limits {
    let path = format!("{}/tests/fixtures/doveconf/{name}", env!("CARGO_MANIFEST_DIR"));
    parse(&std::fs::read_to_string(path).unwrap(), "").expect("services")
}

/// As `doveadm service status` shows them, with `unlimited` for 4294967295.
fn shown(limits: &Limits) -> Vec<String> {
    let number = |limit: Option<Limit>| match limit {
        Some(Limit::Of(number)) => number.to_string(),
        Some(Limit::Unlimited) => "unlimited".to_owned(),
        None => "unknown".to_owned(),
    };
    let line = |(service, settings): (&Service, &Settings)| {
        format!("{service} {} {}", number(settings.process_limit), number(settings.client_limit))
    };
    limits.services.iter().map(line).collect()
}

fn of<'a>(limits: &'a Limits, service: &str) -> &'a Settings {
    &limits.services[&Service::parse(service).unwrap()]
}

/// The fixtures are what `doveconf -a` printed and what `doveadm service status` of a Dovecot that ran with the
/// same configuration printed.
#[test]
fn real_output_of_both_generations() {
    for generation in ["2.3", "2.4"] {
        let path = format!("{}/tests/fixtures/doveconf/{generation}.status", env!("CARGO_MANIFEST_DIR"));
        let status = std::fs::read_to_string(path).unwrap().replace("4294967295", "unlimited");
        let mut expected: Vec<&str> = status.lines().collect();
        expected.sort_unstable();
        assert_eq!(shown(&fixture(generation)), expected, "{generation}");
    }
}

#[test]
fn other_settings() {
    let limits = fixture("2.3");
    assert_eq!(limits.instance_name.as_deref(), Some("lab"));
    assert_eq!(limits.log_files, [Path::new("/srv/lab/dovecot.log")]);
    assert_eq!(limits.base_dir.as_deref(), Some(Path::new("/srv/lab/run")));
    let login = of(&limits, "imap-login");
    assert_eq!((login.process_min_avail, login.restart_request_count), (Some(2), Some(Limit::Unlimited)));
    assert_eq!(of(&limits, "auth").vsz_limit, Some(Limit::Of(256 << 20)));
    assert_eq!(of(&limits, "doveadm").program, Some(Program::of_executable("doveadm-server")));
    assert_eq!(of(&limits, "auth-worker").program.as_ref().map(Program::as_str), Some("auth -w"));
    let limits = fixture("2.4");
    let login = of(&limits, "imap-login");
    assert_eq!((login.process_min_avail, login.restart_request_count), (Some(2), Some(Limit::Unlimited)));
    assert_eq!(of(&limits, "imap").restart_request_count, Some(Limit::Of(1)));
    assert_eq!(of(&limits, "imap").vsz_limit, Some(Limit::Of(256 << 20)));
}

#[test]
fn without_the_right_to_expand_variables() {
    let text = "default_process_limit = 77\ndefault_client_limit = 9\nprotocols {\n  imap = yes\n  pop3 = no\n}\n\
                service a {\n  process_limit = $SET:default_process_limit\n  restart_request_count = unlimited\n}\n\
                service b {\n  process_limit = %{system:cpu_count}\n  restart_request_count = 3\n  protocol = imap\n}\n\
                service c {\n  protocol = pop3\n}\nlog_path = syslog\nbase_dir =\n";
    let limits = parse(text, "").expect("services");
    assert_eq!(shown(&limits), ["a 77 9", "b unknown 3"]);
    assert_eq!((limits.log_files, limits.base_dir), (vec![], None));
}

/// 2.4.1 prints built-in settings of services that a setting for all services overrides.
#[test]
fn settings_for_all_services_at_once() {
    let all = "default_process_limit = 100\ndefault_client_limit = 1000\nservice_client_limit = 7\n\
               service_restart_request_count = unlimited\nservice auth {\n}\nservice imap {\n  client_limit = 3\n  \
               process_limit = 1024\n}\nservice lmtp {\n  client_limit = 1\n  process_limit = 5\n}\n";
    let explicit = "service_client_limit = 7\nservice imap {\n  client_limit = 3\n}\n";
    assert_eq!(shown(&parse(all, explicit).expect("services")), ["auth 100 7", "imap 1024 3", "lmtp 5 7"]);
}

/// Made up: no such release was at hand. Before 2.4.4 it was a listener's, and demanded nothing.
#[test]
fn processes_with_sockets_of_their_own() {
    let of = |global: &str, own: &str, listener: &str| {
        let text = format!(
            "{global}service imap-login {{\n  {own}\n  inet_listener imap {{\n    {listener}\n  }}\n}}\n"
        );
        self::of(&parse(&text, "").expect("services"), "imap-login").reuse_port
    };
    assert!(
        of("", "reuse_port = yes", "port = 143")
            && of("service_reuse_port = yes\n", "type = login", "port = 143")
    );
    assert!(!of("", "reuse_port = no", "port = 143") && !of("", "type = login", "reuse_port = yes"));
    assert!(!of("service_reuse_port = yes\n", "reuse_port = no", "port = 143"));
}

#[test]
fn what_is_no_output_of_doveconf() {
    for text in ["", "hello\n", "service x {", "process_limit = 5\n", "  process_limit = 5\n}\n"] {
        let services = parse(text, text).map(|limits| limits.services.len());
        assert!(services.is_none_or(|services| services == 1), "{text:?}");
    }
}

fn fail(script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let doveconf = folder.path().join("doveconf");
    std::fs::write(&doveconf, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&doveconf, PermissionsExt::from_mode(0o755)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(read(&doveconf, Path::new("/etc/dovecot/x.conf"))) {
        Err(Trouble::Failed(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn failures_are_sentences() {
    let failed =
        fail("echo 'doveconf: Warning: other' >&2; echo 'doveconf: Fatal: line 3: bad' >&2; exit 89");
    assert!(failed.contains("/etc/dovecot/x.conf (doveconf: Fatal: line 3: bad)"), "{failed}");
    let silent = fail("exit 3");
    assert!(silent.contains("exit status: 3"), "{silent}");
    let empty = fail("exit 0");
    assert!(empty.contains("--dovecot.doveconf"), "{empty}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let missing = runtime.block_on(read(Path::new("/nowhere/doveconf"), Path::new("x")));
    let Err(Trouble::Absent(missing)) = missing else { panic!("{missing:?}") };
    assert!(
        missing.starts_with("/nowhere/doveconf cannot be run") && missing.contains("--dovecot.process-limit"),
        "{missing}"
    );
}

#[test]
fn listeners_of_enabled_services() {
    let shown = |text: &str| -> Vec<String> {
        let limits = parse(text, "").expect("services");
        let line = |listener: &Listener| {
            let addresses: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
            format!("{} {} {}", listener.service, listener.port, addresses.join(" "))
        };
        limits.listeners.iter().map(line).collect()
    };
    let text = "\
listen = *, ::
protocols = imap
service imap-login {
  protocol = imap
  unix_listener x {
    port = 7
  }
  inet_listener imap {
    address =
    port = 143
  }
  inet_listener imaps {
    port = 993
    address = 10.0.0.1 [::1]
  }
  inet_listener off {
    port = 0
  }
  inet_listener named {
    listen = mail.example.org
    port = 1143
  }
}
service pop3-login {
  protocol = pop3
  inet_listener pop3 {
    port = 110
  }
}
";
    let expected =
        ["imap-login 143 0.0.0.0 ::", "imap-login 993 10.0.0.1 ::1", "imap-login 1143 "].map(String::from);
    assert_eq!(shown(text), expected);
}

/// As Dovecot's own warnings have it: see the tests against real ones.
#[test]
fn the_client_limits_that_auth_and_anvil_need() {
    let required = |text: &str| {
        let limits = parse(text, "").expect("services");
        let of = |name: &str| limits.client_limits_required.get(&Service::parse(name).unwrap()).copied();
        (of("auth"), of("anvil"))
    };
    let text = |process_limit: &str| {
        format!(
            "protocols = imap\ndefault_process_limit = 100\n\
             service auth {{\n  process_limit = 1\n  service_count = 0\n}}\n\
             service imap-login {{\n  process_limit = {process_limit}\n  protocol = imap\n  service_count = 1\n  type = login\n}}\n\
             service pop3-login {{\n  process_limit = 5000\n  protocol = pop3\n  service_count = 1\n  type = login\n}}\n\
             service imap {{\n  process_limit = 1024\n  protocol = imap\n  service_count = 1\n}}\n\
             service lmtp {{\n  process_limit = 0\n  protocol = imap\n  service_count = 0\n}}\n\
             service imap-hibernate {{\n  process_limit = 7\n  protocol = imap\n  service_count = 0\n}}\n"
        )
    };
    assert_eq!(required(&text("2000")), (Some(2100), Some(2003)));
    assert_eq!(required(&text("unlimited")), (None, None));
}
