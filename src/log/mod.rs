//! The log: bytes to lines to events.

pub mod follow;
pub mod grammar;
pub mod hint;
pub mod lines;
pub mod place;
