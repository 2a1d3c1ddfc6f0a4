//! A prompt per segment.
//!
//! A prompt that was improved already goes first. On request, a model that looks at the pictures improves those that are
//! left. It may be absent or fail: the prompts as the user wrote them do then, and the travel says so.

use std::collections::BTreeMap;

use enginehouse_sdk::host::assist::{CaptionMode, CaptionRequest};
use enginehouse_sdk::host::reference;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::prompts::{first_of, wrapped};

use crate::plan::Helpers;
use crate::request::{Prompts, Travel};

/// Has the missing prompts improved where that is wanted, and writes the list to the details. The failure says why some are
/// as the user wrote them.
pub fn enhance(travel: &mut Travel, helpers: &mut dyn Helpers) -> Result<(), Failure> {
    let mut enhanced = std::mem::take(&mut travel.prompts.enhanced);
    enhanced.resize(travel.segments, String::new());
    let result = if travel.prompts.enhance { caption_missing(travel, &mut enhanced, helpers) } else { Ok(()) };
    if enhanced.iter().any(|text| !text.trim().is_empty()) {
        travel.details.insert("enhanced_prompts_expanded".into(), json!(enhanced));
    }
    travel.prompts.enhanced = enhanced;
    result
}

fn caption_missing(travel: &Travel, enhanced: &mut [String], helpers: &mut dyn Helpers) -> Result<(), Failure> {
    let prompts = &travel.prompts;
    let mut resolved: BTreeMap<&str, Value> = BTreeMap::new();
    for (segment, text) in enhanced.iter_mut().enumerate().filter(|(_, text)| text.trim().is_empty()) {
        let Some((mode, sources)) = pictures(prompts, segment) else { continue };
        let mut ask = || {
            let mut images = Vec::new();
            for source in &sources {
                let image = match resolved.get(source) {
                    Some(image) => image.clone(),
                    None => reference(&helpers.resolve(source)?),
                };
                resolved.insert(source, image.clone());
                images.push(image);
            }
            helpers.caption(&CaptionRequest {
                images,
                prompt: base(prompts, segment).to_owned(),
                mode,
                frames: travel.frames.lengths.get(segment).copied().unwrap_or(0),
                fps: travel.fps,
            })
        };
        // One refusal is an answer for all: the model is not asked again for each segment.
        *text = ask()?;
    }
    Ok(())
}

/// The pictures that a segment's prompt is written from. None: there are none for it.
fn pictures(prompts: &Prompts, segment: usize) -> Option<(CaptionMode, Vec<&str>)> {
    match prompts.images.as_slice() {
        [only] => Some((CaptionMode::Single, vec![only])),
        images => {
            let pair = [images.get(segment)?, images.get(segment.checked_add(1)?)?];
            Some((CaptionMode::Transition, pair.map(String::as_str).to_vec()))
        }
    }
}

/// What the user wrote for a segment.
fn base(prompts: &Prompts, segment: usize) -> &str {
    first_of([prompts.base.get(segment).map(String::as_str), Some(&prompts.fallback)])
}

/// The prompt of a segment.
pub fn prompt(prompts: &Prompts, segment: usize) -> String {
    let enhanced = prompts.enhanced.get(segment).map(String::as_str);
    wrapped(&prompts.before, first_of([enhanced, Some(base(prompts, segment))]), &prompts.after)
}

/// The negative prompt of a segment.
pub fn negative(prompts: &Prompts, segment: usize) -> &str {
    first_of([prompts.negative.get(segment).map(String::as_str), Some(&prompts.negative_fallback)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Prompts {
        Prompts {
            base: vec!["a".into(), " ".into()],
            negative: vec!["blur".into()],
            fallback: "all".into(),
            negative_fallback: "bad".into(),
            ..Prompts::default()
        }
    }

    #[test]
    fn an_improved_prompt_goes_first_then_the_segments_own_then_the_common_one() {
        let prompts = Prompts { enhanced: vec!["better".into()], ..given() };
        assert_eq!([0, 1].map(|segment| prompt(&prompts, segment)), ["better", "all"]);
        assert_eq!(prompt(&given(), 0), "a");
    }

    #[test]
    fn negative_prompts_of_segments_beat_the_common_one() {
        assert_eq!([0, 1].map(|segment| negative(&given(), segment).to_owned()), ["blur", "bad"]);
    }

    #[test]
    fn segments_look_at_both_of_their_pictures_or_at_the_only_one() {
        let images = |names: &[&str]| Prompts { images: names.iter().map(|name| (*name).into()).collect(), ..given() };
        assert_eq!(pictures(&images(&["x"]), 3), Some((CaptionMode::Single, vec!["x"])));
        assert_eq!(pictures(&images(&["x", "y", "z"]), 1), Some((CaptionMode::Transition, vec!["y", "z"])));
        assert_eq!(pictures(&images(&["x", "y"]), 1), None);
        assert_eq!(pictures(&images(&[]), 0), None);
    }
}
