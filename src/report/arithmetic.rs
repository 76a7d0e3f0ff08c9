//! How many clients a service must be able to take: from what was seen, what is to come, and the memory there is.

use std::fmt::Write;

use crate::cli;

/// Room is made for this many weeks of growth.
const WEEKS: f64 = 12.0;
/// A service is near its limit from here on.
const NEAR: f64 = cli::NEAR as f64 / 100.0;
/// The number is this many times what is expected at the peak.
const ROOM: f64 = 2.0;
/// The same where clients were turned away: how many would have come is not known.
const ROOM_IN_THE_DARK: f64 = 4.0;
/// So much of the available memory may be taken; the rest is for the page cache, and for what is not foreseen.
const MEMORY_SHARE: f64 = 0.75;
/// No number is higher: a `process_limit` is one of 32 bits, and Dovecot adds several.
pub const MOST: u32 = 100_000_000;

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Most clients at a time.
    pub peak: u32,
    /// How many could be served; none if there is no limit.
    pub limit: Option<u32>,
    /// Whether clients were turned away.
    pub turned_away: bool,
    /// Clients at the peak that each week adds, if that is known.
    pub growth: Option<f64>,
}

/// What further clients cost.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Clients that are served now, and paid for.
    pub in_use: u32,
    /// Bytes for processes that are kept ready.
    pub ready: f64,
    /// Bytes for each further client.
    pub each: f64,
    /// Bytes that are available.
    pub available: f64,
}

/// What to set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Number {
    /// So many clients, and how that was reckoned.
    Of(u32, String),
    /// Memory is enough for so many only, and this many are needed.
    NoMemory(u32, u32),
}

impl Demand {
    /// Whether more might have come than could be served. Where there is no limit now, none was met.
    pub fn is_cut_off(&self) -> bool {
        self.limit.is_some_and(|limit| self.turned_away || self.peak >= limit)
    }

    /// Clients at the peak that are known to come, with growth.
    fn expected(&self) -> f64 {
        let seen = if self.is_cut_off() { self.peak.max(self.limit.unwrap_or_default()) } else { self.peak };
        f64::from(seen.max(1)) + WEEKS * self.growth.unwrap_or_default().clamp(0.0, f64::from(MOST))
    }

    /// With this many the peak is not near the limit. Less is no remedy.
    pub fn least(&self) -> u32 {
        whole(self.expected() / NEAR)
    }

    /// Whether the present limit does.
    pub fn is_met(&self) -> bool {
        !self.is_cut_off() && self.limit.is_none_or(|limit| limit >= self.least())
    }

    /// What to set if memory is no matter, and how that is reckoned.
    pub fn wanted(&self) -> (u32, String) {
        let cut_off = self.is_cut_off();
        let factor = if cut_off { ROOM_IN_THE_DARK } else { ROOM };
        let exact = whole(factor * self.expected());
        let number = rounded_up(exact);
        let seen = if cut_off { self.peak.max(self.limit.unwrap_or_default()) } else { self.peak }.max(1);
        let at = if cut_off { "at the limit" } else { "at the peak" };
        let growth = self.growth.filter(|growth| *growth > 0.0);
        let mut text = match growth {
            Some(growth) => format!("{factor} x ({seen} {at} + {WEEKS} weeks x {growth:.1} of growth)"),
            None => format!("{factor} x {seen} {at}"),
        };
        if exact == number {
            write!(text, " = {number}")
        } else {
            write!(text, " = {exact}, rounded up to {number}")
        }
        .expect("a String takes everything");
        if cut_off {
            text.push_str("; 4 instead of 2 since nobody knows how many more would have come");
        }
        (number, text)
    }

    /// What to set, where there is memory for `room` clients.
    pub fn number(&self, room: Option<u32>) -> Number {
        let (wanted, text) = self.wanted();
        match room {
            Some(affordable) if affordable < self.least() => Number::NoMemory(affordable, self.least()),
            Some(affordable) if affordable < wanted => Number::Of(
                affordable,
                format!("{text}, of which {affordable} fit into three quarters of the available memory"),
            ),
            _ => Number::Of(wanted, text),
        }
    }
}

impl Memory {
    /// How many clients there is memory for.
    pub fn clients(self) -> u32 {
        let more = ((MEMORY_SHARE * self.available - self.ready) / self.each.max(1.0)).max(0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let clients = (f64::from(self.in_use) + more).clamp(0.0, f64::from(MOST)) as u32;
        clients
    }

    /// Bytes that so many clients take beside those who are served now.
    pub fn of(self, clients: u32) -> f64 {
        self.ready + f64::from(clients.saturating_sub(self.in_use)) * self.each
    }
}

/// The next whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn whole(number: f64) -> u32 {
    // A multiple that a fraction of a bit has put above itself is still that.
    (number - 1e-6).ceil().clamp(1.0, f64::from(MOST)) as u32
}

/// Up to two significant digits.
pub fn rounded_up(number: u32) -> u32 {
    let step = 10_u32.pow(number.max(1).ilog10().saturating_sub(1));
    number.div_ceil(step).saturating_mul(step)
}

/// Processes that clients share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// How many.
    pub processes: u32,
    /// Clients of each.
    pub clients: u32,
}

impl Shape {
    /// Clients that they take together.
    pub fn capacity(self) -> u64 {
        u64::from(self.processes) * u64::from(self.clients)
    }

    /// For `wanted` clients, `most` in a process, and `ready` processes beside those that they fill; for fewer, but no
    /// less than `least`, where there is memory for `room`.
    pub fn of(wanted: u32, least: u32, room: Option<u32>, most: u32, ready: u32) -> Self {
        let most = most.max(1);
        let wanted = wanted.min(room.unwrap_or(wanted)).max(1);
        let processes = wanted.div_ceil(most).saturating_add(ready);
        let Some(room) = room else { return Self { processes, clients: most } };
        let shapes =
            (1..=processes).rev().map(|processes| Self { processes, clients: most.min(room / processes) });
        let enough = |shape: &Self| shape.clients > 0 && shape.capacity() >= least.into();
        shapes.into_iter().find(enough).unwrap_or(Self { processes: 1, clients: room.max(1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn demand() -> impl Strategy<Value = Demand> {
        let limit = prop::option::of(1..200_000_u32);
        let growth = prop::option::of(-100.0..5000.0_f64);
        (0..200_000_u32, limit, any::<bool>(), growth).prop_map(|(peak, limit, turned_away, growth)| Demand {
            peak,
            limit,
            turned_away,
            growth,
        })
    }

    fn memory() -> impl Strategy<Value = Memory> {
        let numbers = (0..100_000_u32, 0.0..1e9_f64, 1.0..1e7_f64, 0.0..1e12_f64);
        numbers.prop_map(|(in_use, ready, each, available)| Memory { in_use, ready, each, available })
    }

    /// What was found stands above what was not.
    fn order(number: &Number) -> u32 {
        match number {
            Number::Of(number, _) => *number,
            Number::NoMemory(..) => u32::MAX,
        }
    }

    proptest! {
        #[test]
        fn a_higher_peak_asks_for_no_less(demand in demand(), more in 0..100_000_u32, memory in prop::option::of(memory())) {
            let higher = Demand { peak: demand.peak + more, ..demand };
            prop_assert!(demand.least() <= higher.least());
            let room = memory.map(Memory::clients);
            prop_assert!(order(&demand.number(room)) <= order(&higher.number(room)));
            prop_assert!(demand.is_met() || !higher.is_met());
        }

        #[test]
        fn it_holds_the_peak_and_fits_into_memory(demand in demand(), memory in memory()) {
            match demand.number(Some(memory.clients())) {
                Number::Of(number, text) => {
                    prop_assert!(f64::from(number) * 0.8 >= f64::from(demand.peak) - 1e-3);
                    let grown = f64::from(demand.peak) + 12.0 * demand.growth.unwrap_or_default();
                    prop_assert!(f64::from(number) * 0.8 >= grown - 1e-3);
                    // More than there is, where clients were turned away or none had room.
                    let limit = demand.limit.unwrap_or(u32::MAX);
                    prop_assert!(number > limit || !demand.turned_away && demand.peak < limit || limit == u32::MAX);
                    prop_assert!(number <= memory.in_use || memory.of(number) <= 0.75 * memory.available + 1.0);
                    prop_assert!(text.contains(&number.to_string()), "{} {}", number, text);
                }
                Number::NoMemory(affordable, least) => {
                    prop_assert!(affordable < least);
                    prop_assert!(memory.of(least) > 0.75 * memory.available);
                }
            }
        }

        #[test]
        fn rounding_adds_a_tenth_at_most(number in 1..MOST) {
            let rounded = rounded_up(number);
            prop_assert!(number <= rounded && f64::from(rounded) <= 1.1 * f64::from(number), "{}", rounded);
            prop_assert_eq!(rounded_up(rounded), rounded);
        }

        #[test]
        fn shared_processes_take_all(wanted in 1..MOST, most in 1..100_000_u32, ready in 1..512_u32) {
            let shape = Shape::of(wanted, wanted, None, most, ready);
            prop_assert!(shape.processes > ready);
            prop_assert!(u64::from(shape.processes - ready) * u64::from(most) >= u64::from(wanted));
        }

        #[test]
        fn shared_processes_let_nobody_in_without_memory(
            demand in demand(), room in 1..500_000_u32, most in 1..3000_u32, ready in 0..512_u32,
        ) {
            // Often just enough.
            let room = if room % 2 == 0 { room } else { demand.least().saturating_add(room % 7) };
            if let Number::Of(number, _) = demand.number(Some(room)) {
                let shape = Shape::of(number, demand.least(), Some(room), most, ready);
                prop_assert!(shape.capacity() <= room.into());
                prop_assert!(shape.capacity() >= demand.least().into());
                // All that is wanted, but for what does not go into whole processes.
                prop_assert!(shape.capacity() + u64::from(number.div_ceil(most) + ready) > number.into());
            }
        }
    }

    #[test]
    fn no_number_is_too_high_to_round() {
        assert_eq!((rounded_up(4_200_000_000), rounded_up(u32::MAX)), (4_200_000_000, u32::MAX));
    }

    #[test]
    fn examples() {
        let demand = Demand { peak: 57, limit: Some(100), turned_away: false, growth: None };
        assert!(demand.is_met());
        assert_eq!(demand.wanted(), (120, "2 x 57 at the peak = 114, rounded up to 120".to_owned()));
        let near = Demand { peak: 81, ..demand };
        assert!(!near.is_met() && !near.is_cut_off());
        let growing = Demand { growth: Some(3.0), ..demand };
        assert!(!growing.is_met());
        assert_eq!(
            growing.wanted().1,
            "2 x (57 at the peak + 12 weeks x 3.0 of growth) = 186, rounded up to 190"
        );
        // What a limit was is nothing where there is none.
        assert!(Demand { limit: None, turned_away: true, ..demand }.is_met());
        let full = Demand { peak: 100, ..demand };
        assert_eq!(full.wanted().0, 400);
        assert!(full.wanted().1.starts_with("4 x 100 at the limit = 400; 4 instead of 2"));
        let scarce = Memory { in_use: 100, ready: 0.0, each: 2e6, available: 400e6 };
        let room = |memory: Memory| Some(memory.clients());
        assert!(matches!(full.number(room(scarce)), Number::Of(250, text) if text.contains("250 fit")));
        let scarcer = Memory { available: 20e6, ..scarce };
        assert_eq!(full.number(room(scarcer)), Number::NoMemory(107, 125));
        assert_eq!(Memory { ready: 100e6, ..scarce }.clients(), 200);
        let shape = |room, most| {
            let shape = Shape::of(12, 8, room, most, 2);
            (shape.processes, shape.clients)
        };
        assert_eq!((shape(None, 1000), shape(Some(716), 1000)), ((3, 1000), (3, 238)));
        assert_eq!((shape(Some(10), 1000), shape(Some(5000), 5)), ((3, 3), (5, 5)));
        // Whole processes of all that there is room for would be too few.
        assert_eq!(Shape::of(2000, 1999, Some(1999), 1000, 3), Shape { processes: 1, clients: 1999 });
        // Clients who are turned away ask for more, however few they seem.
        assert!(!Demand { turned_away: true, ..demand }.is_met());
    }
}
