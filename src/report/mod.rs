//! What a person at a terminal, or a monitoring plugin, is told: the samples of a page, in words.

pub mod advice;
pub mod advise;
pub mod arithmetic;
pub mod blocks;
pub mod check;
pub mod evidence;
pub mod facts;
pub mod footprint;
pub mod history;
pub mod holders;
pub mod json;
pub mod run;
pub mod shell;
pub mod source;
pub mod status;
pub mod troubles;
pub mod words;
