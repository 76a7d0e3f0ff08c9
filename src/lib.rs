//! Shows Dovecot's processes beside `process_limit`, and counts the warnings that tell of clients turned away.
//!
//! ```text
//! /proc ────────▶ processes ─Census─┐ measured at the scrape; peaks once a second
//! /proc/net/tcp ▶ listeners ─queues─┤
//! doveconf, files▶ limits ──Limits──┤ read at start, at a change, at a reload of Dovecot
//! its socket ───▶ master ────Status─┤ asked at the scrape
//!                                   ▼
//! log ─▶ log ─Event─▶ tally ─▶ Exporter ─Reading─▶ web ─▶ Prometheus, and people
//!        counted as it happens               └Page▶ report ─▶ a terminal, and monitoring plugins
//! ```
//!
//! Data flows one way. What is *measured* is read when `/metrics` is asked for; what is *counted* rises as it
//! happens. No source imports another; each returns plain values; one [`exporter::Exporter`] owns all state.
//! Unknown is absent, never 0. No byte of a log line or of a process title becomes a label, except the name of a
//! service in the master's own lines.
//!
//! The modules from words to doors:

pub mod service;

pub mod cli;

pub mod master;

pub mod processes;

pub mod listeners;

pub mod limits;

pub mod log;

pub mod metrics;

pub mod tally;

pub mod checkpoint;

pub mod exporter;

pub mod health;

pub mod report;

pub mod web;

pub mod systemd;
