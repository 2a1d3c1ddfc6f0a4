//! Which children exist already, and which of them count.
//!
//! A travel may run again: after a crash, or because somebody tried it once more. Then its children exist, some or all.
//! Per segment the oldest child that has not failed counts; younger ones are duplicates.

use std::collections::BTreeMap;

use enginehouse_sdk::host::tasks::TaskInfo;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::kinds;

/// The task type of segments.
pub const SEGMENT: &str = "travel_segment";
/// The task type that joins them.
pub const STITCH: &str = "travel_stitch";

/// The children that exist.
#[derive(Debug, Default)]
pub struct Standing<'a> {
    /// By number: the one that counts.
    pub segments: BTreeMap<usize, &'a TaskInfo>,
    pub stitch: Option<&'a TaskInfo>,
    pub duplicate_segments: Vec<&'a TaskInfo>,
    pub duplicate_stitches: Vec<&'a TaskInfo>,
    /// One of each that has failed with nothing in its place.
    failed: Vec<&'a TaskInfo>,
}

impl<'a> Standing<'a> {
    /// Sorts the children of a travel of so many segments, oldest first. Segments without a number of this travel do not
    /// count at all, and neither does a failed stitch that the travel does not need.
    pub fn of(children: &'a [TaskInfo], segments: usize, is_stitched: bool) -> Self {
        let mut standing = Self::default();
        let mut numbered: BTreeMap<usize, Vec<&TaskInfo>> = BTreeMap::new();
        for child in children.iter().filter(|child| child.task_type == SEGMENT) {
            let number = child.params.get("segment_index").and_then(Value::as_u64);
            let number = number.and_then(|number| usize::try_from(number).ok());
            if let Some(number) = number.filter(|number| *number < segments) {
                numbered.entry(number).or_default().push(child);
            }
        }
        for (number, copies) in numbered {
            let (counting, duplicates) = choose(&copies);
            match counting {
                Some(child) => drop(standing.segments.insert(number, child)),
                None => standing.failed.extend(copies.first()),
            }
            standing.duplicate_segments.extend(duplicates);
        }
        let stitches: Vec<&TaskInfo> = children.iter().filter(|child| child.task_type == STITCH).collect();
        let (counting, duplicates) = choose(&stitches);
        standing.stitch = counting;
        standing.duplicate_stitches = duplicates;
        if counting.is_none() && is_stitched {
            standing.failed.extend(stitches.first());
        }
        standing
    }

    /// Failure `children_failed` if a child that counts has failed or was cancelled.
    pub fn check(&self) -> Result<(), Failure> {
        let Some(first) = self.failed.first() else { return Ok(()) };
        let stitches = self.failed.iter().filter(|child| child.task_type == STITCH).count();
        let segments = self.failed.len() - stitches;
        let reason = first.error.as_ref().map_or("", |error| error.message.as_str());
        let reason = if reason.is_empty() { &first.status } else { reason };
        let name = first.key.as_ref().unwrap_or(&first.id);
        Err(Failure::dependency(
            kinds::CHILDREN_FAILED,
            format!(
                "{} and {} of the travel failed, first {name}: {reason}. Nothing new was created: repair the cause and \
                 retry the travel",
                count(segments, "segment", "segments"),
                count(stitches, "stitch", "stitches"),
            ),
        ))
    }

    /// Duplicates that may still be removed: they have not ended.
    pub fn removable(&self) -> impl Iterator<Item = &'a TaskInfo> {
        let duplicates = self.duplicate_segments.iter().chain(&self.duplicate_stitches);
        duplicates.copied().filter(|child| !child.is_complete() && !child.has_failed())
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        0 => format!("no {one}"),
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}

/// The oldest that has not failed, and the others.
fn choose<'a>(copies: &[&'a TaskInfo]) -> (Option<&'a TaskInfo>, Vec<&'a TaskInfo>) {
    let counting = copies.iter().position(|child| !child.has_failed());
    let others = copies.iter().enumerate().filter(|(position, _)| Some(*position) != counting);
    let duplicates = if counting.is_some() { others.map(|(_, child)| *child).collect() } else { Vec::new() };
    (counting.and_then(|position| copies.get(position)).copied(), duplicates)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn child(id: &str, task_type: &str, status: &str, index: Option<usize>) -> TaskInfo {
        let mut params = Map::new();
        if let Some(index) = index {
            params.insert("segment_index".into(), json!(index));
        }
        TaskInfo { id: id.into(), task_type: task_type.into(), status: status.into(), params, ..TaskInfo::default() }
    }

    #[test]
    fn per_segment_the_oldest_that_has_not_failed_counts() {
        let children = [
            child("a", SEGMENT, "Failed", Some(0)),
            child("b", SEGMENT, "Complete", Some(0)),
            child("c", SEGMENT, "Queued", Some(0)),
            child("d", SEGMENT, "Queued", None),
            child("e", SEGMENT, "Queued", Some(7)),
        ];
        let standing = Standing::of(&children, 2, true);
        assert_eq!(standing.segments.len(), 1);
        assert_eq!(standing.segments[&0].id, "b");
        assert_eq!(standing.removable().map(|child| child.id.as_str()).collect::<Vec<_>>(), ["c"]);
        assert!(standing.check().is_ok());
    }

    #[test]
    fn a_failed_child_without_replacement_fails_the_travel() {
        let children = [child("a", SEGMENT, "cancelled", Some(1)), child("s", STITCH, "ERROR", None)];
        let failure = Standing::of(&children, 2, true).check().unwrap_err();
        assert_eq!(failure.code, "children_failed");
        assert!(failure.message.starts_with("1 segment and 1 stitch "), "{}", failure.message);
        let unneeded = [child("s", STITCH, "Failed", None)];
        assert!(Standing::of(&unneeded, 2, false).check().is_ok());
    }

    proptest! {
        #[test]
        fn every_numbered_child_counts_is_a_duplicate_or_has_failed(
            rows in prop::collection::vec((0..4_usize, prop::sample::select(vec!["Queued", "Complete", "Failed"])), 0..12),
        ) {
            let children: Vec<TaskInfo> = rows.iter().enumerate()
                .map(|(id, (index, status))| child(&id.to_string(), SEGMENT, status, Some(*index))).collect();
            let standing = Standing::of(&children, 4, true);
            let numbers: std::collections::BTreeSet<usize> = rows.iter().map(|(index, _)| *index).collect();
            prop_assert_eq!(standing.segments.len() + standing.failed.len(), numbers.len());
            for (number, counting) in &standing.segments {
                prop_assert!(!counting.has_failed());
                let first = rows.iter().position(|(index, status)| index == number && *status != "Failed");
                prop_assert_eq!(Some(counting.id.clone()), first.map(|id| id.to_string()));
            }
        }
    }
}
