//! What is promised about tasks that end at ComfyUI. Each case makes its own host; times are generous, because a real
//! server takes half a minute to start on a small machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use enginehouse_tests::host::{Host, wait_for};
use enginehouse_tests::pictures;
use serde_json::{Value, json};

use crate::place::{Place, engine_pid, given_to_owned, kill, lives};

/// Steps of a prompt that runs until something happens to it.
pub const LONG: u64 = 100_000;

/// A picture that goes through `steps` steps of a twentieth of a second and is saved. The server's cache never knows it.
pub fn stepped(steps: u64, nonce: u64) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
        "2": {"class_type": "ProbeSteps",
              "inputs": {"image": ["1", 0], "steps": steps, "delay": 0.05, "preview": true, "nonce": nonce}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "stepped"}},
    })
}

pub fn submit(host: &Host, workflow: &Value) -> String {
    host.submit("comfy", &json!({ "workflow": workflow }))
}

/// Waits until a step of the task's prompt was reported.
pub fn runs(host: &Host, task: &str) {
    wait_for("a step of the prompt", || {
        let progress = host.task(task)["progress"].clone();
        progress["message"].as_str().filter(|message| message.contains("ProbeSteps")).map(|_| ())
    });
}

pub fn complete(host: &Host, task: &str) -> Value {
    let task = host.ended(task);
    assert_eq!(task["status"], "Complete", "{task:#}\n{}", host.worker_log());
    task
}

pub fn failed(host: &Host, task: &str) -> Value {
    let task = host.ended(task);
    assert_eq!(task["status"], "Failed", "{task:#}");
    task
}

/// Names of a task's files, the main one first.
pub fn names(task: &Value) -> Vec<String> {
    let output = &task["output"];
    let extra = output["extra"].as_array().cloned().unwrap_or_default();
    std::iter::once(output).chain(&extra).filter_map(|file| file["name"].as_str().map(String::from)).collect()
}

/// Where the task's files were linked to for people.
fn outputs(host: &Host, task_type: &str) -> Vec<PathBuf> {
    let folder = host.home().join("outputs").join(task_type);
    let files = std::fs::read_dir(folder).into_iter().flatten();
    files.map(|file| file.expect("an entry").path()).collect()
}

fn with_extension<'a>(files: &'a [PathBuf], extension: &str) -> Vec<&'a Path> {
    files.iter().map(PathBuf::as_path).filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

/// Width, height, frames and rate of a video.
fn video(path: &Path) -> (u64, u64, u64, String) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v", "-of", "json"])
        .args(["-show_entries", "stream=width,height,nb_read_frames,avg_frame_rate"])
        .arg(path)
        .output()
        .expect("ffprobe runs");
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON of ffprobe");
    let stream = &value["streams"][0];
    let number = |key: &str| stream[key].as_u64().expect("a number");
    let frames = stream["nb_read_frames"].as_str().and_then(|n| n.parse().ok()).expect("a frame count");
    (number("width"), number("height"), frames, stream["avg_frame_rate"].as_str().expect("a rate").to_string())
}

pub fn a_workflow_gives_its_pictures_its_video_and_its_audio(place: &Place) {
    let host = place.host();
    let _worker = host.start();
    let task = submit(
        &host,
        &json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 3, "color": 255}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "sub/picture"}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
            "4": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
            "5": {"class_type": "SaveVideo",
                  "inputs": {"video": ["4", 0], "filename_prefix": "clip", "format": "mp4", "codec": "h264"}},
            "6": {"class_type": "EmptyAudio", "inputs": {"duration": 0.5, "sample_rate": 44100, "channels": 2}},
            "7": {"class_type": "SaveAudio", "inputs": {"audio": ["6", 0], "filename_prefix": "sound"}},
        }),
    );
    let task = complete(&host, &task);
    let names = names(&task);
    assert!(names[0].starts_with("clip") && names[0].ends_with(".mp4"), "the video is the main output: {names:?}");
    assert_eq!(names.len(), 5, "three pictures, a video and a sound, and no preview: {names:?}");
    let files = outputs(&host, "comfy");
    assert_eq!((with_extension(&files, "png").len(), with_extension(&files, "flac").len()), (3, 1), "{files:?}");
    let (width, height, frames, rate) = video(with_extension(&files, "mp4")[0]);
    assert_eq!((width, height, frames, rate.as_str()), (64, 48, 3, "8/1"));
    let picture = image::open(with_extension(&files, "png")[0]).expect("a picture");
    assert_eq!((picture.width(), picture.height()), (64, 48));
    // Nothing of the job is left in the server's folders.
    for folder in ["input", "output"] {
        let left = host.home().join("data/engines/comfyui").join(folder).join("enginehouse");
        let left = std::fs::read_dir(left).into_iter().flatten().count();
        assert_eq!(left, 0, "{folder}");
    }
}

pub fn a_failing_node_is_named_with_what_it_said(place: &Place) {
    let host = place.host();
    let _worker = host.start();
    let task = submit(
        &host,
        &json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
            "2": {"class_type": "ProbeFail", "inputs": {"image": ["1", 0], "kind": "value", "nonce": 7}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "never"}},
        }),
    );
    let task = failed(&host, &task);
    let (code, message) = (&task["error"]["code"], task["error"]["message"].as_str().expect("a message"));
    assert_eq!(code, "node_failed", "{task:#}");
    assert!(message.contains("2 (ProbeFail)") && message.contains("ValueError"), "{message}");
    assert_eq!(task["attempts"], 1, "it would fail the same way again");
    // The server goes on.
    let next = submit(&host, &stepped(2, 70));
    complete(&host, &next);
}

pub fn a_cancelled_task_stops_its_own_prompt_and_no_other(place: &Place) {
    let (server, host) = place.operated();
    let _worker = host.start();
    // Ours waits behind somebody else's, and is cancelled there.
    let foreign = server.foreign(&stepped(100, 1));
    wait_for("the foreign prompt to run", || server.queue().0.contains(&foreign).then_some(()));
    let task = submit(&host, &stepped(LONG, 2));
    wait_for("ours to wait", || (server.queue().1.len() == 1).then_some(()));
    host.run(&["tasks", "cancel", &task]).ok();
    assert_eq!(host.ended(&task)["status"], "Cancelled");
    wait_for("ours to be gone", || server.queue().1.is_empty().then_some(()));
    assert_eq!(server.ended(&foreign), "success");
    // Ours runs, somebody else's waits behind it.
    let task = submit(&host, &stepped(LONG, 3));
    runs(&host, &task);
    let foreign = server.foreign(&stepped(2, 4));
    host.run(&["tasks", "cancel", &task]).ok();
    assert_eq!(host.ended(&task)["status"], "Cancelled");
    assert_eq!(server.ended(&foreign), "success");
    wait_for("the queue to be empty", || (server.queue() == (Vec::new(), Vec::new())).then_some(()));
}

pub fn an_invalid_workflow_is_refused_with_the_place_of_the_error(place: &Place) {
    let host = place.host();
    let _worker = host.start();
    let too_high = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 999_999, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    });
    let unknown = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
        "2": {"class_type": "NoSuchNodeClass", "inputs": {"images": ["1", 0]}},
    });
    for (workflow, code, words) in [
        (too_high, "bad_workflow", vec!["1 (EmptyImage)", "workflow/1/inputs/height", "16384"]),
        (unknown, "node_missing", vec!["NoSuchNodeClass", "node 2"]),
    ] {
        let task = submit(&host, &workflow);
        let task = failed(&host, &task);
        let message = task["error"]["message"].as_str().expect("a message");
        assert_eq!(task["error"]["code"], code, "{message}");
        for word in words {
            assert!(message.contains(word), "{word} in {message}");
        }
    }
}

pub fn a_server_killed_in_mid_run_gets_the_job_again(place: &Place) {
    let host = place.host();
    let _worker = host.start();
    let task = submit(&host, &stepped(60, 5));
    runs(&host, &task);
    let pid = engine_pid(&host);
    kill(pid);
    let task = complete(&host, &task);
    assert_eq!(task["attempts"], 1, "the same attempt");
    assert_ne!(engine_pid(&host), pid, "another server");
    assert_eq!(given_to_owned(&host), 2, "submitted again, once");
}

pub fn a_slow_start_is_waited_for_and_told(place: &Place) {
    place.faults(&json!({"start_delay_s": 3.0}));
    let host = place.host();
    let _worker = host.start();
    let task = submit(&host, &stepped(2, 6));
    wait_for("the start to be told", || {
        let message = host.task(&task)["progress"]["message"].as_str().unwrap_or_default().to_string();
        (message.contains("starting ComfyUI") && message.contains('s')).then_some(())
    });
    complete(&host, &task);
    let log = host.run(&["tasks", "logs", &task]).ok().stdout;
    assert!(log.contains("starting ComfyUI"), "{log}");
}

pub fn two_template_types_take_turns(place: &Place) {
    let host = place.host();
    let picture = host.home().join("inputs/picture.png");
    pictures::solid(64, 48, [200, 90, 30]).save(&picture).expect("a picture");
    let clip = host.home().join("inputs/clip.mp4");
    enginehouse_tests::numbered::ffmpeg("-f lavfi -i testsrc=size=64x48:rate=8:duration=2 -pix_fmt yuv420p", &clip)
        .expect("a video");
    let _worker = host.start();
    let mut tasks = Vec::new();
    for turn in 1..=2 {
        let size = json!({"image": picture, "width": 32 * turn, "height": 24 * turn});
        tasks.push(host.submit("picture_resize", &size));
        tasks.push(host.submit("video_resample", &json!({"video": clip, "fps": 4 * turn})));
    }
    for task in &tasks {
        complete(&host, task);
    }
    let pictures = outputs(&host, "picture_resize");
    let mut sizes: Vec<u32> = pictures.iter().map(|path| image::open(path).expect("a picture").width()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [32, 64]);
    let mut rates: Vec<String> = outputs(&host, "video_resample").iter().map(|path| video(path).3).collect();
    rates.sort_unstable();
    assert_eq!(rates, ["4/1", "8/1"]);
}

pub fn a_prompt_of_an_operators_server_is_found_again_after_a_restart_of_the_host(place: &Place) {
    let (server, host) = place.operated();
    let mut worker = host.start();
    // The server keeps numbers as its nodes take them: what it has is not what it was given, and is the same prompt.
    let mut workflow = stepped(120, 8);
    workflow["2"]["inputs"]["steps"] = json!("120");
    workflow["1"]["inputs"]["width"] = json!(64.0);
    let task = submit(&host, &workflow);
    runs(&host, &task);
    worker.kill();
    assert_eq!(server.queue().0.len(), 1, "the prompt goes on without its host");
    let _worker = host.start();
    let task = complete(&host, &task);
    assert_eq!(task["attempts"], 1);
    assert_eq!(server.given(), 1, "found again, not submitted again");
}

pub fn a_running_job_of_an_owned_server_is_submitted_again_once_after_a_restart_of_the_host(place: &Place) {
    let host = place.host();
    let mut worker = host.start();
    let task = submit(&host, &stepped(60, 9));
    runs(&host, &task);
    let pid = engine_pid(&host);
    worker.kill();
    wait_for("the server to be gone with its host", || (!lives(pid)).then_some(()));
    let _worker = host.start();
    let task = complete(&host, &task);
    assert_eq!(task["attempts"], 1);
    assert_eq!(given_to_owned(&host), 2, "once by each host");
}

pub fn a_deaf_node_costs_the_server_its_life_and_nobody_else_anything(place: &Place) {
    let host = place.host_with("cancel_grace_seconds = 2\n");
    let _worker = host.start();
    let warm = submit(&host, &stepped(2, 10));
    complete(&host, &warm);
    let pid = engine_pid(&host);
    let deaf = submit(
        &host,
        &json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
            "2": {"class_type": "ProbeDeaf", "inputs": {"image": ["1", 0], "seconds": 500.0, "nonce": 11}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "never"}},
        }),
    );
    wait_for("the deaf node to run", || {
        let message = host.task(&deaf)["progress"]["message"].as_str().unwrap_or_default().to_string();
        message.contains("ProbeDeaf").then_some(())
    });
    let next = submit(&host, &stepped(2, 12));
    host.run(&["tasks", "cancel", &deaf]).ok();
    assert_eq!(host.ended(&deaf)["status"], "Cancelled");
    complete(&host, &next);
    assert!(!lives(pid), "the server that did not listen is gone");
}

pub fn files_of_a_task_reach_the_nodes_that_load_them(place: &Place) {
    // Copied for an owned server, uploaded to one that somebody else runs.
    let owned = place.host();
    let (_server, elsewhere) = place.operated();
    for host in [owned, elsewhere] {
        let picture = host.home().join("inputs/grün.png");
        pictures::solid(40, 30, [0, 200, 0]).save(&picture).expect("a picture");
        let _worker = host.start();
        let task = host.submit("picture_resize", &json!({"image": picture, "width": 80, "height": 60}));
        complete(&host, &task);
        let files = outputs(&host, "picture_resize");
        let picture = image::open(&files[0]).expect("a picture").to_rgb8();
        assert_eq!(picture.dimensions(), (80, 60));
        assert_eq!(picture.get_pixel(40, 30).0, [0, 200, 0]);
    }
}
