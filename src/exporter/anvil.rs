//! `anvil`, which goes on over a reload as it was.

use super::reading::ServiceReading;
use crate::{limits::Limit, processes::scan::Census};

/// Ticks, of which Linux shows a hundred a second.
const SAME_START: u64 = 20;

/// An `anvil` process, and the `client_limit` in force when it started.
pub type Anvil = ((u64, i32), Option<Limit>);

/// Gives `anvil` the `client_limit` that its process started with: a reload, which it outlives, changes it for the
/// master and for `doveconf`, and not for the process (measured on 2.3 and 2.4). `known` is what earlier readings
/// have told of it; of a process that was there before them and has outlived a reload it is unknown.
pub fn keep(services: &mut [ServiceReading], census: &Result<Census, String>, known: &mut Option<Anvil>) {
    let Some(service) = services.iter_mut().find(|service| service.service.as_str() == "anvil") else {
        return;
    };
    let new = service.settings.client_limit;
    let Ok(census) = census else {
        // Which process it is cannot be seen; of limits, what is on disk is the best guess then, as for all services.
        service.connections = None;
        return;
    };
    let Some(anvil) = census.anvil else { return };
    // A master starts both at once, 2.3 anvil first. What was known of a process first is what it started with: in a
    // reload the new limit may be known a moment before the new `log` process is.
    let is_new = !known.is_some_and(|(process, limit)| process == anvil && limit.is_some());
    if is_new && census.generation.is_some_and(|log| anvil.0 + SAME_START >= log.0) {
        *known = Some((anvil, new));
    }
    let started = known.filter(|(process, _)| *process == anvil).and_then(|(_, limit)| limit);
    service.settings.client_limit = started;
    // The master takes what the process offers from the new limit, and no further than to 0.
    service.connections = match (service.connections, new, started) {
        (Some(connections), Some(Limit::Of(new)), Some(Limit::Of(started)))
            if new >= started || connections > 0 =>
        {
            (connections + u64::from(started)).checked_sub(new.into())
        }
        _ => None,
    };
}
