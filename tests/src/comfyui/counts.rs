//! How often a fault has struck, over processes: a file of numbers beside `standin.json`.

use std::collections::BTreeMap;
use std::path::Path;

/// Whether `what` may happen once more of `times` times, which is noted down before it does. Without a file every
/// question is the first.
pub fn take_one(file: Option<&Path>, what: &str, times: u32) -> bool {
    let Some(file) = file else { return times > 0 };
    let mut counts: BTreeMap<String, u32> =
        std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let count = counts.entry(what.to_string()).or_default();
    if *count >= times {
        return false;
    }
    *count += 1;
    let written = serde_json::to_vec(&counts).unwrap_or_default();
    if let Err(error) = std::fs::write(file, written) {
        eprintln!("writing {}: {error}", file.display());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::take_one;

    #[test]
    fn a_fault_strikes_as_often_as_it_was_ordered_and_the_file_remembers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("standin.counts.json");
        let struck = (0..5).filter(|_| take_one(Some(&file), "die", 2)).count();
        assert_eq!(struck, 2);
        assert!(take_one(Some(&file), "exit", 1), "each fault has its own count");
    }
}
