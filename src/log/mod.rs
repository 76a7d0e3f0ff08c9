//! The log: bytes to lines to events, from files, standard input, the journal and the master, on one thread.

pub mod bell;
pub mod copies;
pub mod export;
pub mod files;
pub mod follow;
pub mod grammar;
pub mod header;
pub mod hint;
pub mod journal;
pub mod lines;
pub mod needles;
pub mod place;
pub mod reader;
pub mod ring;
pub mod siblings;
pub mod stamp;
pub mod state;
pub mod stream;
pub mod tail;
