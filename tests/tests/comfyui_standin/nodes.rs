//! What the node classes make is real: pictures of the right size and colour, videos with the right frames and sound.

use std::process::Command;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use crate::http::{ask, form};
use crate::program::Program;

async fn launched() -> Program {
    let mut program = Program::new();
    program.launch().await;
    program
}

/// Runs a graph to its good end; gives the outputs.
async fn outputs(program: &Program, graph: Value) -> Value {
    let id = program.submit(&graph, None).await;
    let record = program.record(&id).await;
    assert_eq!(record["status"]["status_str"], "success", "{record}");
    record["outputs"].clone()
}

fn saved(program: &Program, outputs: &Value, node: &str, key: &str) -> std::path::PathBuf {
    let item = &outputs[node][key][0];
    program.output(item["subfolder"].as_str().unwrap(), item["filename"].as_str().unwrap())
}

/// Frames, frames per second, whether there is sound.
fn facts(file: &std::path::Path) -> (u64, String, bool) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-show_streams", "-of", "json"])
        .arg(file)
        .output()
        .unwrap();
    let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
    let streams = facts["streams"].as_array().unwrap();
    let video = streams.iter().find(|stream| stream["codec_type"] == "video").unwrap();
    let frames = video["nb_read_frames"].as_str().unwrap().parse().unwrap();
    let sound = streams.iter().any(|stream| stream["codec_type"] == "audio");
    (frames, video["avg_frame_rate"].as_str().unwrap().to_string(), sound)
}

#[tokio::test]
async fn an_uploaded_picture_is_scaled_cropped_and_inverted() {
    let program = launched().await;
    let mut picture = RgbImage::from_pixel(40, 20, Rgb([200, 0, 0]));
    for x in 10..30 {
        for y in 0..20 {
            picture.put_pixel(x, y, Rgb([0, 100, 0]));
        }
    }
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let fields = [("image", Some("p.png"), png.get_ref().as_slice()), ("subfolder", None, b"sub".as_slice())];
    let (kind, body) = form(&fields);
    let headers = [("Content-Type".to_string(), kind)];
    let answer = ask(program.address, "POST", "/upload/image", &headers, &body).await.unwrap();
    assert_eq!(answer.json(), json!({"name": "p.png", "subfolder": "sub", "type": "input"}));
    for method in ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"] {
        let graph = json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "sub/p.png"}},
            "2": {"class_type": "ImageScale", "inputs": {
                "image": ["1", 0], "upscale_method": method, "width": 10, "height": 10, "crop": "center"}},
            "3": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "scaled"}},
        });
        let outputs = outputs(&program, graph).await;
        let made = image::open(saved(&program, &outputs, "4", "images")).unwrap().to_rgb8();
        assert_eq!(made.dimensions(), (10, 10), "{method}");
        assert_eq!(made.get_pixel(5, 5), &Rgb([255, 155, 255]), "{method}: the middle, which is green, inverted");
    }
    let graph = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "sub/p.png"}},
        "2": {"class_type": "ImageScaleBy", "inputs": {"image": ["1", 0], "upscale_method": "area", "scale_by": 0.5}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "by"}},
        "4": {"class_type": "ImageScale", "inputs": {
            "image": ["1", 0], "upscale_method": "area", "width": 0, "height": 60, "crop": "disabled"}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "follows"}},
    });
    let outputs = outputs(&program, graph).await;
    assert_eq!(image::image_dimensions(saved(&program, &outputs, "3", "images")).unwrap(), (20, 10));
    assert_eq!(image::image_dimensions(saved(&program, &outputs, "5", "images")).unwrap(), (120, 60));
}

#[tokio::test]
async fn a_video_goes_through_its_parts_and_becomes_one_of_another_rate() {
    let program = launched().await;
    let made = outputs(
        &program,
        json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 33, "height": 16, "batch_size": 6, "color": 16711680}},
            "2": {"class_type": "EmptyAudio", "inputs": {"duration": 0.75, "sample_rate": 44100, "channels": 2}},
            "3": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0, "audio": ["2", 0]}},
            "4": {"class_type": "SaveVideo", "inputs": {
                "video": ["3", 0], "filename_prefix": "v", "format": "mp4", "format.codec": "h264"}},
        }),
    )
    .await;
    let file = saved(&program, &made, "4", "images");
    assert_eq!(made["4"]["animated"], json!([true]));
    assert_eq!(facts(&file), (6, "8/1".to_string(), true));

    std::fs::copy(&file, program.folder("input").join("in.mp4")).unwrap();
    let again = outputs(
        &program,
        json!({
            "1": {"class_type": "LoadVideo", "inputs": {"file": "in.mp4"}},
            "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
            "3": {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "fps": 24.0, "audio": ["2", 1]}},
            "4": {"class_type": "SaveVideo", "inputs": {"video": ["3", 0], "filename_prefix": "again", "format": "auto"}},
            "5": {"class_type": "PreviewAny", "inputs": {"source": ["2", 2]}},
            "6": {"class_type": "SaveAudio", "inputs": {"audio": ["2", 1], "filename_prefix": "sound"}},
            "7": {"class_type": "SaveVideo", "inputs": {"video": ["1", 0], "filename_prefix": "copy", "format": "mkv"}},
        }),
    )
    .await;
    assert_eq!(facts(&saved(&program, &again, "4", "images")), (6, "24/1".to_string(), true));
    assert_eq!(facts(&saved(&program, &again, "7", "images")), (6, "8/1".to_string(), true));
    assert_eq!(again["5"]["text"], json!(["8.0"]));
    assert_eq!(again["6"]["audio"][0]["filename"], "sound_00001.flac");
}

#[tokio::test]
async fn a_prefix_that_leads_outside_fails_the_node_and_one_with_marks_is_filled_in() {
    let program = launched().await;
    let graph = |prefix: &str| {
        json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 12, "height": 7, "batch_size": 1, "color": 0}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
        })
    };
    let id = program.submit(&graph("../../x"), None).await;
    let record = program.record(&id).await;
    assert_eq!(record["status"]["status_str"], "error");
    assert_eq!(record["status"]["messages"][2][0], "execution_error");
    let made = outputs(&program, graph("f/%width%x%height%")).await;
    let item = json!({"filename": "12x7_00001_.png", "subfolder": "f", "type": "output"});
    assert_eq!(made["2"]["images"][0], item);
}

#[tokio::test]
async fn equal_nodes_of_one_graph_run_once() {
    let program = launched().await;
    let save =
        |from: &str| json!({"class_type": "SaveImage", "inputs": {"images": [from, 0], "filename_prefix": "twin"}});
    let empty = json!({"class_type": "EmptyImage", "inputs": {"width": 4, "height": 4, "batch_size": 1, "color": 9}});
    let made = outputs(&program, json!({"1": empty, "2": save("1"), "3": save("1")})).await;
    assert_eq!(made["2"], made["3"]);
    assert_eq!(program.json("/standin/seen").await["nodes"], json!({"EmptyImage": 1, "SaveImage": 1}));
}

#[tokio::test]
async fn results_are_known_to_the_next_prompt_only() {
    let program = launched().await;
    let graph = |colour: u32| {
        json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 4, "height": 4, "batch_size": 1, "color": colour}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": format!("c{colour}")}},
        })
    };
    let mut known = Vec::new();
    for colour in [1, 1, 2, 1] {
        let id = program.submit(&graph(colour), None).await;
        known.push(program.record(&id).await["status"]["messages"][1][1]["nodes"].clone());
    }
    assert_eq!(known, [json!([]), json!(["1", "2"]), json!([]), json!([])]);
}

#[tokio::test]
async fn pictures_are_blended_by_mode_and_factor() {
    let program = launched().await;
    let empty = |colour: u32| json!({"class_type": "EmptyImage", "inputs": {"width": 4, "height": 4, "batch_size": 1, "color": colour}});
    let cases = [
        ("normal", 1.0, [0x40, 0x80, 0xff]),
        ("normal", 0.0, [0x80, 0x80, 0x80]),
        ("multiply", 1.0, [0x20, 0x40, 0x80]),
        ("screen", 1.0, [0xa0, 0xc0, 0xff]),
        ("difference", 1.0, [0x40, 0x00, 0x00]),
    ];
    for (mode, factor, wanted) in cases {
        let graph = json!({
            "1": empty(0x0080_8080),
            "2": empty(0x0040_80ff),
            "3": {"class_type": "ImageBlend", "inputs": {
                "image1": ["1", 0], "image2": ["2", 0], "blend_factor": factor, "blend_mode": mode}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "blend"}},
        });
        let outputs = outputs(&program, graph).await;
        let made = image::open(saved(&program, &outputs, "4", "images")).unwrap().to_rgb8();
        let near = made.get_pixel(1, 1).0.iter().zip(wanted).all(|(one, other)| one.abs_diff(other) <= 1);
        assert!(near, "{mode} by {factor}: {:?} came, {wanted:?} was meant", made.get_pixel(1, 1));
    }
}
