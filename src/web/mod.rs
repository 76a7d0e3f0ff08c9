//! The doors over HTTP.

pub mod accept;
pub mod landing;
pub mod routes;
pub mod serve;
