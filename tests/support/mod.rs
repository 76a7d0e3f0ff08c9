//! What several tests need.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod exporter;
pub mod master;
pub mod proc;
