use super::*;
use proptest::prelude::*;

fn service(name: &str) -> Service {
    Service::parse(name).expect("a name")
}

/// `imap-login`, and what is beside it, with these limits.
fn host(version: &str, login: (u32, bool), imap: u32, clients: [u32; 3], files: u32) -> Host {
    let settings = |processes, clients, once| Settings {
        process_limit: Some(Limit::Of(processes)),
        client_limit: Some(Limit::Of(clients)),
        restart_request_count: Some(if once { Limit::Of(1) } else { Limit::Unlimited }),
        process_min_avail: Some(0),
        vsz_limit: Some(Limit::Of(256 << 20)),
        ..Settings::default()
    };
    let (processes, once) = login;
    let all = [
        ("imap-login", settings(processes, if once { 1 } else { 1000 }, once)),
        ("imap", settings(imap, 1, true)),
        ("auth", settings(1, clients[0], false)),
        ("anvil", settings(1, clients[1], false)),
        ("stats", settings(1, clients[2], false)),
    ];
    let loads = all.iter().map(|(name, settings)| Load {
        service: service(name),
        processes: number(settings.process_limit),
        once: settings.restart_request_count == Some(Limit::Of(1)),
        login: name.ends_with("-login"),
        protocol: name.starts_with("imap"),
    });
    let loads = loads.collect();
    let services = all.iter().map(|(name, settings)| (service(name), settings.clone())).collect();
    Host {
        version: version.to_owned(),
        limits: Limits { services, loads, ..Limits::default() },
        processors: 4,
        open_files: Some(files.into()),
        ..Host::default()
    }
}

/// A setting of the block, or else as it was.
fn after(host: &Host, remedy: &Remedy, name: &str, key: &str) -> u32 {
    let block = remedy.block.split(&format!("service {name} {{\n")).nth(1);
    let block = block.and_then(|rest| rest.split('}').next()).unwrap_or_default();
    let set = block.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(" = ")?.parse().ok());
    let settings = &host.limits.services[&service(name)];
    let now = if key == "client_limit" { settings.client_limit } else { settings.process_limit };
    set.or(number(now)).expect("a number")
}

fn wanted(number: u32) -> Clients {
    Clients { number, least: number, room: None }
}

proptest! {
    /// The sums are made here anew, from the block.
    #[test]
    fn all_that_must_follow_does(
        old in any::<bool>(), once in any::<bool>(), shared in any::<bool>(), processes in 1..5000_u32,
        imap in 1..5000_u32, limits in prop::array::uniform3(1..5000_u32), files in 10..100_000_u32, clients in 1..50_000_u32,
    ) {
        let host = host(if old { "2.3.19.1" } else { "2.4.1" }, (processes, once), imap, limits, files);
        let way = if shared { Way::Shared } else { Way::Processes };
        let remedy = remedy(&host, &service("imap-login"), way, wanted(clients)).expect("a service");
        let of = |name, key| after(&host, &remedy, name, key);
        let login = of("imap-login", "process_limit");
        prop_assert!(remedy.capacity >= f64::from(clients));
        let each = if shared { of("imap-login", "client_limit") } else { 1 };
        prop_assert!(u64::from(login) * u64::from(each) >= u64::from(clients));
        prop_assert!(of("imap", "process_limit") >= clients);
        // master_settings_verify, src/master/master-settings.c
        prop_assert!(of("auth", "client_limit") >= login);
        prop_assert!(of("anvil", "client_limit") >= login + 3);
        prop_assert!(of("stats", "client_limit") >= login + clients.min(of("imap", "process_limit")));
        let largest = ["auth", "anvil", "stats"].map(|name| of(name, "client_limit")).into_iter().max().expect("three").max(1000);
        let unit = remedy.unit.iter().find_map(|(line, _)| line.strip_prefix("LimitNOFILE=")?.parse().ok());
        prop_assert!(unit.unwrap_or(files) >= largest);
        prop_assert!(remedy.restart || unit.is_none() && of("anvil", "client_limit") == limits[1]);
        let count = match (old, shared) {
            (true, true) => "service_count = 0",
            (false, true) => "restart_request_count = unlimited",
            (true, false) => "service_count = 1",
            (false, false) => "restart_request_count = 1",
        };
        prop_assert_eq!(remedy.block.contains(count), shared || !once);
        prop_assert!(!shared || remedy.block.contains("process_min_avail = 4"));
    }
}

#[test]
fn a_block() {
    let host = host("2.4.1", (100, true), 1024, [1000, 1000, 1000], 65535);
    let login = service("imap-login");
    let more = remedy(&host, &login, Way::Processes, wanted(400)).expect("a service");
    assert_eq!(
        more.block,
        "# Dovecot 2.4: imap-login for 400 clients\nservice imap-login {\n  process_limit = 400\n}\n"
    );
    assert!(!more.restart && more.others.is_empty() && more.unit.is_empty());
    let shared = remedy(&host, &login, Way::Shared, wanted(400)).expect("a service");
    assert_eq!(
        shared.block,
        "# Dovecot 2.4: imap-login for 400 clients\nservice imap-login {\n  client_limit = 1000\n  restart_request_count = unlimited\n  process_limit = 5\n  process_min_avail = 4\n}\n"
    );
    let auth = remedy(&host, &service("auth"), Way::Processes, wanted(3000)).expect("a service");
    assert!(auth.block.contains("service auth {\n  client_limit = 3000\n}"), "{}", auth.block);
    // Of two reasons to raise it the higher one counts.
    let busy = self::host("2.4.1", (2000, true), 1024, [1000, 3000, 5000], 65535);
    for (clients, limit) in [(2500, 2500), (1500, 2000)] {
        let auth = remedy(&busy, &service("auth"), Way::Processes, wanted(clients)).expect("a service");
        assert!(
            auth.block.contains(&format!("service auth {{\n  client_limit = {limit}\n}}")),
            "{}",
            auth.block
        );
    }
    // One process because somebody wants no more, and for one client.
    let mut single = host.clone();
    let imap = single.limits.services.get_mut(&service("imap")).expect("it is there");
    imap.process_limit = Some(Limit::Of(1));
    let more = remedy(&single, &service("imap"), Way::Processes, wanted(50)).expect("a service");
    assert!(more.block.contains("service imap {\n  process_limit = 50\n}"), "{}", more.block);
    // Who logs in without TLS leaves imap-login, and stays in imap.
    let more = remedy(&host, &service("imap"), Way::Processes, wanted(3000)).expect("a service");
    assert!(more.block.contains("service stats {\n  client_limit = 3300\n}"), "{}", more.block);
    for (version, old) in
        [("2.2.36", true), ("2.3.21.1", true), ("2.4.0", false), ("2.5.0", false), ("3.1.2", false)]
    {
        assert_eq!(Host { version: version.to_owned(), ..Host::default() }.is_old(), old, "{version}");
    }
    assert!(remedy(&host, &service("pop3-login"), Way::Shared, wanted(5)).is_none());
}

#[test]
fn limits_at_both_ends() {
    let mut host = host("2.3.21", (100, true), 1024, [1000, 1000, 1000], 65535);
    let mut set = |name: &str, limit| {
        host.limits.services.get_mut(&service(name)).expect("it is there").client_limit =
            Some(Limit::Of(limit));
    };
    // default_client_limit = 0
    set("imap", 0);
    set("auth", u32::MAX - 1);
    let more = remedy(&host, &service("imap"), Way::Processes, wanted(50)).expect("a service");
    assert!(more.block.contains("service imap {\n  process_limit = 50\n}"), "{}", more.block);
    assert_eq!(more.unit[0].0, "LimitNOFILE=4294967295");
    host.limits.services.get_mut(&service("imap-login")).expect("it is there").client_limit =
        Some(Limit::Of(3_000_000_000));
    host.limits.services.get_mut(&service("imap-login")).expect("it is there").restart_request_count =
        Some(Limit::Unlimited);
    let shared = remedy(&host, &service("imap-login"), Way::Shared, wanted(50)).expect("a service");
    assert_eq!(shared.unit[0].0, "LimitNOFILE=4294967295");
}

/// 2.4.4 refuses other numbers; made up, since no such release was at hand.
#[test]
fn as_many_are_ready_as_may_be_where_each_has_its_own_sockets() {
    let mut host = host("2.4.4", (4, false), 100, [1000, 1000, 1000], 65535);
    for name in ["imap-login", "imap"] {
        host.limits.services.get_mut(&service(name)).expect("it is there").reuse_port = true;
    }
    let shared = remedy(&host, &service("imap-login"), Way::Shared, wanted(2000)).expect("a service");
    assert!(shared.block.contains("  process_limit = 6\n  process_min_avail = 6\n"), "{}", shared.block);
    assert!(
        shared.block.contains("  process_limit = 2000\n  process_min_avail = 2000\n"),
        "{}",
        shared.block
    );
    assert_eq!(shared.others.iter().filter(|why| why.contains("reuse_port = yes")).count(), 2);
}
