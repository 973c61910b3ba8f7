//! What the fuzzer found interesting once, again.

use std::path::Path;

use multihome_fuzz::TARGETS;

#[test]
fn what_fuzzing_found_holds() {
    for target in TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        let files: Vec<_> = std::fs::read_dir(&dir).expect("a corpus").flatten().collect();
        assert!(files.len() > 20, "{} has a corpus of {} files", target.name, files.len());
        for file in &files {
            let bytes = std::fs::read(file.path()).expect("a file");
            let outcome = std::panic::catch_unwind(|| (target.run)(&bytes));
            assert!(outcome.is_ok(), "{} does not hold for {}", target.name, file.path().display());
        }
        println!("{}: {} inputs", target.name, files.len());
    }
}
