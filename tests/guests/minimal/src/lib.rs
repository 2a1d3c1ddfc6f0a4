//! The smallest guest, made to be altered: its manifest stands in a block of fixed size, so that a test writes another
//! manifest, or another contract version, into the bytes of the one built component and has another plugin.

use std::hint::black_box;

use enginehouse_sdk::bindings::enginehouse::plugin::types::{Failure, Outcome, Task};
use enginehouse_sdk::bindings::exports::enginehouse::plugin::guest::Guest;

/// Bytes of the block; `tests/src/guests.rs` knows the number.
const ROOM: usize = 4096;

/// What the manifest is when nobody altered it. It ends where the spaces begin.
const TEXT: &[u8] = br#"{"name":"minimal","version":"1.0.0","task_types":{"minimal":{}}}"#;

static MANIFEST: [u8; ROOM] = {
    let mut block = [b' '; ROOM];
    let (text, _) = block.split_at_mut(TEXT.len());
    text.copy_from_slice(TEXT);
    block
};

struct Minimal;

impl Guest for Minimal {
    fn describe() -> String {
        // Not a constant to the compiler: the bytes are read when it runs.
        String::from_utf8_lossy(black_box(&MANIFEST)).trim_end().to_string()
    }

    fn handle(task: Task) -> Result<Outcome, Failure> {
        Ok(Outcome::Text(task.params))
    }
}

enginehouse_sdk::bindings::export!(Minimal);
