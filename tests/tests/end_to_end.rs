//! The whole thing, through the built binary: the demo, a handler's life while the worker runs, the two-engine mode.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use enginehouse_tests::guests::component;
use enginehouse_tests::host::{Host, root, wait_for};
use enginehouse_tests::pictures;
use serde_json::{Value, json};

/// Promise for a changed file: in service within 1 s of being quiet. The tests wait ten times that.
const SERVING: std::time::Duration = std::time::Duration::from_secs(10);

/// Frames of one engine job that outlasts every ceiling by far.
const ENDLESS: u64 = 100_000;

fn travel(images: &[PathBuf], frames: u64, resolution: &str) -> Value {
    let segments = images.len() - 1;
    json!({"orchestrator_details": {
        "num_new_segments_to_generate": segments,
        "base_prompts_expanded": vec!["onwards"; segments],
        "negative_prompts_expanded": vec![""; segments],
        "segment_frames_expanded": vec![frames; segments],
        "frame_overlap_expanded": vec![4; segments - 1],
        "input_image_paths_resolved": images,
        "parsed_resolution_wh": resolution,
        "model_name": "vace_14B_cocktail_2_2",
        "model_type": "vace",
    }})
}

/// A home with the travel family and three pictures below its inputs.
fn travel_host() -> (Host, Vec<PathBuf>) {
    let host = Host::new();
    for name in ["travel_orchestrator", "travel_segment", "travel_stitch"] {
        host.install(&component(name));
    }
    let images = (0..3)
        .map(|i| {
            let path = host.home().join(format!("inputs/{i}.png"));
            pictures::solid(64, 48, [40 * i as u8 + 60, 90, 120]).save(&path).expect("a picture");
            path
        })
        .collect();
    (host, images)
}

fn submit_travel(host: &Host, images: &[PathBuf]) -> String {
    submit_travel_of(host, images, 17, "160x96")
}

/// Segments of so many frames.
fn submit_travel_of(host: &Host, images: &[PathBuf], frames: u64, resolution: &str) -> String {
    let file = host.home().join("travel.json");
    std::fs::write(&file, travel(images, frames, resolution).to_string()).expect("params written");
    let args = ["submit", "travel_orchestrator", "-f", file.to_str().expect("a path"), "--project", "p1"];
    host.run(&args).ok().stdout.trim().to_string()
}

/// Starts an engine job that has the engine until it is cancelled, and returns its task.
fn occupy_engine(host: &Host) -> String {
    let id = host.submit("t2v", &json!({"prompt": "x", "resolution": "640x384", "video_length": ENDLESS}));
    wait_for("the job to run", || host.task(&id)["progress"]["fraction"].as_f64().filter(|fraction| *fraction > 0.0));
    id
}

/// What lies in the folder of a task's engine jobs: each job, and when its result was written if it has one.
fn jobs(host: &Host, task: &str) -> BTreeMap<PathBuf, Option<SystemTime>> {
    let Ok(folder) = std::fs::read_dir(host.home().join("data/jobs").join(task)) else { return BTreeMap::new() };
    let job = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let written = std::fs::metadata(path.join("result.json")).and_then(|found| found.modified()).ok();
        (path, written)
    };
    folder.map(job).collect()
}

fn video_facts(path: &Path) -> (u64, u64, u64) {
    let output = std::process::Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v", "-of", "json"])
        .args(["-show_entries", "stream=width,height,nb_read_frames"])
        .arg(path)
        .output()
        .expect("ffprobe runs");
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON of ffprobe");
    let stream = &value["streams"][0];
    let frames = stream["nb_read_frames"].as_str().and_then(|n| n.parse().ok()).expect("a frame count");
    (frames, stream["width"].as_u64().expect("a width"), stream["height"].as_u64().expect("a height"))
}

#[test]
fn the_demo_ends_with_a_stitched_video_and_its_facts() {
    let host = Host::new();
    let dist = tempfile::tempdir().expect("a folder");
    for name in ["travel_orchestrator", "travel_segment", "travel_stitch"] {
        std::fs::copy(component(name), dist.path().join(format!("{name}.wasm"))).expect("copied");
    }
    let said = host.run(&["demo", "--plugins", dist.path().to_str().expect("a path")]).ok();
    let mut lines = said.stdout.lines();
    let video = PathBuf::from(lines.next().expect("a path"));
    assert!(video.starts_with(host.home().join("outputs/travel_orchestrator")), "{video:?}");
    // Three segments of 49 frames with two joins of 8: each but the first shows the 8 once more, and they fade into them.
    assert_eq!(video_facts(&video), (147, 640, 384));
    assert_eq!(lines.next(), Some("147 frames, 640x384, 16 frames a second"));
}

#[test]
fn the_demo_takes_the_pictures_that_people_have() {
    let host = Host::new();
    let dist = tempfile::tempdir().expect("a folder");
    for name in ["travel_orchestrator", "travel_segment", "travel_stitch"] {
        std::fs::copy(component(name), dist.path().join(format!("{name}.wasm"))).expect("copied");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    // Lying on its side, and turned upright by its EXIF data: the travel is portrait.
    pictures::jpeg_with_orientation(&pictures::solid(301, 203, [200, 60, 60]), 6, &file("turned.jpg"));
    pictures::with_alpha(333, 401).save(file("alpha.png")).expect("a picture");
    pictures::solid(97, 55, [30, 160, 90]).save(file("odd.webp")).expect("a picture");
    let mut args = vec!["demo", "--plugins", dist.path().to_str().expect("a path")];
    let paths: Vec<PathBuf> = ["turned.jpg", "alpha.png", "odd.webp"].iter().map(|n| file(n)).collect();
    args.extend(paths.iter().map(|p| p.to_str().expect("a path")));
    let said = host.run(&args).ok();
    let video = PathBuf::from(said.stdout.lines().next().expect("a path"));
    let (frames, width, height) = video_facts(&video);
    assert_eq!(frames, 98);
    assert!(height > width, "{width}x{height}");
}

#[test]
fn a_travel_has_a_thumbnail_and_is_enlarged_where_that_is_asked_for() {
    let (host, images) = travel_host();
    let mut params = travel(&images[..2], 10, "64x48");
    let more = json!({"upscale_factor": 2, "upscale_model_name": "t2v", "frame_overlap_expanded": []});
    let details = params["orchestrator_details"].as_object_mut().expect("an object");
    details.extend(more.as_object().expect("an object").clone());
    let file = host.home().join("travel.json");
    std::fs::write(&file, params.to_string()).expect("params written");
    let args =
        ["submit", "travel_orchestrator", "-f", file.to_str().expect("a path"), "--project", "p1", "--run", "--json"];
    let task = host.run(&args).ok().json();

    let output = &task["output"];
    let video = PathBuf::from(output["path"].as_str().expect("a path"));
    assert!(video.to_string_lossy().ends_with("_upscaled_2.0x.mp4"), "{video:?}");
    assert_eq!(video_facts(&video), (9, 128, 96));
    assert_eq!((&output["facts"]["upscaled"], &output["facts"]["frames"]), (&json!(true), &json!(9)), "{task}");
    let thumbnail = PathBuf::from(output["extra"][0]["path"].as_str().expect("a path"));
    let name = output["facts"]["thumbnail"].as_str().expect("a name");
    assert!(name.starts_with("thumb_") && thumbnail.to_string_lossy().ends_with(name), "{name}: {thumbnail:?}");
    let picture = image::open(&thumbnail).expect("a picture");
    assert_eq!((picture.width(), picture.height()), (128, 96));
}

#[test]
fn a_travel_goes_on_from_a_video_that_exists() {
    let (host, images) = travel_host();
    let (_, before) = host.submit_and_run("t2v", &json!({"prompt": "x", "resolution": "64x48", "video_length": 21}));
    let mut params = travel(&images, 17, "64x48");
    let details = params["orchestrator_details"].as_object_mut().expect("an object");
    // As an application names it that knows the task and not the file.
    details
        .insert("continue_from_video_resolved_path".into(), json!(format!("task:{}", before["id"].as_str().unwrap())));
    details.insert("frame_overlap_expanded".into(), json!([6, 8]));
    let file = host.home().join("travel.json");
    std::fs::write(&file, params.to_string()).expect("params written");
    let args =
        ["submit", "travel_orchestrator", "-f", file.to_str().expect("a path"), "--project", "p1", "--run", "--json"];
    let task = host.run(&args).json();
    // The second segment shows the 8 frames of its join once more; each join is faded over.
    let video = PathBuf::from(task["output"]["path"].as_str().expect("a path"));
    assert_eq!(video_facts(&video), (21 + 17 - 6 + (17 + 8) - 8, 64, 48), "{task}");
}

#[test]
fn a_frame_of_another_tasks_video_becomes_a_picture() {
    let host = Host::new();
    host.install(&component("extract_frame"));
    let clip = json!({"prompt": "x", "resolution": "64x48", "video_length": 9});
    let (_, clip) = host.submit_and_run("t2v", &clip);
    let ask = |index: i64| json!({"input_video_task_id": clip["id"], "frame_index": index});
    let (code, task) = host.submit_and_run("extract_frame", &ask(-1));
    assert_eq!((code, &task["output"]["facts"]["frame"]), (0, &json!(8)), "{task}");
    let path = PathBuf::from(task["output"]["path"].as_str().expect("a path"));
    assert!(path.to_string_lossy().ends_with("_frame_-1.png"), "{path:?}");
    let picture = image::open(&path).expect("a picture");
    assert_eq!((picture.width(), picture.height(), picture.color()), (64, 48, image::ColorType::Rgb8));

    let (code, task) = host.submit_and_run("extract_frame", &ask(9));
    assert_eq!((code, &task["error"]["code"]), (1, &json!("frame_outside_video")), "{task}");
}

#[test]
fn a_handler_is_replaced_retired_restored_and_survives_a_broken_file_while_the_worker_runs() {
    let (host, images) = travel_host();
    let _worker = host.start();
    let digest = || host.route("travel_stitch")["handler"]["digest"].as_str().map(String::from);
    let first = digest().expect("a plugin serves it");

    // Replaced: a component with other bytes and the same behaviour, as a new build is. The run in flight finishes.
    let running = submit_travel(&host, &images);
    let replacement = tempfile::tempdir().expect("a folder");
    let new = replacement.path().join("travel_stitch.wasm");
    std::fs::write(&new, with_note(&std::fs::read(component("travel_stitch")).expect("a component"), "second build"))
        .expect("written");
    let start = std::time::Instant::now();
    host.install(&new);
    let second = wait_for("the new version to serve", || digest().filter(|d| *d != first));
    let took = start.elapsed();
    println!("a changed file serves after {} ms", took.as_millis());
    assert!(took < SERVING, "{took:?}");
    let task = host.ended(&running);
    assert_eq!(task["status"], "Complete", "{task}");
    let task = host.ended(&submit_travel(&host, &images));
    let stitch = task["children"].as_array().expect("children").last().expect("a stitch").clone();
    assert_eq!(stitch["route"]["handler"]["digest"].as_str(), Some(second.as_str()), "{stitch}");
    assert_eq!(task["output"]["kind"], "file", "{task}");
    assert_eq!(video_facts(Path::new(task["output"]["path"].as_str().expect("a path"))), (34, 160, 96));

    // Broken: nothing changes, and it is said.
    std::fs::write(host.plugins().join("travel_stitch.wasm"), b"\0asm but not really").expect("written");
    wait_for("the broken file to be reported", || {
        let listed = host.run(&["plugin", "ls", "--json"]).ok().json();
        let rejected = listed["rejected"].as_array()?.first()?.clone();
        (rejected["file"] == "travel_stitch.wasm" && rejected["still_serving"] == second.as_str()).then_some(())
    });
    assert_eq!(digest(), Some(second.clone()));
    let task = host.ended(&submit_travel(&host, &images));
    assert_eq!(task["status"], "Complete", "{task}");

    // Retired: the type falls through to the engines, and says so. The run in flight finishes on its bytes.
    let running = submit_travel(&host, &images);
    wait_for("the stitch to be waited for", || {
        let task = host.task(&running);
        (task["children"].as_array()?.len() == 3).then_some(())
    });
    std::fs::remove_file(host.plugins().join("travel_stitch.wasm")).expect("deleted");
    let route = wait_for("the retirement", || {
        let route = host.route("travel_stitch");
        (route["handler"]["kind"] == "wan2gp").then_some(route)
    });
    assert!(route["reason"].as_str().is_some_and(|r| r.contains("travel_stitch")), "{route}");
    let id = host.submit("travel_stitch", &json!({}));
    let task = host.ended(&id);
    assert_eq!(task["status"], "Failed");
    assert_eq!(task["error"]["code"], "prompt_required", "{task}");
    let message = task["error"]["message"].as_str().expect("a message");
    assert!(message.contains("travel_stitch.wasm") && message.contains("prompt"), "{message}");
    // Queued when its handler went, this run's stitch is routed anew: it fails, and its parent with it.
    let task = host.ended(&running);
    assert!(task["status"] == "Complete" || task["error"]["code"] == "child_failed", "{task}");

    // Restored.
    host.install(&new);
    wait_for("the restoration", || (digest() == Some(second.clone())).then_some(()));
    let task = host.ended(&submit_travel(&host, &images));
    assert_eq!(task["status"], "Complete", "{task}");
}

#[test]
fn a_task_that_runs_while_its_handler_is_replaced_and_retired_finishes_on_its_version() {
    let host = Host::new();
    host.install(&component("waiter"));
    let _worker = host.start();
    let digest = || host.route("waiter")["handler"]["digest"].as_str().map(String::from);
    let first = digest().expect("a plugin serves it");

    // While the engine is occupied, the child cannot end, and the handler waits for it.
    let job = occupy_engine(&host);
    let id = host.submit("waiter", &json!({"prompt": "x", "resolution": "96x64", "video_length": 5}));
    wait_for("the handler to wait for its child", || (host.task(&id)["children"].as_array()?.len() == 1).then_some(()));

    let folder = tempfile::tempdir().expect("a folder");
    let new = folder.path().join("waiter.wasm");
    let bytes = std::fs::read(component("waiter")).expect("a component");
    std::fs::write(&new, with_note(&bytes, "second build")).expect("written");
    host.install(&new);
    wait_for("the new version to serve", || digest().filter(|digest| *digest != first));
    std::fs::remove_file(host.plugins().join("waiter.wasm")).expect("deleted");
    wait_for("the retirement", || (host.route("waiter")["handler"]["kind"] == "wan2gp").then_some(()));
    assert_eq!(host.task(&id)["status"], "In Progress");

    host.run(&["tasks", "cancel", &job]).ok();
    let task = host.ended(&id);
    assert_eq!((task["status"].as_str(), task["attempts"].as_u64()), (Some("Complete"), Some(1)), "{task}");
    assert_eq!(task["output"]["text"], "waited for: Complete", "{task}");
    assert_eq!(task["route"]["handler"]["digest"].as_str(), Some(first.as_str()), "{task}");
}

#[test]
fn a_result_whose_file_is_gone_is_shown_without_its_path() {
    let host = Host::new();
    let params = json!({"prompt": "x", "resolution": "96x64", "video_length": 5});
    let (_, task) = host.submit_and_run("t2v", &params);
    let (id, digest) = (task["id"].as_str().expect("an id"), task["output"]["sha256"].as_str().expect("a digest"));
    assert!(Path::new(task["output"]["path"].as_str().expect("a path")).is_file());
    std::fs::remove_file(host.home().join("data/artifacts/sha256").join(&digest[..2]).join(digest)).expect("deleted");
    let shown = host.task(id);
    assert_eq!((&shown["output"]["path"], &shown["output"]["uri"]), (&Value::Null, &Value::Null), "{shown}");
    assert_eq!((shown["status"].as_str(), &shown["output"]["sha256"]), (Some("Complete"), &json!(digest)), "{shown}");
}

#[test]
fn waiting_ends_when_the_worker_dies() {
    let host = Host::new();
    let mut worker = host.start();
    let params = ["-p", "prompt=x", "-p", "resolution=640x384", "-p", &format!("video_length={ENDLESS}")];
    let args = [&["submit", "t2v", "--wait"], params.as_slice()].concat();
    let waiting = host.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    wait_for("the task to run", || {
        (host.run(&["tasks", "ls", "--json"]).json()["tasks"][0]["status"] == "In Progress").then_some(())
    });
    worker.kill();
    let said = waiting.wait_with_output().expect("it ends");
    assert_eq!(said.status.code(), Some(69), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("enginehouse run"), "{said:?}");
}

#[test]
fn a_type_that_this_host_refuses_is_not_waited_for() {
    let host = Host::new();
    for how in ["--wait", "--run"] {
        let said = host.run(&["submit", "t2v", "-p", "prompt=x", how, "--set", "routing.refuse=[\"t2v\"]"]);
        assert_eq!(said.code, 69, "{said:?}");
        assert!(said.stderr.contains("routing.refuse"), "{said:?}");
    }
    assert_eq!(host.run(&["tasks", "ls", "--json"]).ok().json()["tasks"], json!([]));
}

#[test]
fn simple_mode_routes_everything_to_the_two_engines() {
    let (host, _) = travel_host();
    host.configure("[routing]\nmode = \"simple\"\n");
    let routes = host.run(&["route", "--all", "--json"]).ok().json();
    let routes = routes["routes"].as_array().expect("routes");
    assert!(routes.len() >= 35, "{}", routes.len());
    for route in routes {
        let kind = route["handler"]["kind"].as_str().expect("a kind");
        // ComfyUI has its own type and those with a template.
        let of_comfyui = route["task_type"] == "comfy" || route["handler"]["name"].is_string();
        assert_eq!(kind, if of_comfyui { "comfyui" } else { "wan2gp" }, "{route}");
    }
    let (code, task) = host.submit_and_run("travel_stitch", &json!({}));
    assert_eq!((code, task["error"]["code"].as_str()), (1, Some("prompt_required")), "{task}");
    let (code, task) =
        host.submit_and_run("t2v", &json!({"prompt": "a quiet harbour", "resolution": "96x64", "video_length": 5}));
    assert_eq!((code, task["status"].as_str()), (0, Some("Complete")), "{task}");
    assert_eq!(task["route"]["handler"]["kind"], "wan2gp");
    assert_eq!(video_facts(Path::new(task["output"]["path"].as_str().expect("a path"))), (5, 96, 64));
}

#[test]
fn a_new_task_type_routes_itself_and_a_list_entry_moves_it() {
    let host = Host::new();
    assert_eq!(host.route("some_new_type")["handler"]["kind"], "wan2gp");
    let said = host.run(&["route", "some_new_type", "--json", "--set", "routing.comfy_task_types=[\"some_new_type\"]"]);
    assert_eq!(said.ok().json()["handler"]["kind"], "comfyui");
}

#[test]
fn waiting_without_a_worker_ends_within_two_seconds_and_says_what_to_start() {
    let host = Host::new();
    let start = std::time::Instant::now();
    let said = host.run(&["submit", "t2v", "-p", "prompt=x", "--wait"]);
    assert_eq!(said.code, 69);
    assert!(said.stderr.contains("enginehouse run"), "{said:?}");
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    // The task is not lost: the next worker takes it.
    let id = host.run(&["tasks", "ls", "--json"]).ok().json()["tasks"][0]["id"].as_str().expect("an id").to_string();
    host.run(&["run", "--once", "--set", "media.run_seconds=600"]).ok();
    assert_eq!(host.task(&id)["status"], "Complete");
}

#[test]
fn a_killed_worker_loses_nothing_and_does_nothing_twice() {
    let (host, images) = travel_host();
    let mut worker = host.start();
    // Long enough to be met while it runs.
    let id = submit_travel_of(&host, &images, 161, "640x384");
    let segments: Vec<String> = wait_for("the segments", || {
        let task = host.task(&id);
        let children = task["children"].as_array()?.iter().filter(|child| child["task_type"] == "travel_segment");
        let ids: Vec<String> = children.filter_map(|child| child["id"].as_str().map(String::from)).collect();
        (ids.len() == 2).then_some(ids)
    });
    wait_for("one job finished and the other running", || {
        let jobs: Vec<_> = segments.iter().flat_map(|segment| jobs(&host, segment).into_values()).collect();
        (jobs.iter().any(Option::is_some) && jobs.iter().any(Option::is_none)).then_some(())
    });
    worker.kill();
    // Looked at when nobody writes any more.
    let before: Vec<_> = segments.iter().map(|segment| jobs(&host, segment)).collect();
    assert!(before.iter().flat_map(BTreeMap::values).any(Option::is_none), "no job was running: {before:?}");
    assert!(before.iter().flat_map(BTreeMap::values).any(Option::is_some), "no job was finished: {before:?}");
    let _next = host.start();
    let task = host.ended(&id);
    assert_eq!(task["status"], "Complete", "{task}");
    for (segment, before) in segments.iter().zip(before) {
        let after = jobs(&host, segment);
        assert_eq!(after.len(), 1, "one segment, one job: {after:?}");
        for (job, written) in before {
            assert!(written.is_none() || after.get(&job) == Some(&written), "{} was done again", job.display());
        }
    }
    let children = task["children"].as_array().expect("children");
    assert_eq!(children.len(), 3, "{children:?}");
    for child in children {
        assert_eq!((child["status"].as_str(), child["attempts"].as_u64()), (Some("Complete"), Some(1)), "{child}");
    }
    assert_eq!(video_facts(Path::new(task["output"]["path"].as_str().expect("a path"))), (322, 640, 384));
}

#[test]
fn a_terminated_worker_finishes_what_runs_and_takes_nothing_new() {
    let host = Host::new();
    let mut worker = host.start();
    let params = json!({"prompt": "a harbour", "resolution": "320x192", "video_length": 49});
    let running = host.submit("t2v", &params);
    wait_for("the first task to run", || (host.task(&running)["status"] == "In Progress").then_some(()));
    let later: Vec<String> = (0..4).map(|_| host.submit("t2v", &params)).collect();
    assert_eq!(worker.terminate(), 0);
    assert_eq!(host.task(&running)["status"], "Complete");
    assert_eq!(host.task(later.last().expect("tasks"))["status"], "Queued");
}

#[test]
fn cancelling_stops_the_handler_and_its_engine_job() {
    let (host, images) = travel_host();
    let _worker = host.start();
    let job = occupy_engine(&host);
    let id = submit_travel(&host, &images);
    wait_for("a segment to wait for the engine", || {
        host.task(&id)["children"].as_array()?.iter().any(|c| c["status"] == "In Progress").then_some(())
    });
    host.run(&["tasks", "cancel", &id, &job]).ok();
    assert_eq!(host.task(&job)["status"], "Cancelled");
    let task = host.task(&id);
    assert_eq!(task["status"], "Cancelled");
    for child in task["children"].as_array().expect("children") {
        assert!(["Cancelled", "Complete"].contains(&child["status"].as_str().expect("a status")), "{child}");
    }
    // The lane is free again: another task goes through, long before the job would have ended by itself.
    let after = host.submit("t2v", &json!({"prompt": "x", "resolution": "96x64", "video_length": 5}));
    assert_eq!(host.ended(&after)["status"], "Complete");
    assert_eq!(host.run(&["tasks", "cancel", &after]).ok().text(), format!("{after} was Complete already"));
}

#[test]
fn the_repository_builds_its_own_components_with_one_command() {
    let out = tempfile::tempdir().expect("a folder");
    let host = Host::new();
    let said = host
        .run(&[
            "plugin",
            "build",
            "noop",
            "--dir",
            root().to_str().expect("a path"),
            "--out",
            out.path().to_str().expect("a path"),
            "--json",
        ])
        .ok();
    let built = said.json()["components"][0].as_str().expect("a path").to_string();
    assert!(Path::new(&built).ends_with("noop.wasm"), "{built}");
    host.install(Path::new(&built));
    assert_eq!(host.route("noop")["handler"]["name"], "noop");
}

/// The same component with a custom section more: other bytes, same behaviour.
fn with_note(component: &[u8], note: &str) -> Vec<u8> {
    let name = b"note";
    let mut bytes = component.to_vec();
    let size = 1 + name.len() + note.len();
    bytes.push(0);
    bytes.push(u8::try_from(size).expect("a short note"));
    bytes.push(u8::try_from(name.len()).expect("a short name"));
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(note.as_bytes());
    bytes
}
