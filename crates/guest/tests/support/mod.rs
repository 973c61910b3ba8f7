//! What the tests with real tools share.
#![allow(dead_code)]

pub mod fixtures;
pub mod kernel;
pub mod lab;
pub mod metadata_server;
