//! The fuzzer of one target, named by MULTIHOME_FUZZ; its arguments are libFuzzer's own.
#![no_main]

use std::sync::LazyLock;

use multihome_fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("MULTIHOME_FUZZ").unwrap_or_default();
    let names = || TARGETS.map(|t| t.name).join(", ");
    TARGETS.into_iter().find(|t| t.name == name).unwrap_or_else(|| {
        eprintln!("error: MULTIHOME_FUZZ is {name:?}: use {}", names());
        std::process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
