//! The stand-in for both engines that needs no GPU and no weights: it renders every request as real files of the size, length
//! and rate that was asked for, so that whole pipelines can be built, tested and shown on any machine.
//!
//! For ComfyUI, every output of a workflow, with the graph as picture:
//! - `workflow.rs`: from the workflow to its files.
//! - `outputs.rs`: which files, of what size and length.
//! - `map.rs`: the graph as a picture.
//!
//! For Wan2GP:
//! - `plan.rs`: the settings, read and checked.
//! - `models.rs`: what a model's name tells.
//! - `clips.rs`: the request's files, frame by frame.
//! - `scene.rs`: one frame as a picture.
//! - `text.rs`: words on pictures.
//!
//! It is honest: every frame carries the word *animatic*, kept frames too. And it is the same every time: nothing that
//! differs between runs — no id, no time, no path — enters a frame, so equal requests give equal files.
//!
//! What it keeps of Wan2GP's behaviour:
//! - Where the mask is black, the guide's frame comes out; where it is white, something new.
//! - With a `video_source` of p frames, the result is those frames and `video_length` - `sliding_window_overlap` (4 if not
//!   given) new ones.
//! - A model that is guided by a video (VACE) is refused without one.
//! - One frame is a picture, unless a travel segment asked for it.

use std::sync::Arc;

use async_trait::async_trait;
use image::{ImageFormat, RgbImage};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use crate::engines::{Engine, Job, ModelInfo, Produced, Report, Request};
use crate::media::Media;
use crate::media::frames::{Frame, FrameWriter, PixelFormat, VideoSpec};
use crate::task::{EngineKind, Failure};

mod clips;
mod map;
mod models;
mod outputs;
mod plan;
mod scene;
mod text;
mod workflow;

use clips::{Ahead, Clip, Files};
use plan::{Input, Plan, Rate, Shape};
use scene::{Moment, Scene, stamp};

/// H.264 quality of the result: that of a real segment.
const CRF: u32 = 18;

/// The stand-in.
pub struct Animatic {
    media: Media,
    /// The engine that it stands for.
    serves: EngineKind,
}

impl Animatic {
    /// In the place of Wan2GP.
    pub fn new(media: Media) -> Self {
        Self { media, serves: EngineKind::Wan2gp }
    }

    /// In the place of ComfyUI.
    pub fn for_workflows(media: Media) -> Self {
        Self { media, serves: EngineKind::Comfyui }
    }

    async fn generate(&self, settings: &Map<String, Value>, job: &Job<'_>) -> Result<Vec<Produced>, Failure> {
        let mut plan = Plan::read(settings)?;
        plan.label = plan.label.or(job.label.map(String::from));
        let files = Files { media: &self.media, artifacts: job.artifacts, width: plan.width, height: plan.height };
        match plan.shape {
            Shape::Pictures { count } => pictures(&files, plan.clone(), count, job).await,
            Shape::Video { frames } => video(&files, plan.clone(), frames, job).await,
        }
    }
}

#[async_trait]
impl Engine for Animatic {
    fn kind(&self) -> EngineKind {
        self.serves
    }

    fn title(&self) -> String {
        "animatic".into()
    }

    async fn run(&self, job: Job<'_>) -> Result<Vec<Produced>, Failure> {
        if job.request.engine() != self.serves {
            let asked = job.request.engine();
            let message = format!("The animatic engine stands for {} and was given a job for {asked}.", self.serves);
            return Err(Failure::internal("wrong_engine", message));
        }
        let work = async {
            match job.request {
                Request::Generation { settings, .. } => self.generate(settings, &job).await,
                Request::Workflow { workflow, terms } => workflow::run(&self.media, workflow, terms, &job).await,
            }
        };
        // Dropping the rendering ends its ffmpeg processes.
        tokio::select! {
            biased;
            () = job.cancel.cancelled() => Err(Failure::cancelled("The animatic engine was told to stop.")),
            ended = work => ended,
        }
    }

    async fn model_info(&self, model: &str) -> Result<ModelInfo, Failure> {
        Ok(models::info(model))
    }
}

async fn pictures(files: &Files<'_>, plan: Plan, count: u64, job: &Job<'_>) -> Result<Vec<Produced>, Failure> {
    let base = plan.start.or(plan.refs.first().copied());
    let mut moment = Moment {
        before: picture(files, base).await?,
        guide: picture(files, plan.guide).await?,
        mask: picture(files, plan.mask).await?,
        ..Moment::default()
    };
    let refs = thumbnails(files, &plan.refs).await?;
    let stem = stem(&plan);
    let scene = Arc::new(Scene::new(plan, count, None, refs, |_| false));
    let mut produced = Vec::new();
    for index in 0..count {
        moment.index = index;
        // Pictures of one request differ, as those of one seed and the next do.
        moment.way = index as f32 / count as f32;
        let name = if index == 0 { format!("{stem}.png") } else { format!("{stem}_{}.png", index + 1) };
        let path = job.folder.join(&name);
        let (scene, moment, file) = (scene.clone(), moment.clone(), path.clone());
        painted(move || {
            scene.draw(&moment).save_with_format(&file, ImageFormat::Png).map_err(|e| {
                Failure::internal("picture_not_written", format!("Could not write {}: {e}", file.display()))
            })
        })
        .await?;
        (job.report)(Some((index + 1) as f32 / count as f32), format!("picture {} of {count}", index + 1));
        produced.push(Produced { path, name });
    }
    Ok(produced)
}

async fn video(files: &Files<'_>, plan: Plan, frames: u64, job: &Job<'_>) -> Result<Vec<Produced>, Failure> {
    let (prefix, overlap) = prefix(files, &plan).await?;
    let total = prefix + frames - overlap;
    let fps = rate(files, &plan).await?;
    let kept = match (plan.guide, plan.mask) {
        (Some(_), Some(mask)) => files.kept(mask, plan.mask_inverted).await?,
        _ => Vec::new(),
    };
    let name = format!("{}.mp4", stem(&plan));
    let path = job.folder.join(&name);
    let spec = VideoSpec {
        width: plan.width,
        height: plan.height,
        fps,
        format: PixelFormat::Rgb24,
        crf: CRF,
        lossless: false,
    };
    let mut result = Rendering {
        writer: FrameWriter::create(files.media, &path, spec).await?,
        written: 0,
        total,
        report: job.report.clone(),
    };

    let mut last = None;
    if let Some(source) = plan.source {
        let mut clip = files.clip(source.input).await?;
        while result.written < prefix {
            let Some(frame) = clip.next().await? else { break };
            last = Some(frame.clone());
            let stamped = painted(move || {
                let mut frame = Arc::unwrap_or_clone(frame);
                stamp(&mut frame);
                Ok(frame)
            });
            result.write(stamped.await?).await?;
        }
        if result.written < prefix {
            return Err(Failure::invalid(
                "unreadable_media",
                format!("The file of `video_source` ends after {} of {prefix} frames.", result.written),
            ));
        }
    }

    let mut between = Between {
        guide: open(files, plan.guide).await?,
        mask: open(files, plan.mask).await?,
        ahead: match plan.guide {
            Some(guide) if kept.contains(&true) => Some(Ahead::new(files.clip(guide).await?)),
            _ => None,
        },
        before: match last {
            Some(last) => Some((overlap as f32 - 1.0, last)),
            None => picture(files, plan.start).await?.map(|start| (0.0, start)),
        },
        end: picture(files, plan.end).await?,
        kept,
        last: frames - 1,
    };
    between.skip(overlap).await?;
    let refs = thumbnails(files, &plan.refs).await?;
    let taken = |index: u64| index < prefix || between.keeps(index - prefix + overlap);
    let scene = Arc::new(Scene::new(plan, total, Some(fps), refs, taken));
    for position in overlap..frames {
        let moment = Moment { index: result.written, ..between.moment(position).await? };
        let scene = scene.clone();
        result.write(painted(move || Ok(scene.draw(&moment))).await?).await?;
    }
    result.writer.finish().await?;
    Ok(vec![Produced { path, name }])
}

/// The video that comes into being.
struct Rendering {
    writer: FrameWriter,
    written: u64,
    total: u64,
    report: Report,
}

impl Rendering {
    async fn write(&mut self, frame: RgbImage) -> Result<(), Failure> {
        let (width, height) = frame.dimensions();
        self.writer.write(&Frame { format: PixelFormat::Rgb24, width, height, data: frame.into_raw() }).await?;
        self.written += 1;
        // A percent is news; single frames of a long video are not.
        if self.written * 100 / self.total > (self.written - 1) * 100 / self.total {
            let fraction = self.written as f32 / self.total as f32;
            (self.report)(Some(fraction), format!("frame {} of {}", self.written, self.total));
        }
        Ok(())
    }
}

/// Where each new frame stands between the pictures that are given. Positions count from the first frame asked for.
struct Between {
    guide: Option<Clip>,
    mask: Option<Clip>,
    /// The guide once more, at the next frame that is kept.
    ahead: Option<Ahead>,
    /// The picture before, and where it stands.
    before: Option<(f32, Arc<RgbImage>)>,
    end: Option<Arc<RgbImage>>,
    /// Which frames are the guide's.
    kept: Vec<bool>,
    last: u64,
}

impl Between {
    fn keeps(&self, position: u64) -> bool {
        usize::try_from(position).is_ok_and(|position| self.kept.get(position) == Some(&true))
    }

    async fn skip(&mut self, frames: u64) -> Result<(), Failure> {
        for clip in [&mut self.guide, &mut self.mask].into_iter().flatten() {
            clip.skip(frames).await?;
        }
        Ok(())
    }

    async fn moment(&mut self, position: u64) -> Result<Moment, Failure> {
        let guide = advance(&mut self.guide).await?;
        let mask = advance(&mut self.mask).await?;
        let place = position as f32;
        if let Some(guide) = guide.clone().filter(|_| self.keeps(position)) {
            self.before = Some((place, guide));
        }
        let after = self.after(position).await?;
        let from = self.before.as_ref().map_or(0.0, |(place, _)| *place);
        let to = after.as_ref().map_or(self.last as f32, |(place, _)| *place);
        Ok(Moment {
            index: 0,
            way: if to > from { (place - from) / (to - from) } else { 0.0 },
            before: self.before.as_ref().map(|(_, picture)| picture.clone()),
            after: after.map(|(_, picture)| picture),
            guide,
            mask,
        })
    }

    /// The picture after a position: the next frame that is kept, else the end image.
    async fn after(&mut self, position: u64) -> Result<Option<(f32, Arc<RgbImage>)>, Failure> {
        let next = (position + 1..self.kept.len() as u64).find(|position| self.keeps(*position));
        if let (Some(next), Some(ahead)) = (next.filter(|next| *next <= self.last), &mut self.ahead)
            && let Some(picture) = ahead.frame(next).await?
        {
            return Ok(Some((next as f32, picture)));
        }
        Ok(self.end.clone().map(|end| (self.last as f32, end)))
    }
}

/// Frames of the source that come first, and how many new ones are left out for them.
async fn prefix(files: &Files<'_>, plan: &Plan) -> Result<(u64, u64), Failure> {
    let Some(source) = plan.source else { return Ok((0, 0)) };
    let frames = files.probe(source.input).await?.frames;
    let kept = match source.keep {
        Some(keep) if keep < 0 => frames.saturating_sub(keep.unsigned_abs()),
        Some(keep) => frames.min(keep.unsigned_abs()),
        None => frames,
    };
    Ok((kept, source.overlap))
}

async fn rate(files: &Files<'_>, plan: &Plan) -> Result<f64, Failure> {
    let source = plan.source.map(|source| source.input);
    let (file, otherwise) = match plan.rate {
        Rate::Fixed(fps) => return Ok(fps),
        Rate::OfGuide(fps) => (plan.guide, fps),
        Rate::OfSource(fps) => (source.or(plan.guide), fps),
    };
    match file {
        Some(file) => Ok(Some(files.probe(file).await?.fps).filter(|fps| *fps > 0.0).unwrap_or(otherwise)),
        None => Ok(otherwise),
    }
}

async fn open(files: &Files<'_>, input: Option<Input>) -> Result<Option<Clip>, Failure> {
    match input {
        Some(input) => files.clip(input).await.map(Some),
        None => Ok(None),
    }
}

async fn advance(clip: &mut Option<Clip>) -> Result<Option<Arc<RgbImage>>, Failure> {
    match clip {
        Some(clip) => clip.next().await,
        None => Ok(None),
    }
}

async fn picture(files: &Files<'_>, input: Option<Input>) -> Result<Option<Arc<RgbImage>>, Failure> {
    match input {
        Some(input) => files.picture(input).await.map(Some),
        None => Ok(None),
    }
}

async fn thumbnails(files: &Files<'_>, inputs: &[Input]) -> Result<Vec<RgbImage>, Failure> {
    let mut thumbnails = Vec::new();
    // More than a handful would hide the frame.
    for input in inputs.iter().take(4) {
        thumbnails.push(files.thumbnail(*input).await?);
    }
    Ok(thumbnails)
}

/// Pixels are computed where that keeps nobody waiting.
async fn painted<T: Send + 'static>(paint: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    match spawn_blocking(paint).await {
        Ok(painted) => painted,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => Err(Failure::cancelled(format!("The animatic engine was stopped while it drew: {e}"))),
        },
    }
}

/// What the result is called: model and seed.
fn stem(plan: &Plan) -> String {
    let model: String = plan
        .model
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .take(60)
        .collect();
    format!("{}_seed{}", model.trim_start_matches('.'), plan.seed)
}
