//! What bites next, once `process_limit` is high enough: the queues in the kernel, the tables of auth and anvil, memory,
//! and the tasks of the control group.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
};

use super::reading::{self, KnownLimits, ServiceReading, whole};
use crate::{
    limits::Listener,
    listeners::Listeners,
    metrics::{self, Page},
    processes::{
        cgroup::{self, Tasks},
        process,
        scan::Census,
    },
    service::Service,
    tally::Tally,
};

/// The use of other things than processes, beside what there is of them.
#[derive(Clone, Debug, Default)]
pub struct Next {
    /// Clients that wait, and how many may, if that is known of each socket.
    queues: BTreeMap<(Service, u16), (u64, Option<u64>)>,
    /// Clients that may wait at that of a service's sockets where fewest may, if that is known.
    pub shortest_queues: BTreeMap<Service, u32>,
    client_limits_required: BTreeMap<Service, u32>,
    resident: BTreeMap<Service, u64>,
    tasks: Option<Tasks>,
    open_files: Option<f64>,
}

impl Next {
    /// Reads what `/proc` tells of the master's surroundings, for the services that are shown.
    pub fn read(
        procfs: &Path,
        census: &Result<Census, String>,
        known: &KnownLimits,
        services: &[ServiceReading],
        tally: &mut Tally,
        listeners: &mut Listeners,
    ) -> Self {
        let (limits, _) = reading::limits(known);
        let shown = |name: &Service| services.iter().any(|reading| reading.service == *name);
        let required = limits.client_limits_required.iter().filter(|(name, _)| shown(name));
        let client_limits_required = required.map(|(name, number)| (name.clone(), *number)).collect();
        let mut next = Self { client_limits_required, ..Self::default() };
        let Ok(census) = census else { return next };
        let mut resident = reading::processes(&census.resident, &limits, tally);
        for reading in services.iter().filter(|reading| reading.processes == Some(0)) {
            resident.insert(reading.service.clone(), 0);
        }
        next.resident = resident;
        let Some(master) = &census.master else { return next };
        next.tasks = cgroup::tasks(procfs, master.pid);
        next.open_files = process::open_files_limit(procfs, master.pid);
        let sockets = listeners.queues(procfs, master.pid);
        for listener in limits.listeners.iter().filter(|listener| shown(&listener.service)) {
            for queue in sockets.iter().filter(|queue| listens(listener, queue.address)) {
                let port = (listener.service.clone(), listener.port);
                let (clients, limit) = next.queues.entry(port).or_insert((0, Some(0)));
                *clients += u64::from(queue.clients);
                *limit = limit.zip(queue.limit).map(|(sum, limit)| sum + u64::from(limit));
                if let Some(limit) = queue.limit {
                    let shortest = next.shortest_queues.entry(listener.service.clone()).or_insert(limit);
                    *shortest = limit.min(*shortest);
                }
            }
        }
        next
    }

    /// Adds its samples.
    pub fn add_to(&self, page: &mut Page, quiet: &BTreeSet<&Service>) {
        for ((service, port), (clients, limit)) in &self.queues {
            let labels = [service.as_str(), &port.to_string()];
            page.add(&metrics::LISTENER_QUEUE_CONNECTIONS, &labels, whole(*clients));
            page.add_known(&metrics::LISTENER_QUEUE_LIMIT, &labels, limit.map(whole));
        }
        for (service, number) in &self.client_limits_required {
            page.add(&metrics::SERVICE_CLIENT_LIMIT_REQUIRED, &[service.as_str()], (*number).into());
        }
        for (service, bytes) in self.resident.iter().filter(|(service, _)| !quiet.contains(service)) {
            page.add(&metrics::SERVICE_RESIDENT_MEMORY, &[service.as_str()], whole(*bytes));
        }
        page.add_known(&metrics::MASTER_OPEN_FILES_LIMIT, &[], self.open_files);
        page.add_known(&metrics::CGROUP_TASKS, &[], self.tasks.map(|tasks| whole(tasks.count)));
        page.add_known(&metrics::CGROUP_TASKS_LIMIT, &[], self.tasks.map(|tasks| tasks.limit));
    }
}

fn listens(listener: &Listener, address: SocketAddr) -> bool {
    let addresses = &listener.addresses;
    address.port() == listener.port && (addresses.is_empty() || addresses.contains(&address.ip()))
}
