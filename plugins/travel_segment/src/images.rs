//! Between which pictures a segment moves. Pure: says where they are, fetches nothing.

use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::kinds;

/// Where pictures may be named, from the most particular to the whole run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Named {
    /// `individual_segment_params`: `start_image_url`, `end_image_url`.
    pub start_url: Option<String>,
    pub end_url: Option<String>,
    /// `individual_segment_params.input_image_paths_resolved`.
    pub own: Vec<String>,
    /// `input_image_paths_resolved` of the task itself; counts for standalone segments alone.
    pub task: Vec<String>,
    /// `orchestrator_details.input_image_paths_resolved`: every picture of the travel.
    pub run: Vec<String>,
}

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picture {
    /// At an address: URL, path, `task:ID`.
    At(String),
    /// The last frame of the video that the segment continues from.
    LastFrame,
}

/// The two pictures of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    pub start: Option<Picture>,
    pub end: Option<Picture>,
    /// The segment was asked for without an end picture: its end is free.
    pub open_end: bool,
}

/// What decides between the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub index: usize,
    pub standalone: bool,
    /// The segment is generated from the end of a video (SVI).
    pub from_video: bool,
    /// The segment is of the SVI kind.
    pub svi: bool,
    /// The travel continues a video that exists already.
    pub continuing: bool,
    /// One picture, one segment: the travel only leaves that picture.
    pub single_image: bool,
}

/// Chooses the pictures: the first place that names them.
pub fn ends(named: &Named, place: Place) -> Ends {
    let at = |list: &[String], index: usize| list.get(index).cloned().map(Picture::At);
    let pair = |start: Option<Picture>, end: Option<Picture>| Ends { start, end, open_end: place.single_image };
    let Place { index, .. } = place;
    let run = named.run.as_slice();

    if place.from_video {
        return pair(Some(Picture::LastFrame), at(run, index + 1).or_else(|| run.last().cloned().map(Picture::At)));
    }
    if place.svi && index == 0 {
        return pair(at(run, 0), at(run, 1));
    }
    if named.start_url.is_some() || named.end_url.is_some() {
        let end = named.end_url.clone().map(Picture::At);
        return Ends { start: named.start_url.clone().map(Picture::At), open_end: end.is_none(), end };
    }
    if named.own.len() >= 2 {
        return pair(at(&named.own, 0), at(&named.own, 1));
    }
    if place.standalone && named.task.len() >= 2 {
        return pair(at(&named.task, 0), at(&named.task, 1));
    }
    if place.continuing && index == 0 {
        return pair(Some(Picture::LastFrame), at(run, 0));
    }
    if place.continuing && run.len() > index {
        return pair(at(run, index - 1), at(run, index));
    }
    pair(at(run, index), at(run, index + 1))
}

/// What it means for people, and for programs, that a picture or video of the task cannot be had.
///
/// Behind a URL: `input_download_failed`. A file that is not there or not readable: `guide_creation_failed` where a guide
/// is to be made of it, else the host's own code. Trouble of the host itself is passed on as it is.
pub fn unavailable(failure: Failure, what: &str, address: &str, for_guide: bool) -> Failure {
    use FailureClass::{Cancelled, Denied, Internal, Unavailable};
    if matches!(failure.class, Cancelled | Internal | Unavailable) {
        return failure;
    }
    let url = is_url(address);
    let code = if url {
        kinds::INPUT_DOWNLOAD_FAILED
    } else if for_guide && failure.class != Denied {
        kinds::GUIDE_CREATION_FAILED
    } else {
        return failure.while_doing(format!("cannot use {what} of the segment"));
    };
    let shown = if url { without_query(address) } else { address };
    failure.with_code(code).while_doing(format!("cannot use {what} of the segment, `{shown}`"))
}

fn is_url(address: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| address.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme)))
}

/// Queries hold signatures and tokens: they are nobody's business.
fn without_query(address: &str) -> &str {
    address.split(['?', '#']).next().unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> Named {
        Named { run: (0..4).map(|index| format!("i{index}")).collect(), ..Named::default() }
    }

    fn place(index: usize) -> Place {
        Place { index, standalone: false, from_video: false, svi: false, continuing: false, single_image: false }
    }

    fn at(name: &str) -> Option<Picture> {
        Some(Picture::At(name.into()))
    }

    fn both(named: &Named, place: Place) -> (Option<Picture>, Option<Picture>) {
        let ends = ends(named, place);
        (ends.start, ends.end)
    }

    #[test]
    fn a_segment_moves_from_its_picture_to_the_next() {
        assert_eq!(both(&named(), place(1)), (at("i1"), at("i2")));
        assert_eq!(both(&named(), place(3)), (at("i3"), None));
    }

    #[test]
    fn pictures_of_the_segment_itself_go_first() {
        let own = Named { own: vec!["a".into(), "b".into()], task: vec!["c".into(), "d".into()], ..named() };
        assert_eq!(both(&own, place(1)), (at("a"), at("b")));
        let urls = Named { start_url: Some("u".into()), ..own };
        assert_eq!(ends(&urls, place(1)), Ends { start: at("u"), end: None, open_end: true });
    }

    #[test]
    fn pictures_of_the_task_count_for_standalone_segments_alone() {
        let task = Named { task: vec!["c".into(), "d".into()], ..named() };
        assert_eq!(both(&task, Place { standalone: true, ..place(1) }), (at("c"), at("d")));
        assert_eq!(both(&task, place(1)), (at("i1"), at("i2")));
    }

    #[test]
    fn a_continued_travel_starts_at_the_last_frame_of_the_video() {
        let continuing = |index| Place { continuing: true, ..place(index) };
        assert_eq!(both(&named(), continuing(0)), (Some(Picture::LastFrame), at("i0")));
        assert_eq!(both(&named(), continuing(2)), (at("i1"), at("i2")));
    }

    #[test]
    fn an_svi_segment_starts_at_the_last_frame_of_its_predecessor() {
        let svi = |index| Place { svi: true, from_video: true, ..place(index) };
        assert_eq!(both(&named(), svi(1)), (Some(Picture::LastFrame), at("i2")));
        assert_eq!(both(&named(), svi(7)), (Some(Picture::LastFrame), at("i3")));
        let one = Named { run: vec!["i0".into()], ..Named::default() };
        assert_eq!(both(&one, svi(0)), (Some(Picture::LastFrame), at("i0")));
        assert_eq!(both(&named(), Place { svi: true, ..place(0) }), (at("i0"), at("i1")));
    }

    #[test]
    fn a_failed_download_is_told_without_the_query() {
        let failure = Failure::dependency("download_failed", "404 Not Found").retryable();
        let told = unavailable(failure, "the start image", "https://cdn.example/a.png?token=secret", true);
        assert_eq!((told.code.as_str(), told.retry), ("input_download_failed", true));
        assert!(told.message.contains("https://cdn.example/a.png`"), "{}", told.message);
        assert!(!told.message.contains("secret"));
    }

    #[test]
    fn a_missing_file_is_the_guides_trouble_only_where_a_guide_is_made() {
        let missing = || Failure::invalid("input_not_found", "no such file");
        assert_eq!(unavailable(missing(), "the start image", "/in/a.png", true).code, "guide_creation_failed");
        assert_eq!(unavailable(missing(), "the start image", "/in/a.png", false).code, "input_not_found");
        let cancelled = Failure::new(FailureClass::Cancelled, "cancelled", "stopped");
        assert_eq!(unavailable(cancelled.clone(), "the start image", "/in/a.png", true), cancelled);
    }
}
