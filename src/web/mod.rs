//! The doors over HTTP.

pub mod accept;
pub mod auth;
pub mod clients;
pub mod config;
pub mod guard;
pub mod landing;
pub mod routes;
pub mod serve;
pub mod tls;
