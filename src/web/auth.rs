//! Who may ask. bcrypt is slow on purpose: it runs on a thread of its own, once at a time, and whoever floods us with
//! passwords waits for himself.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
};

use ::ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bcrypt::HashParts;
use tokio::sync::Semaphore;

use super::guard::aside;

/// Passwords of one client address that wait for their check. One check of cost 10 takes 50 ms.
const MAX_WAITING_OF_ONE: usize = 8;
/// Passwords that wait for their check.
const MAX_WAITING: usize = 64;
/// Verdicts that are kept, of right passwords and of wrong ones.
const MAX_VERDICTS: usize = 1000;

/// What comes of a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is the user's.
    Right,
    /// It is not, or there is no such user, or no password at all.
    Wrong,
    /// Nobody looked: too many wait.
    Busy,
}

/// Checks passwords, and remembers.
#[derive(Debug)]
pub struct Auth {
    /// Only this process has it: what is remembered tells no password, nor lets one be tried.
    key: hmac::Key,
    verdicts: Mutex<Verdicts>,
    queues: Mutex<HashMap<IpAddr, Queue>>,
    turn: Arc<Semaphore>,
}

/// By the digest of a user, a hash and a password. Right and wrong apart: a flood of wrong ones drives out no right one.
#[derive(Debug, Default)]
struct Verdicts {
    right: HashSet<[u8; 32]>,
    wrong: HashSet<[u8; 32]>,
}

/// The passwords of one address that wait. Their first alone stands in line with those of others.
#[derive(Debug)]
struct Queue {
    turn: Arc<Semaphore>,
    waiting: usize,
}

impl Auth {
    /// One that remembers nothing.
    pub fn new() -> Result<Self, String> {
        let mut secret = [0; 32];
        let filled = SystemRandom::new().fill(&mut secret);
        filled.map_err(|_| "the system gives no random numbers: it must have getrandom".to_owned())?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            verdicts: Mutex::default(),
            queues: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// Whether the value of `Authorization` is of one of `users`.
    pub async fn check(
        &self,
        users: &HashMap<String, String>,
        given: Option<&[u8]>,
        from: IpAddr,
    ) -> Verdict {
        let Some((user, password)) = given.and_then(credentials) else { return Verdict::Wrong };
        let known = std::str::from_utf8(&user).ok().and_then(|user| users.get(user));
        // As much work for a user whom nobody knows, or the time would tell who is known.
        let hash = known.cloned().unwrap_or_else(|| nobodys(users));
        let digest = self.digest(&user, &hash, &password);
        if let Some(verdict) = self.remembered(&digest) {
            return verdict;
        }
        let Some(place) = Place::take(&self.queues, from) else { return Verdict::Busy };
        let first = place.turn.clone().acquire_owned().await.expect("nobody closes it");
        let turn = self.turn.clone().acquire_owned().await.expect("nobody closes it");
        // Somebody may have asked the same.
        if let Some(verdict) = self.remembered(&digest) {
            return verdict;
        }
        let checked = aside("bcrypt", move || {
            let right = bcrypt::verify(&password, &hash).unwrap_or(false);
            // Kept until here even if the client has gone: there is never a second one beside it.
            drop((first, turn));
            right
        });
        let Some(right) = checked.await else { return Verdict::Busy };
        let verdict = if right && known.is_some() { Verdict::Right } else { Verdict::Wrong };
        self.remember(digest, verdict);
        verdict
    }

    fn digest(&self, user: &[u8], hash: &str, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user, hash.as_bytes(), password] {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Verdict> {
        let verdicts = self.verdicts.lock().expect("a panic ends the process");
        let right = verdicts.right.contains(digest).then_some(Verdict::Right);
        right.or_else(|| verdicts.wrong.contains(digest).then_some(Verdict::Wrong))
    }

    fn remember(&self, digest: [u8; 32], verdict: Verdict) {
        let mut verdicts = self.verdicts.lock().expect("a panic ends the process");
        let kept = if verdict == Verdict::Right { &mut verdicts.right } else { &mut verdicts.wrong };
        if kept.len() >= MAX_VERDICTS {
            kept.clear();
        }
        kept.insert(digest);
    }
}

/// A place among the passwords that wait; given back when it is dropped.
struct Place<'a> {
    queues: &'a Mutex<HashMap<IpAddr, Queue>>,
    of: IpAddr,
    turn: Arc<Semaphore>,
}

impl<'a> Place<'a> {
    /// Nothing if too many wait.
    fn take(queues: &'a Mutex<HashMap<IpAddr, Queue>>, from: IpAddr) -> Option<Self> {
        let of = neighbourhood(from);
        let mut waiting = queues.lock().expect("a panic ends the process");
        if waiting.values().map(|queue| queue.waiting).sum::<usize>() >= MAX_WAITING {
            return None;
        }
        let queue =
            waiting.entry(of).or_insert_with(|| Queue { turn: Arc::new(Semaphore::new(1)), waiting: 0 });
        if queue.waiting >= MAX_WAITING_OF_ONE {
            return None;
        }
        queue.waiting += 1;
        Some(Self { queues, of, turn: queue.turn.clone() })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queues.lock().expect("a panic ends the process");
        if let Some(queue) = waiting.get_mut(&self.of) {
            queue.waiting -= 1;
            if queue.waiting == 0 {
                waiting.remove(&self.of);
            }
        }
    }
}

/// The addresses that one client may have at will, as one: of IPv6 a network of 64 bits.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// The user and the password in `Basic` credentials.
fn credentials(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, encoded) = value.split_at_checked("Basic ".len())?;
    let decoded = scheme.eq_ignore_ascii_case(b"Basic ").then(|| BASE64_STANDARD.decode(encoded).ok())??;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some((decoded[..colon].to_vec(), decoded[colon + 1..].to_vec()))
}

/// A hash of which nobody has the password, as costly as the costliest of `users`.
fn nobodys(users: &HashMap<String, String>) -> String {
    let costs = users.values().filter_map(|hash| hash.parse::<HashParts>().ok()).map(|hash| hash.get_cost());
    format!("$2b${:02}${}", costs.max().unwrap_or(10), ".".repeat(53))
}

#[cfg(test)]
mod tests;
