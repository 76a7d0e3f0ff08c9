//! Second opinions on what the program reads, written from the documents and not from its code; slow and obvious.

pub mod log;
pub mod meaning;
pub mod mutation;
pub mod random;
pub mod reached;
pub mod state;
pub mod words;
