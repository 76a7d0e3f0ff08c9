//! Processes: Dovecot's, and the exporter's own.

pub mod cgroup;
pub mod memory;
pub mod own;
pub mod process;
pub mod sampler;
pub mod scan;
pub mod titles;
mod walk;

#[cfg(test)]
#[path = "../../tests/support/proc.rs"]
mod made_up;
