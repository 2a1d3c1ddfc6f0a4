//! The files of a segment: its pictures, what it continues from, guide and mask, each made or fetched by the host.

use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::kinds;
use enginehouse_sdk::rules::structure::Guidance as Structure;
use enginehouse_sdk::rules::svi;

use crate::guidance;
use crate::guide::{Guidance, Opening, Plan, Shape};
use crate::images::{Ends, Picture, ends, unavailable};
use crate::request::{Kind, Materials};
use crate::values::Segment;

/// A video that the segment continues from.
struct Previous {
    artifact: String,
    frames: u64,
}

/// What decides which files a segment needs.
pub struct Work<'a> {
    pub segment: &'a Segment,
    pub structure: &'a Structure,
    /// The details of the travel.
    pub travel: &'a Map<String, Value>,
    /// Id of the task this one depends on.
    pub dependency: Option<&'a str>,
    pub kind: Kind,
    /// A guide is made: for a model that takes one, or to look at.
    pub makes_guide: bool,
    /// A mask goes with the guide.
    pub masks: bool,
}

impl Work<'_> {
    /// Gathers them.
    pub fn materials(&self, host: &mut dyn Host) -> Result<Materials, Failure> {
        let segment = self.segment;
        let ends = ends(&segment.named, segment.place());
        if self.kind.vace {
            self.check_ends(&ends)?;
        }
        let opens_with_video = self.makes_guide && !segment.from_scratch() && segment.overlap > 0;
        let previous = if segment.from_video() || ends.start == Some(Picture::LastFrame) {
            Some(self.previous(host)?)
        } else if opens_with_video {
            self.previous_of_guide(host)?
        } else {
            None
        };

        let mut materials = Materials {
            start: self.picture(host, ends.start.as_ref(), "the start image", previous.as_ref())?,
            end: self.picture(host, ends.end.as_ref(), "the end image", previous.as_ref())?,
            ..Materials::default()
        };
        if let Some(previous) = previous.as_ref().filter(|_| segment.from_video()) {
            materials.prefix = Some(prefix(host, segment, previous)?);
        }

        let guidance = self.guidance(host)?;
        if self.makes_guide {
            let plan = Plan {
                frames: segment.frames,
                opening: self.opening(&materials, previous.as_ref().filter(|_| opens_with_video)),
                end: materials.end.clone().filter(|_| !segment.single_image()),
                guidance: guidance.as_deref().map(|artifact| self.measured(host, artifact)).transpose()?.flatten(),
                black_end: self.kind.uni3c,
            };
            materials.guide = self.guide(host, &plan)?;
            if self.masks {
                materials.mask = self.mask(host, &plan)?;
            }
        }
        if self.kind.uni3c {
            materials.uni3c_guide = materials.guide.clone().or(guidance);
        }
        Ok(materials)
    }

    /// A guide stands and falls with the pictures it is fixed to.
    fn check_ends(&self, ends: &Ends) -> Result<(), Failure> {
        let missing = if self.segment.from_scratch() && ends.start.is_none() {
            "start"
        } else if ends.end.is_none() && !ends.open_end {
            "end"
        } else {
            return Ok(());
        };
        Err(Failure::invalid(
            kinds::GUIDE_CREATION_FAILED,
            format!(
                "cannot make the guide of segment {}: it has no {missing} image; the travel names {} images",
                self.segment.index,
                self.segment.named.run.len()
            ),
        ))
    }

    fn picture(
        &self,
        host: &mut dyn Host,
        picture: Option<&Picture>,
        what: &str,
        previous: Option<&Previous>,
    ) -> Result<Option<String>, Failure> {
        match (picture, previous) {
            (Some(Picture::At(address)), _) => host
                .resolve(address)
                .map(|file| Some(file.artifact))
                .map_err(|failure| unavailable(failure, what, address, self.kind.vace)),
            (Some(Picture::LastFrame), Some(previous)) => {
                let last = Timeline::picture("last_frame.png").lossless().clip(Clip::video(&previous.artifact).last(1));
                host.render(&last).map(|rendered| Some(rendered.file.artifact))
            }
            _ => Ok(None),
        }
    }

    /// The video that the segment continues from; it must be there.
    fn previous(&self, host: &mut dyn Host) -> Result<Previous, Failure> {
        let segment = self.segment;
        let named = if segment.from_video() {
            segment.predecessor.as_deref()
        } else {
            segment.continued.as_deref().filter(|_| segment.index == 0)
        };
        let (artifact, which) = match (named, self.dependency) {
            (Some(address), _) => (resolved(host, address)?, "the video that was named"),
            (None, Some(id)) => (output_of(host, id)?, "its predecessor's video"),
            (None, None) => {
                return Err(Failure::invalid(
                    kinds::PREDECESSOR_UNAVAILABLE,
                    format!(
                        "segment {} continues from a video, but it depends on no task that makes one",
                        segment.index
                    ),
                ));
            }
        };
        let probe = host
            .probe(&artifact)
            .map_err(|failure| without_predecessor(failure, &format!("{which} cannot be read")))?;
        if probe.kind != "video" || probe.frames == 0 {
            return Err(without_predecessor(
                Failure::invalid("unreadable_media", format!("it is a {} without frames to play", probe.kind)),
                &format!("{which} cannot be used"),
            ));
        }
        Ok(Previous { artifact, frames: probe.frames })
    }

    /// A guide that is made only to look at does without.
    fn previous_of_guide(&self, host: &mut dyn Host) -> Result<Option<Previous>, Failure> {
        match self.previous(host) {
            Err(failure) if !self.kind.vace && !failure.is_of_the_host() => {
                host.warn(&failure.message);
                Ok(None)
            }
            previous => previous.map(Some),
        }
    }

    fn opening(&self, materials: &Materials, previous: Option<&Previous>) -> Opening {
        if let Some(previous) = previous {
            return Opening::Tail {
                artifact: previous.artifact.clone(),
                length: previous.frames,
                frames: self.segment.overlap.min(previous.frames),
                adjust: self.segment.overlap_adjust,
            };
        }
        match &materials.start {
            Some(start) if self.segment.from_scratch() => Opening::Picture(start.clone()),
            _ => Opening::Free,
        }
    }

    /// The guidance video (its digest), if the segment has one that can be had. A guide does without; where the engine
    /// itself is to follow it, its absence is a failure.
    fn guidance(&self, host: &mut dyn Host) -> Result<Option<String>, Failure> {
        if !self.structure.is_given() || !(self.makes_guide || self.kind.uni3c) {
            return Ok(None);
        }
        let Some(address) = &self.structure.guidance_video else {
            return guidance::rendered(host, self.segment, self.structure, self.travel);
        };
        match host.resolve(address) {
            Ok(file) => Ok(Some(file.artifact)),
            Err(failure) if failure.class == FailureClass::Cancelled => Err(failure),
            Err(failure) if !self.makes_guide => Err(unavailable(failure, "the guidance video", address, false)),
            Err(failure) => {
                host.warn(&format!("segment {} goes on without guidance: {}", self.segment.index, failure.message));
                Ok(None)
            }
        }
    }

    /// Guidance that cannot be read leaves its frames grey.
    fn measured(&self, host: &mut dyn Host, artifact: &str) -> Result<Option<Guidance>, Failure> {
        // A guidance video of the whole travel has an offset; one that the segment has rendered begins with it.
        let of_travel = self.structure.guidance_video.is_some();
        let offset = if of_travel { self.structure.frame_offset.max(0).unsigned_abs() } else { 0 };
        match host.probe(artifact) {
            Ok(probe) => Ok(Some(Guidance { artifact: artifact.to_string(), length: probe.frames, offset })),
            Err(failure) if failure.class == FailureClass::Cancelled => Err(failure),
            Err(failure) => {
                host.warn(&format!("segment {} goes on without guidance: {}", self.segment.index, failure.message));
                Ok(None)
            }
        }
    }

    fn guide(&self, host: &mut dyn Host, plan: &Plan) -> Result<Option<String>, Failure> {
        let index = self.segment.index;
        match host.render(&plan.guide(self.shape(), format!("seg{index:02}_guide.mp4"))) {
            Ok(rendered) => Ok(Some(rendered.file.artifact)),
            Err(failure) if failure.is_of_the_host() => Err(failure),
            Err(failure) if self.kind.vace => Err(failure
                .with_code(kinds::GUIDE_CREATION_FAILED)
                .while_doing(format!("cannot make the guide of segment {index}"))),
            Err(failure) => {
                host.warn(&format!("segment {index} goes on without a guide to look at: {}", failure.message));
                Ok(None)
            }
        }
    }

    fn mask(&self, host: &mut dyn Host, plan: &Plan) -> Result<Option<String>, Failure> {
        let index = self.segment.index;
        match host.render(&plan.mask(self.shape(), format!("seg{index:02}_mask.mp4"))) {
            Ok(rendered) => Ok(Some(rendered.file.artifact)),
            Err(failure) if failure.is_of_the_host() => Err(failure),
            Err(failure) => {
                host.warn(&format!("segment {index} goes on without a mask: {}", failure.message));
                Ok(None)
            }
        }
    }

    fn shape(&self) -> Shape {
        let resolution = self.segment.resolution;
        Shape { width: resolution.width, height: resolution.height, fps: self.segment.fps }
    }
}

/// The end of the predecessor that an SVI segment grows from: context and overlap, or all of a shorter one. Where the end
/// cannot be cut off the whole predecessor does; what the result repeats of it is cut off in any case.
fn prefix(host: &mut dyn Host, segment: &Segment, previous: &Previous) -> Result<String, Failure> {
    let frames = (svi::CONTEXT + svi::OVERLAP).unsigned_abs().min(previous.frames);
    let name = format!("seg{:02}_prefix.mp4", segment.index);
    match host.render(&Timeline::video(name).clip(Clip::video(&previous.artifact).last(frames))) {
        Ok(rendered) => Ok(rendered.file.artifact),
        Err(failure) if failure.is_of_the_host() => Err(failure),
        Err(failure) => {
            host.warn(&format!("segment {} grows from its whole predecessor: {}", segment.index, failure.message));
            Ok(previous.artifact.clone())
        }
    }
}

fn resolved(host: &mut dyn Host, address: &str) -> Result<String, Failure> {
    let file = host.resolve(address).map_err(|failure| {
        let shown = address.split(['?', '#']).next().unwrap_or(address);
        without_predecessor(failure, &format!("the video at `{shown}` is not there"))
    })?;
    Ok(file.artifact)
}

fn output_of(host: &mut dyn Host, id: &str) -> Result<String, Failure> {
    let nothing = |what: &str| {
        Failure::dependency(
            kinds::PREDECESSOR_UNAVAILABLE,
            format!("the segment continues from the video of task {id}, but {what}: complete that task and retry"),
        )
    };
    let task =
        host.task(id).map_err(|failure| without_predecessor(failure, &format!("task {id} cannot be looked up")))?;
    if !task.is_complete() {
        return Err(nothing(&format!("that task is {}", task.status)));
    }
    let output = host
        .output(&task)
        .map_err(|failure| without_predecessor(failure, &format!("the output of task {id} is not there")))?;
    output.map(|file| file.artifact).ok_or_else(|| nothing("that task has no output"))
}

fn without_predecessor(failure: Failure, what: &str) -> Failure {
    if failure.is_of_the_host() {
        return failure;
    }
    failure
        .with_code(kinds::PREDECESSOR_UNAVAILABLE)
        .while_doing(format!("the segment continues from a video, but {what}"))
}
