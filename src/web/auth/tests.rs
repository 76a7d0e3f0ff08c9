use std::time::Duration;

use tokio::{task::yield_now, time::timeout};

use super::*;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Cheap.
fn users() -> HashMap<String, String> {
    HashMap::from([(
        "good".to_owned(),
        bcrypt::hash_with_salt("secret:1", 4, [7; 16]).expect("a hash").to_string(),
    )])
}

fn basic(user: &str, password: &str) -> Vec<u8> {
    format!("basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))).into_bytes()
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test)
}

#[test]
fn lets_in_who_knows_the_password() {
    run(async {
        let (auth, users) = (Auth::new().expect("random numbers"), users());
        // The second time from memory.
        for _ in 0..2 {
            for (user, password, verdict) in [
                ("good", "secret:1", Verdict::Right),
                ("good", "secret", Verdict::Wrong),
                ("good", "", Verdict::Wrong),
                ("Good", "secret:1", Verdict::Wrong),
                ("", "secret:1", Verdict::Wrong),
            ] {
                let given = basic(user, password);
                assert_eq!(auth.check(&users, Some(&given), HERE).await, verdict, "{user} {password}");
            }
        }
        for header in
            [&b""[..], b"Basic", b"Basic ", b"Basic ?", b"Basic Z29vZA==", b"Bearer x", b"Digest Og=="]
        {
            assert_eq!(auth.check(&users, Some(header), HERE).await, Verdict::Wrong, "{header:?}");
        }
        assert_eq!(auth.check(&users, None, HERE).await, Verdict::Wrong);
    });
}

#[test]
fn forgets_with_the_user_and_with_the_hash() {
    run(async {
        let (auth, mut users, given) =
            (Auth::new().expect("random numbers"), users(), basic("good", "secret:1"));
        assert_eq!(auth.check(&users, Some(&given), HERE).await, Verdict::Right);
        let old = users.insert(
            "good".to_owned(),
            bcrypt::hash_with_salt("new", 4, [8; 16]).expect("a hash").to_string(),
        );
        assert_eq!(auth.check(&users, Some(&given), HERE).await, Verdict::Wrong);
        assert_eq!(auth.check(&users, Some(&basic("good", "new")), HERE).await, Verdict::Right);
        users.clear();
        assert_eq!(auth.check(&users, Some(&given), HERE).await, Verdict::Wrong);
        users.insert("other".to_owned(), old.expect("it was there"));
        assert_eq!(auth.check(&users, Some(&given), HERE).await, Verdict::Wrong);
    });
}

#[test]
fn a_right_verdict_outlives_any_number_of_wrong_ones() {
    let auth = Auth::new().expect("random numbers");
    auth.remember([0; 32], Verdict::Right);
    for number in 0..3 * MAX_VERDICTS {
        let mut digest = [1; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        auth.remember(digest, Verdict::Wrong);
        assert!(auth.verdicts.lock().expect("no panic").wrong.len() <= MAX_VERDICTS);
    }
    assert_eq!(auth.remembered(&[0; 32]), Some(Verdict::Right));
}

#[test]
fn an_unknown_user_costs_what_the_costliest_costs() {
    let mut users = users();
    assert!(nobodys(&users).starts_with("$2b$04$"));
    users.insert("careful".to_owned(), users["good"].replacen("$04$", "$12$", 1));
    let hash = nobodys(&users);
    assert_eq!(hash.parse::<HashParts>().expect("a hash").get_cost(), 12);
    assert!(nobodys(&HashMap::new()).parse::<HashParts>().is_ok());
}

/// While the turn is taken nothing gets on, so that who waits can be counted.
#[test]
fn a_flood_waits_for_itself() {
    run(async {
        let auth = Arc::new(Auth::new().expect("random numbers"));
        let busy = auth.turn.clone().acquire_owned().await.expect("nobody closes it");
        let ask = |from: IpAddr, password: String| {
            let (auth, given) = (auth.clone(), basic("good", &password));
            tokio::spawn(async move { auth.check(&users(), Some(&given), from).await })
        };
        let flood: Vec<_> = (0..100).map(|number| ask(HERE, number.to_string())).collect();
        let waiting = |auth: &Auth| {
            auth.queues.lock().expect("no panic").values().map(|queue| queue.waiting).sum::<usize>()
        };
        while flood.iter().filter(|check| check.is_finished()).count() < 100 - MAX_WAITING_OF_ONE {
            yield_now().await;
        }
        assert_eq!(waiting(&auth), MAX_WAITING_OF_ONE);
        // Of another network: behind one of the flood, not behind all.
        let other = ask("2001:db8::1".parse().expect("an address"), "secret:1".to_owned());
        while waiting(&auth) == MAX_WAITING_OF_ONE {
            yield_now().await;
        }
        drop(busy);
        assert_eq!(
            timeout(Duration::from_secs(60), other).await.expect("it is served").expect("no panic"),
            Verdict::Right
        );
        assert!(waiting(&auth) >= MAX_WAITING_OF_ONE - 3, "{}", waiting(&auth));
        let mut verdicts = Vec::new();
        for check in flood {
            verdicts.push(check.await.expect("no panic"));
        }
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Wrong).count(), MAX_WAITING_OF_ONE);
        assert_eq!(
            verdicts.iter().filter(|verdict| **verdict == Verdict::Busy).count(),
            100 - MAX_WAITING_OF_ONE
        );
        assert_eq!(waiting(&auth), 0);
    });
}

#[test]
fn neighbours_are_one() {
    let one = |text: &str| neighbourhood(text.parse().expect("an address"));
    assert_eq!(one("::ffff:192.0.2.1"), one("192.0.2.1"));
    assert_ne!(one("192.0.2.1"), one("192.0.2.2"));
    assert_eq!(one("2001:db8::1"), one("2001:db8::ffff:0:0:9"));
    assert_ne!(one("2001:db8::1"), one("2001:db8:0:1::1"));
}
