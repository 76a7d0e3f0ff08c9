//! Processes: Dovecot's, and the exporter's own.

pub mod own;
pub mod scan;
