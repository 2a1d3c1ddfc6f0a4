//! The joined video, enlarged by a model of the engine: asked for, checked, and only then taken in place of the plain one.
//!
//! The model gets the joined video as its guide and redraws it at the larger size. Engines make videos of 4k + 1 frames
//! alone: a guide of another length is shown a little longer, and what comes back is cut to the length of the plain video.

use enginehouse_sdk::host::engines::Options;
use enginehouse_sdk::host::media::Probe;
use enginehouse_sdk::host::reference;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::resolution::{BLOCK, Resolution};
use enginehouse_sdk::rules::{SEED, UPSCALE_SEED_OFFSET};

/// What the model is told to draw when the travel does not say.
const PROMPT: &str = "cinematic, masterpiece, high detail, 4k";
/// Share of the denoising that a model without a guide input does anew: enough for detail, too little for other content.
const REDRAWN: f64 = 0.3;

/// An enlargement that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Upscale {
    /// Above 1.
    pub factor: f64,
    pub model: Option<String>,
    pub prompt: String,
    pub seed: i64,
    /// Longest running time; none: the operator's.
    pub limit_seconds: Option<u32>,
}

impl Upscale {
    /// None: nothing that would change anything was asked for. `invalid_field` for a value of the wrong type.
    pub fn read(params: &Map<String, Value>, details: &Map<String, Value>) -> Result<Option<Self>, Failure> {
        let fields = Fields::new([params, details]);
        let Some(factor) = fields.number("upscale_factor")?.filter(|factor| *factor > 1.0) else { return Ok(None) };
        let arguments = Fields::new([details]).object("original_task_args")?;
        let prompt = Fields::new(arguments).text("upscale_prompt")?;
        let seed = match fields.integer("seed_for_upscale")? {
            Some(seed) => seed,
            None => fields.integer("seed_base")?.unwrap_or(SEED).saturating_add(UPSCALE_SEED_OFFSET),
        };
        // Enlarging takes longer than a segment: where only the patience for those is known, twice as much.
        let limit = match fields.number("poll_timeout_upscale")? {
            Some(limit) => Some(limit),
            None => fields.number("poll_timeout")?.map(|limit| 2.0 * limit),
        };
        Ok(Some(Self {
            factor,
            model: fields.text("upscale_model_name")?.filter(|model| !model.trim().is_empty()).map(str::to_string),
            prompt: prompt.unwrap_or(PROMPT).to_string(),
            seed,
            limit_seconds: limit.map(|limit| limit.max(0.0) as u32),
        }))
    }

    /// Name of the enlarged video, for people.
    pub fn name(&self) -> String {
        format!("upscaled_{:.1}x.mp4", self.factor)
    }

    /// The enlarged video (its digest). The failure says why there is none; the plain video is as good as it was.
    pub fn enlarged(&self, host: &mut dyn Host, plain: &str, limit_seconds: u32) -> Result<String, Failure> {
        let Some(model) = &self.model else {
            return Err(Failure::invalid("no_upscale_model", "the travel names no `upscale_model_name`"));
        };
        let limit_seconds = self.limit_seconds.unwrap_or(limit_seconds);
        if limit_seconds == 0 {
            return Err(Failure::invalid("no_time", "the travel allows no time for it (`poll_timeout_upscale` is 0)"));
        }
        let facts = host.probe(plain)?;
        let size = self.size(&facts)?;
        let frames = whole_grid(facts.frames);
        let guide = held(host, plain, frames - facts.frames)?;
        let settings = self.settings(model, host.model_info(model)?.vace, &guide, size, frames);
        let options = Options { label: Some("upscaling".into()), ..Options::default() };
        host.progress(&format!("enlarging the video to {size}"));
        let finished = host.generation(&settings, &options, limit_seconds)?;

        let made = &finished.main()?.artifact;
        let found = host.probe(made)?;
        let as_asked = (found.width, found.height) == (size.width, size.height) && found.frames >= facts.frames;
        if found.kind != "video" || !as_asked {
            return Err(Failure::engine(
                "not_enlarged",
                format!(
                    "{model} made a {} of {} frames, {}x{}, where {} frames of {size} were asked for",
                    found.kind, found.frames, found.width, found.height, facts.frames
                ),
            ));
        }
        if (found.frames, found.fps) == (facts.frames, facts.fps) {
            return Ok(made.clone());
        }
        let cut = Clip::video(made).range(0, facts.frames);
        Ok(host.render(&Timeline::video(self.name()).fps(facts.fps).clip(cut))?.file.artifact)
    }

    /// The larger size, in the blocks that models work in.
    fn size(&self, plain: &Probe) -> Result<Resolution, Failure> {
        let block = f64::from(BLOCK);
        let side = |side: u32| ((f64::from(side) * self.factor / block).round() * block) as u32;
        Resolution { width: side(plain.width), height: side(plain.height) }.snapped()
    }

    fn settings(&self, model: &str, vace: bool, guide: &str, size: Resolution, frames: u64) -> Value {
        let mut settings = json!({
            "model_name": model,
            "prompt": self.prompt,
            "resolution": size.to_string(),
            "video_length": frames,
            "seed": self.seed,
            "video_guide": reference(guide),
            "video_prompt_type": if vace { "V" } else { "GUV" },
            // The rate of the guide.
            "force_fps": "control",
        });
        if !vace && let Some(settings) = settings.as_object_mut() {
            settings.insert("denoising_strength".into(), json!(REDRAWN));
        }
        settings
    }
}

/// The next length that engines make: 4k + 1.
fn whole_grid(frames: u64) -> u64 {
    frames.saturating_sub(1).div_ceil(4).saturating_mul(4).saturating_add(1)
}

/// The video with its last frame shown so many times more.
fn held(host: &mut dyn Host, video: &str, more: u64) -> Result<String, Failure> {
    if more == 0 {
        return Ok(video.to_string());
    }
    let whole = Timeline::video("to_enlarge.mp4").clip(Clip::video(video));
    let held = (0..more).fold(whole, |timeline, _| timeline.clip(Clip::video(video).last(1)));
    Ok(host.render(&held)?.file.artifact)
}

#[cfg(test)]
mod tests {
    use enginehouse_sdk::host::engines::{Finished, ModelInfo};
    use enginehouse_sdk::host::media::Rendered;

    use super::*;

    /// A host with a plain video of 30 frames, 64x32, and an engine that makes a video as it is told.
    struct Script {
        made: Result<Probe, Failure>,
        asked: Option<Value>,
        limit_seconds: Option<u32>,
        rendered: Vec<Timeline>,
    }

    fn video(frames: u64, width: u32, height: u32, fps: f64) -> Probe {
        Probe { kind: "video".into(), frames, width, height, fps, ..Probe::default() }
    }

    impl Script {
        fn making(made: Probe) -> Self {
            Self { made: Ok(made), asked: None, limit_seconds: None, rendered: Vec::new() }
        }
    }

    impl Host for Script {
        fn probe(&mut self, artifact: &str) -> Result<Probe, Failure> {
            if artifact == "made" { self.made.clone() } else { Ok(video(30, 64, 32, 16.0)) }
        }

        fn render(&mut self, timeline: &Timeline) -> Result<Rendered, Failure> {
            self.rendered.push(timeline.clone());
            let file = File { artifact: timeline.output.name.clone(), ..File::default() };
            Ok(Rendered { file, ..Rendered::default() })
        }

        fn model_info(&mut self, model: &str) -> Result<ModelInfo, Failure> {
            Ok(ModelInfo { vace: model.contains("vace"), ..ModelInfo::default() })
        }

        fn submit(&mut self, settings: &Value, _: &Options) -> Result<String, Failure> {
            self.asked = Some(settings.clone());
            Ok("job".into())
        }

        fn wait(&mut self, _: &str, limit_seconds: u32) -> Result<Finished, Failure> {
            self.limit_seconds = Some(limit_seconds);
            self.made.clone()?;
            let file = File { artifact: "made".into(), ..File::default() };
            Ok(Finished { outputs: vec![file], ..Finished::default() })
        }

        fn progress(&mut self, _: &str) {}
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn read(params: Value, details: Value) -> Option<Upscale> {
        Upscale::read(&map(params), &map(details)).unwrap()
    }

    fn twice() -> Upscale {
        read(json!({"upscale_factor": 2, "upscale_model_name": "up"}), json!({})).unwrap()
    }

    #[test]
    fn nothing_is_asked_for_without_a_factor_above_one() {
        for factor in [json!(null), json!(0.0), json!(1), json!(0.5)] {
            assert_eq!(read(json!({"upscale_factor": factor}), json!({})), None);
        }
        assert_eq!(read(json!({}), json!({"upscale_factor": 1.5})).unwrap().factor, 1.5);
    }

    #[test]
    fn prompt_seed_and_patience_are_those_of_the_travel_or_the_usual_ones() {
        let usual = twice();
        assert_eq!((usual.prompt.as_str(), usual.seed, usual.limit_seconds), (PROMPT, 17345, None));
        let details = json!({"original_task_args": {"upscale_prompt": "sharp"}, "seed_base": 7, "poll_timeout": 100});
        let own = read(json!({"upscale_factor": 2}), details.clone()).unwrap();
        assert_eq!((own.prompt.as_str(), own.seed, own.limit_seconds), ("sharp", 5007, Some(200)));
        let params = json!({"upscale_factor": 2, "seed_for_upscale": 9, "poll_timeout_upscale": 30});
        let own = read(params, details).unwrap();
        assert_eq!((own.seed, own.limit_seconds), (9, Some(30)));
    }

    #[test]
    fn the_model_redraws_the_joined_video_at_the_larger_size() {
        let mut host = Script::making(video(33, 128, 64, 16.0));
        assert_eq!(twice().enlarged(&mut host, "plain", 3600).unwrap(), "upscaled_2.0x.mp4");
        let expected = json!({"model_name": "up", "prompt": PROMPT, "resolution": "128x64", "video_length": 33, "seed": 17345,
            "video_guide": {"$artifact": "to_enlarge.mp4"}, "video_prompt_type": "GUV", "force_fps": "control",
            "denoising_strength": 0.3});
        assert_eq!((host.asked, host.limit_seconds), (Some(expected), Some(3600)));
        let last = || Clip::video("plain").last(1);
        assert_eq!(host.rendered[0].clips, [Clip::video("plain"), last(), last(), last()]);
        assert_eq!(host.rendered[1].clips, [Clip::video("made").range(0, 30)], "as long as the plain one");
    }

    #[test]
    fn a_model_that_takes_a_guide_is_guided_alone() {
        let mut host = Script::making(video(33, 128, 64, 16.0));
        let upscale = Upscale { model: Some("vace_14B".into()), ..twice() };
        upscale.enlarged(&mut host, "plain", 3600).unwrap();
        let asked = host.asked.unwrap();
        assert_eq!((&asked["video_prompt_type"], asked.get("denoising_strength")), (&json!("V"), None));
    }

    #[test]
    fn what_is_as_long_and_as_fast_as_the_plain_video_is_not_encoded_again() {
        let mut host = Script::making(video(30, 128, 64, 16.0));
        assert_eq!(twice().enlarged(&mut host, "plain", 3600).unwrap(), "made");
        assert_eq!(host.rendered.len(), 1);
    }

    #[test]
    fn sides_are_whole_blocks() {
        let size = |factor: f64| Upscale { factor, ..twice() }.size(&video(1, 100, 60, 16.0)).unwrap().to_string();
        assert_eq!((size(1.5).as_str(), size(2.0).as_str()), ("144x96", "208x128"));
    }

    #[test]
    fn what_is_not_as_asked_is_not_taken() {
        for made in [video(56, 64, 32, 16.0), video(29, 128, 64, 16.0), Probe::default()] {
            let failure = twice().enlarged(&mut Script::making(made), "plain", 3600).unwrap_err();
            assert_eq!(failure.code, "not_enlarged");
            assert!(failure.message.contains("30 frames of 128x64"), "{}", failure.message);
        }
    }

    #[test]
    fn without_a_model_or_time_the_engine_is_not_asked() {
        let without = [
            (Upscale { model: None, ..twice() }, "upscale_model_name"),
            (Upscale { limit_seconds: Some(0), ..twice() }, "poll_timeout_upscale"),
        ];
        for (upscale, reason) in without {
            let mut host = Script::making(video(33, 128, 64, 16.0));
            let failure = upscale.enlarged(&mut host, "plain", 3600).unwrap_err();
            assert!(failure.message.contains(reason), "{}", failure.message);
            assert_eq!(host.asked, None);
        }
    }

    #[test]
    fn lengths_go_up_to_the_grid() {
        assert_eq!([1, 2, 5, 30, 98].map(whole_grid), [1, 5, 5, 33, 101]);
    }
}
