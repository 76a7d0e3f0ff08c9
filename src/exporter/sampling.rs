//! What happens between scrapes: the peaks of the processes, and the time at their limits.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::{Exporter, lock, reading, wanted};
use crate::{
    limits::{self, Limit},
    processes::sampler::SAMPLE_TIME,
    service::{Program, Service},
};

/// For a sample that takes milliseconds, with patience for a host that swaps.
const STUCK_TIME: Duration = Duration::from_secs(10);

impl Exporter {
    /// Whether it is long since `/proc` was read, and with it the last scrape answered. Of the log nothing follows: a
    /// file system that hangs leaves the rest at work, and no restart heals it.
    pub fn is_stuck(&self) -> bool {
        lock(&self.sampled).elapsed() > STUCK_TIME
    }

    /// Samples Dovecot's processes for as long as it is polled.
    pub async fn keep_sampling(self: Arc<Self>) {
        let mut ticks = interval(SAMPLE_TIME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let exporter = self.clone();
            // Where /proc is read for a scrape, too: never both at a time.
            spawn_blocking(move || exporter.sample()).await.expect("a panic ends the process");
        }
    }

    fn sample(&self) {
        let procfs = &self.config.procfs;
        let mut programs = lock(&self.sampler).sample(procfs);
        if programs.is_none() {
            // There is no master, or it has ended; a scrape will say if /proc does not tell.
            let wanted = wanted(lock(&self.limits).in_force.as_ref());
            let census = lock(&self.scanner).scan(procfs, &wanted).ok();
            lock(&self.sampler).watch(census.as_ref().and_then(|census| Some(census.master.as_ref()?.pid)));
            programs = census.map(|census| census.programs);
        }
        if let Some(programs) = programs {
            self.note_sample(&programs);
        }
        *lock(&self.sampled) = Instant::now();
    }

    fn note_sample(&self, programs: &BTreeMap<Program, u64>) {
        let now = Instant::now();
        let known = lock(&self.limits);
        let limits = reading::limits(&known);
        let limits = (&*limits.0, limits.1);
        let status = lock(&self.status).clone();
        let mut tally = lock(&self.tally);
        let processes = reading::processes(programs, limits.0, &mut tally);
        let reached = |(service, count): (&Service, &u64)| {
            let flag = self.flags.get(service).copied();
            let told = reading::told(status.as_ref().and_then(|status| status.services.get(service)));
            let (settings, _) = limits::in_force(service, limits, tally.warned.get(service), told, flag);
            let reached = settings
                .process_limit
                .is_some_and(|limit| matches!(limit, Limit::Of(limit) if *count >= limit.into()));
            reached.then(|| service.clone())
        };
        let mut peaks = lock(&self.peaks);
        peaks.note_limits(now, processes.iter().filter_map(reached));
        peaks.note(now, processes);
    }
}
