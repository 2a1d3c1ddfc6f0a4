//! ComfyUI tasks through the built binary, on the animatic side: workflows that tasks bring along, templates that serve a type,
//! and a template's life while the worker runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use enginehouse_tests::host::{Host, root, wait_for};
use enginehouse_tests::pictures;
use serde_json::{Value, json};

/// What ffprobe counts: codec type, width, height, rate and frames of the first stream.
fn facts(path: &Path) -> Value {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-of", "json", "-show_entries"])
        .arg("stream=codec_type,width,height,r_frame_rate,nb_read_frames,duration")
        .arg(path)
        .output()
        .expect("ffprobe runs");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON of ffprobe");
    answer["streams"][0].clone()
}

fn size_of(path: &Path) -> (u32, u32) {
    let picture = image::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (picture.width(), picture.height())
}

fn outputs(task: &Value) -> Vec<PathBuf> {
    let output = &task["output"];
    let extra = output["extra"].as_array().cloned().unwrap_or_default();
    let files = std::iter::once(output.clone()).chain(extra);
    files.map(|file| PathBuf::from(file["path"].as_str().unwrap_or_else(|| panic!("no file: {task}")))).collect()
}

fn picture(host: &Host, name: &str, width: u32, height: u32) -> PathBuf {
    let path = host.home().join("inputs").join(name);
    pictures::solid(width, height, [120, 90, 40]).save(&path).expect("a picture");
    path
}

fn template(host: &Host, file: &str) -> PathBuf {
    host.home().join("templates/comfyui").join(file)
}

/// A template that makes a picture out of nothing.
fn small(width: u32) -> Value {
    json!({
        "enginehouse": {
            "template": 1,
            "params": {"type": "object", "properties": {"height": {"type": "integer", "default": 32}}},
            "inputs": [{"param": "/height", "node": "1", "input": "height"}],
            "outputs": [{"name": "picture", "node": "2", "kind": "image", "width": width, "height": "/height"}]
        },
        "workflow": {
            "1": {"class_type": "EmptyImage", "inputs": {"width": width, "height": 0, "batch_size": 1, "color": 0}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "small"}}
        }
    })
}

#[test]
fn a_task_with_its_own_workflow_leaves_every_output_the_video_first() {
    let host = Host::new();
    picture(&host, "p.png", 60, 40);
    let workflow = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "placeholder.png"}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 90, "height": 0}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "still"}},
        "4": {"class_type": "EmptyImage", "inputs": {"width": 96, "height": 64, "batch_size": 9}},
        "5": {"class_type": "CreateVideo", "inputs": {"images": ["4", 0], "fps": 12}},
        "6": {"class_type": "SaveVideo", "inputs": {"video": ["5", 0], "filename_prefix": "film"}},
        "7": {"class_type": "EmptyAudio", "inputs": {"duration": 1.5}},
        "8": {"class_type": "SaveAudio", "inputs": {"audio": ["7", 0]}},
        "9": {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["4", 0], "fps": 6}},
        "10": {"class_type": "SaveWEBM", "inputs": {"images": ["4", 0], "fps": 8}},
        "11": {"class_type": "SaveText", "inputs": {"text": "x"}},
        "12": {"class_type": "SaveAnimatedPNG", "inputs": {"images": ["4", 0], "fps": 6, "filename_prefix": "apng"}}
    });
    let params = json!({"workflow": workflow.to_string(), "image_url": "p.png", "image_node_id": 1});
    let (code, task) = host.submit_and_run("comfy", &params);
    assert_eq!((code, &task["status"]), (0, &json!("Complete")), "{task}");
    let files = outputs(&task);
    assert_eq!(files.len(), 7, "{task}");
    let named = |part: &str| {
        let found = files.iter().find(|file| file.to_string_lossy().contains(part));
        found.unwrap_or_else(|| panic!("no {part} in {files:?}")).clone()
    };

    assert!(files[0].to_string_lossy().ends_with("film_00001.mp4"), "{files:?}");
    let film = facts(&files[0]);
    assert_eq!(
        (&film["width"], &film["height"], &film["nb_read_frames"], &film["r_frame_rate"]),
        (&json!(96), &json!(64), &json!("9"), &json!("12/1"))
    );
    // The loaded picture has 60x40: one side alone keeps its shape.
    assert_eq!(size_of(&named("still_00001.png")), (90, 60));
    let sound = facts(&named(".flac"));
    assert_eq!((&sound["codec_type"], &sound["duration"]), (&json!("audio"), &json!("1.500000")));
    let webm = facts(&named(".webm"));
    assert_eq!((&webm["nb_read_frames"], &webm["r_frame_rate"]), (&json!("9"), &json!("8/1")));
    assert_eq!(facts(&named("apng_00001.png"))["nb_read_frames"], json!("9"));
    let webp = std::fs::read(named(".webp")).expect("a file");
    assert_eq!(webp.windows(4).filter(|four| four == b"ANMF").count(), 9, "an animation of nine frames");
    assert!(std::fs::read_to_string(named(".txt")).expect("text").starts_with("animatic: "));
}

#[test]
fn two_runs_of_a_workflow_are_equal_byte_for_byte() {
    let host = Host::new();
    let workflow = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 5}},
        "2": {"class_type": "SaveWEBM", "inputs": {"images": ["1", 0], "fps": 8}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
        "4": {"class_type": "SaveAudioMP3", "inputs": {"audio": ["5", 0]}},
        "5": {"class_type": "EmptyAudio", "inputs": {"duration": 0.5}}
    });
    let digests = || {
        let (_, task) = host.submit_and_run("comfy", &json!({ "workflow": workflow }));
        let output = &task["output"];
        let extra = output["extra"].as_array().cloned().unwrap_or_default();
        let all: Vec<Value> = std::iter::once(output).chain(&extra).map(|file| file["sha256"].clone()).collect();
        assert!(all.iter().all(Value::is_string), "{task}");
        all
    };
    let first = digests();
    assert_eq!(first.len(), 7);
    assert_eq!(first, digests());
}

#[test]
fn what_is_wrong_with_a_comfy_task_is_told_before_anything_runs() {
    let host = Host::new();
    let node = json!({"1": {"class_type": "SaveImage", "inputs": {}}});
    for (params, error) in [
        (json!({}), "workflow_missing"),
        (json!({"workflow": "{half"}), "workflow_not_json"),
        (json!({"workflow": {"nodes": [], "links": []}}), "bad_workflow"),
        (json!({"workflow": node, "image_url": "a.png", "image_node_id": "7"}), "unknown_node"),
        (
            json!({"workflow": {"1": {"class_type": "X"}}, "image_url": "a.png", "image_node_id": "1"}),
            "node_without_inputs",
        ),
        (json!({"workflow": {"1": {"class_type": "EmptyImage", "inputs": {}}}}), "no_output"),
    ] {
        let (code, task) = host.submit_and_run("comfy", &params);
        assert_eq!((code, &task["error"]["code"]), (1, &json!(error)), "{params}: {task}");
    }
}

#[test]
fn the_shipped_templates_serve_their_types_in_a_new_home() {
    let host = Host::new();
    assert_eq!(host.route("picture_resize")["handler"]["name"], json!("picture_resize.json"));
    let listing = host.run(&["templates", "ls", "--json"]).ok().json();
    let types: Vec<&Value> =
        listing["serving"].as_array().expect("a list").iter().map(|served| &served["task_type"]).collect();
    assert_eq!(types, ["picture_resize", "video_resample"]);

    picture(&host, "p.png", 60, 40);
    for (params, size) in [
        (json!({"image": "p.png", "width": 200, "height": 100}), (200, 100)),
        (json!({"image": "p.png", "width": 30}), (30, 20)),
        (json!({"image": "p.png"}), (60, 40)),
    ] {
        let (code, task) = host.submit_and_run("picture_resize", &params);
        assert_eq!(code, 0, "{task}");
        assert_eq!(size_of(&outputs(&task)[0]), size, "{params}");
    }
    let (_, film) = host.submit_and_run("t2v", &json!({"prompt": "x", "resolution": "64x48", "video_length": 21}));
    let digest = format!("sha256:{}", film["output"]["sha256"].as_str().expect("a digest"));
    let params = json!({"video": {"$artifact": digest}, "fps": 8});
    let (code, task) = host.submit_and_run("video_resample", &params);
    assert_eq!(code, 0, "{task}");
    let got = facts(&outputs(&task)[0]);
    assert_eq!(
        (&got["width"], &got["height"], &got["nb_read_frames"], &got["r_frame_rate"]),
        (&json!(64), &json!(48), &json!("21"), &json!("8/1"))
    );
}

#[test]
fn params_that_do_not_fit_a_template_are_told_by_their_names() {
    let host = Host::new();
    picture(&host, "p.png", 60, 40);
    for (params, code, word) in [
        (json!({"width": 3}), "invalid_params", "image"),
        (json!({"image": "p.png", "width": 99999}), "invalid_params", "`/width`: 99999"),
        (json!({"image": "p.png", "widht": 3}), "invalid_params", "widht"),
        (json!({"image": 3}), "invalid_params", "`/image`"),
        (json!({"image": "absent.png"}), "input_not_found", "`/image`"),
    ] {
        let (_, task) = host.submit_and_run("picture_resize", &params);
        let message = task["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(word), "{params}: {task}");
        assert_eq!(task["error"]["code"], json!(code), "{params}: {task}");
    }
}

#[test]
fn a_template_is_dropped_in_broken_replaced_and_retired_while_the_worker_runs() {
    let host = Host::new();
    let _worker = host.start();
    let file = template(&host, "small.json");
    let width = || {
        let id = host.submit("small", &json!({}));
        let task = host.ended(&id);
        match task["status"].as_str() {
            Some("Complete") => Some(size_of(&outputs(&task)[0]).0),
            // Not served by the template: the type falls through to the other engine, which wants a prompt.
            _ => {
                assert_eq!(task["error"]["code"], json!("prompt_required"), "{task}");
                None
            }
        }
    };
    assert_eq!(width(), None);
    std::fs::write(&file, small(64).to_string()).expect("a template");
    wait_for("the template to serve its type", || width().filter(|width| *width == 64));
    // The log is the worker's own word that it has seen the change.
    let logged = |words: &str| {
        wait_for(words, || host.worker_log().contains(words).then_some(()));
    };

    std::fs::write(&file, "{ half").expect("a broken template");
    logged("no template that works");
    assert_eq!(width(), Some(64), "the version before it stays in service");
    let listing = host.run(&["templates", "ls"]).ok().stdout;
    assert!(listing.contains("not in service: `small.json` is no template that works"), "{listing}");
    assert!(listing.contains("stays in service in its place"), "{listing}");

    std::fs::write(&file, small(96).to_string()).expect("a template");
    wait_for("the new version to serve", || width().filter(|width| *width == 96));
    std::fs::remove_file(&file).expect("a template was there");
    logged("template retired");
    assert_eq!(width(), None);
}

#[test]
fn a_file_that_is_no_template_is_listed_with_what_is_wrong_with_it() {
    let host = Host::new();
    let bare = json!({"1": {"class_type": "SaveImage", "inputs": {}}});
    std::fs::write(template(&host, "bare.json"), bare.to_string()).expect("a file");
    let mut wrong = small(64);
    wrong["enginehouse"]["outputs"][0]["node"] = json!("9");
    std::fs::write(template(&host, "wrong.json"), wrong.to_string()).expect("a file");
    let listing = host.run(&["templates", "ls", "--json"]).ok().json();
    let reasons: Vec<&str> =
        listing["rejected"].as_array().expect("a list").iter().filter_map(|file| file["reason"].as_str()).collect();
    assert_eq!(reasons.len(), 2, "{listing}");
    assert!(reasons[0].contains("bare workflow"), "{}", reasons[0]);
    assert!(reasons[1].contains("`/enginehouse/outputs/0/node`: the workflow has no node 9"), "{}", reasons[1]);
    assert_eq!(host.route("bare")["handler"]["kind"], json!("wan2gp"));
}

#[test]
fn the_authors_guide_describes_the_shipped_templates_form() {
    let guide = std::fs::read_to_string(root().join("docs/TEMPLATES.md")).expect("docs/TEMPLATES.md");
    let members = ["template", "title", "description", "params", "inputs", "outputs", "requires", "licence", "like"];
    for member in members {
        assert!(guide.contains(&format!("`{member}`")), "{member} is not in the guide");
    }
    // Its example is a template that loads.
    let example = guide.split("```json").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    enginehouse::templates::Template::parse("example.json", example.as_bytes()).map(drop).expect("the example loads");
}
