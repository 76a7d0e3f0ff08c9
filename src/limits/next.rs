//! Which limits must rise with another: Dovecot's own formula.

use std::collections::BTreeMap;

use crate::service::Service;

/// What of a service's settings counts for others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Load {
    /// The service.
    pub service: Service,
    /// Its `process_limit`; nothing if there is none, or if it is not known.
    pub processes: Option<u32>,
    /// Whether a process ends after its first connection.
    pub once: bool,
    /// Whether its `type` is `login`.
    pub login: bool,
    /// Whether it has a `protocol`.
    pub protocol: bool,
}

/// What the master demands of the `client_limit` of auth and anvil, and warns of if it is lower
/// (`master_settings_verify`, src/master/master-settings.c).
pub fn client_limits_required(loads: &[Load]) -> BTreeMap<Service, u32> {
    // Of anvil, the master itself takes two.
    let (mut auth, mut anvil) = (Some(0), Some(2_u32));
    for load in loads {
        let add = |sum: Option<u32>| sum.zip(load.processes).and_then(|(sum, more)| sum.checked_add(more));
        let name = load.service.as_str();
        if load.protocol && (!load.once || load.login) && name != "imap-hibernate" {
            auth = add(auth);
        }
        if load.login || name == "auth" {
            anvil = add(anvil);
        }
    }
    let required = [("auth", auth), ("anvil", anvil)];
    required.into_iter().filter_map(|(name, number)| Some((Service::parse(name)?, number?))).collect()
}
