//! What the server that plays recordings promises, each on a small recording of its own.

// Tests say what they expect by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use enginehouse_tests::plain_client::{Answer, Ear, Heard, ask};
use enginehouse_tests::recordings::{
    ANOTHER, RECORDED, answered, asked, begun, closed, connect, graph, note, recording, run, said, saved, submitted,
    succeeded,
};
use enginehouse_tests::replay::{Options, Replay};
use serde_json::{Value, json};

/// Ids as the client chooses them.
const MINE: &str = "c0ffee00-0000-5000-8000-000000000001";
const MINE_TOO: &str = "c0ffee00-0000-5000-8000-000000000002";

/// Generous: how long anything may take to come.
const SOON: Duration = Duration::from_secs(20);
/// How long nothing may come where nothing must.
const QUIET: Duration = Duration::from_millis(400);

async fn play(recording: &Value) -> Replay {
    Replay::start(recording, Options::default()).await.expect("the recording is one")
}

async fn play_with(recording: &Value, options: Options) -> Replay {
    Replay::start(recording, options).await.expect("the recording is one")
}

// The client.

async fn get(replay: &Replay, path: &str) -> Answer {
    ask(replay.address, "GET", path, None).await.expect("an answer")
}

async fn post(replay: &Replay, path: &str, body: Value) -> Answer {
    ask(replay.address, "POST", path, Some(&body)).await.expect("an answer")
}

async fn submit(replay: &Replay, id: &str, graph: &Value) -> Answer {
    post(replay, "/prompt", json!({"prompt": graph, "prompt_id": id, "client_id": "me"})).await
}

/// Everything that is heard until a frame of this kind that names the prompt, that frame included.
async fn hear_until(ear: &mut Ear, kind: &str, is: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut heard = Vec::new();
    loop {
        match ear.hear(SOON).await {
            Heard::Text(frame) => {
                let last = frame["type"] == kind && is(&frame["data"]);
                heard.push(frame);
                if last {
                    return heard;
                }
            }
            Heard::Binary(_) => {}
            end => panic!("{end:?} before {kind}, after {heard:#?}"),
        }
    }
}

async fn hear_the_end(ear: &mut Ear) -> Vec<Value> {
    hear_until(ear, "executing", |data| data["node"].is_null() && data["prompt_id"].is_string()).await
}

/// The record, once it is there.
async fn record(replay: &Replay, id: &str) -> Value {
    let until = std::time::Instant::now() + SOON;
    loop {
        let record = get(replay, &format!("/history/{id}")).await.json()[id].clone();
        if record.is_object() {
            return record;
        }
        assert!(std::time::Instant::now() < until, "no record came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// Submissions.

#[tokio::test]
async fn a_submission_is_known_by_its_graph_and_the_clients_id_stands_everywhere() {
    let told = run(RECORDED, "me", &graph(1, "recorded"), "x_00001_.png");
    let replay = play(&recording([vec![connect("ws", "me")], told])).await;
    let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
    let first = ear.hear(SOON).await;
    assert!(matches!(&first, Heard::Text(frame) if frame["data"]["sid"] == "me"), "{first:?}");
    let answer = submit(&replay, MINE, &graph(1, "of/my/own")).await;
    assert_eq!(answer.json(), json!({"prompt_id": MINE, "number": 7, "node_errors": {}}));
    let heard = hear_the_end(&mut ear).await;
    assert_eq!(heard.len(), 8);
    assert!(heard.iter().all(|frame| frame["data"]["prompt_id"] == MINE), "{heard:#?}");
    let record = record(&replay, MINE).await;
    assert_eq!(record["prompt"][1], MINE);
    assert!(!record.to_string().contains(RECORDED));
    assert_eq!(get(&replay, &format!("/api/jobs/{MINE}")).await.json()["status"], "completed");
    assert_eq!(get(&replay, &format!("/history/{RECORDED}")).await.json(), json!({}));
    assert!(replay.surprises().is_empty());
}

#[tokio::test]
async fn equal_graphs_are_taken_in_the_order_of_the_recording() {
    let told = recording([
        vec![connect("ws", "me")],
        run(RECORDED, "me", &graph(1, "p"), "first.png"),
        run(ANOTHER, "me", &graph(1, "q"), "second.png"),
    ]);
    let file = |record: &Value| record["outputs"]["b"]["images"][0]["filename"].clone();
    let replay = play(&told).await;
    submit(&replay, MINE, &graph(1, "mine")).await;
    assert_eq!(file(&record(&replay, MINE).await), "first.png");
    submit(&replay, MINE_TOO, &graph(1, "mine")).await;
    assert_eq!(file(&record(&replay, MINE_TOO).await), "second.png");
    // Alone, the second is meant from the start.
    let replay = play_with(&told, Options { ours: Some([1].into()), from: 1, ..Options::default() }).await;
    submit(&replay, MINE, &graph(1, "mine")).await;
    assert_eq!(file(&record(&replay, MINE).await), "second.png");
}

#[tokio::test]
async fn a_refusal_is_given_as_recorded_and_a_graph_that_is_not_recorded_is_told_of() {
    let refused = json!({"error": {"type": "missing_node_type"}, "node_errors": {}});
    let events = vec![asked("POST", "/prompt", json!({"prompt": graph(1, "x")})), answered(400, refused.clone())];
    let replay = play(&recording([events])).await;
    let answer = submit(&replay, MINE, &graph(1, "y")).await;
    assert_eq!((answer.status, answer.json()), (400, refused));
    assert!(replay.surprises().is_empty());
    assert_eq!(submit(&replay, MINE, &graph(2, "y")).await.status, 500);
    assert_eq!(replay.surprises().len(), 1);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_lost_again_and_the_prompt_runs() {
    let mut events = vec![connect("ws", "me")];
    events.push(asked("POST", "/prompt", json!({"prompt": graph(1, "x"), "prompt_id": RECORDED, "client_id": "me"})));
    events.push(json!({"dir": "server->client", "http_failure": "ServerDisconnectedError"}));
    events.extend(begun("ws", RECORDED));
    events.push(saved("ws", RECORDED, "x.png"));
    events.extend(succeeded("ws", RECORDED));
    let replay = play(&recording([events])).await;
    let body = json!({"prompt": graph(1, "x"), "prompt_id": MINE, "client_id": "me"});
    assert!(ask(replay.address, "POST", "/prompt", Some(&body)).await.is_err());
    assert_eq!(record(&replay, MINE).await["status"]["status_str"], "success");
}

#[tokio::test]
async fn a_submission_that_never_arrived_is_sent_again() {
    let mut events = vec![connect("ws", "me")];
    events.push(asked("POST", "/prompt", json!({"prompt": graph(1, "x"), "prompt_id": RECORDED, "client_id": "me"})));
    events.push(json!({"dir": "server->client", "http_failure": "ServerDisconnectedError"}));
    events.extend(run(RECORDED, "me", &graph(1, "x"), "x.png"));
    let replay = play_with(&recording([events]), Options { ours: Some([0].into()), ..Options::default() }).await;
    let body = json!({"prompt": graph(1, "x"), "prompt_id": MINE, "client_id": "me"});
    assert!(ask(replay.address, "POST", "/prompt", Some(&body)).await.is_err());
    assert_eq!(get(&replay, &format!("/api/jobs/{MINE}")).await.status, 404);
    assert_eq!(submit(&replay, MINE, &graph(1, "x")).await.status, 200);
    assert_eq!(record(&replay, MINE).await["status"]["status_str"], "success");
}

// Records.

#[tokio::test]
async fn a_record_that_was_not_asked_for_is_made_from_the_messages_and_not_before_the_end() {
    let told = run(RECORDED, "me", &graph(1, "x"), "x.png");
    let options = Options { hold: [0].into(), ..Options::default() };
    let replay = play_with(&recording([vec![connect("ws", "me")], told]), options).await;
    let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
    submit(&replay, MINE, &graph(1, "x")).await;
    hear_until(&mut ear, "progress", |_| true).await;
    assert_eq!(get(&replay, &format!("/history/{MINE}")).await.json(), json!({}));
    assert_eq!(get(&replay, &format!("/api/jobs/{MINE}")).await.json()["status"], "in_progress");
    assert_eq!(get(&replay, "/queue").await.json()["queue_running"][0][1], MINE);
    assert_eq!(get(&replay, "/prompt").await.json()["exec_info"]["queue_remaining"], 1);

    let replay = play(&recording([vec![connect("ws", "me")], run(RECORDED, "me", &graph(1, "x"), "x.png")])).await;
    submit(&replay, MINE, &graph(1, "x")).await;
    let record = record(&replay, MINE).await;
    assert_eq!(record["status"]["completed"], true);
    assert_eq!(record["status"]["messages"].as_array().expect("messages").len(), 3);
    assert_eq!(record["outputs"]["b"]["images"][0]["filename"], "x.png");
    assert_eq!(get(&replay, "/queue").await.json(), json!({"queue_running": [], "queue_pending": []}));
    // Once deleted it is gone.
    assert_eq!(post(&replay, "/history", json!({"delete": [MINE]})).await.status, 200);
    assert_eq!(get(&replay, &format!("/history/{MINE}")).await.json(), json!({}));
    assert_eq!(get(&replay, &format!("/api/jobs/{MINE}")).await.status, 404);
}

#[tokio::test]
async fn a_late_record_is_late_again_and_a_recorded_one_is_given_as_it_was() {
    let path = format!("/history/{RECORDED}");
    let odd =
        json!({"prompt": [7, RECORDED, graph(1, "x"), {}, ["b"]], "outputs": {"b": {"odd": [null]}}, "status": null});
    let looks = vec![
        asked("GET", &path, Value::Null),
        answered(200, json!({})),
        asked("GET", &path, Value::Null),
        answered(200, json!({RECORDED: odd})),
    ];
    let told = run(RECORDED, "me", &graph(1, "x"), "x.png");
    let replay = play(&recording([vec![connect("ws", "me")], told, looks])).await;
    let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
    submit(&replay, MINE, &graph(1, "x")).await;
    hear_the_end(&mut ear).await;
    let path = format!("/history/{MINE}");
    assert_eq!(get(&replay, &path).await.json(), json!({}));
    let record = get(&replay, &path).await.json()[MINE].clone();
    assert_eq!((&record["status"], &record["outputs"]), (&Value::Null, &json!({"b": {"odd": [null]}})));
}

// Files.

#[tokio::test]
async fn files_are_there_until_the_recording_takes_them_away() {
    let look = || {
        let gone = json!({"status": 404, "content_type": "", "body": {"length": 0}});
        vec![
            asked("GET", "/view?filename=kept%20one.png&type=output", Value::Null),
            json!({"dir": "server->client", "http_response": gone}),
        ]
    };
    let cached = |id: &str, file: &str| {
        let mut events = submitted(id, "me", &graph(1, "x")).to_vec();
        events.push(said("ws", "execution_start", json!({"prompt_id": id, "timestamp": 1})));
        events.push(said("ws", "execution_cached", json!({"prompt_id": id, "nodes": ["a", "b"], "timestamp": 1})));
        events.push(saved("ws", id, file));
        events.extend(succeeded("ws", id));
        events
    };
    let ids: Vec<String> = (1..=4).map(|n| format!("00000000-0000-4000-8000-00000000000{n}")).collect();
    let told = recording([
        vec![connect("ws", "me")],
        run(&ids[0], "me", &graph(1, "x"), "kept one.png"),
        vec![note("the output file is deleted from disk here")],
        // Named by a cached node, it does not come back.
        cached(&ids[1], "kept one.png"),
        // Written again, it does.
        run(&ids[2], "me", &graph(1, "x"), "kept one.png"),
        // Gone without a note: the recorded answer says so.
        cached(&ids[3], "kept one.png"),
        look(),
    ]);
    let replay = play(&told).await;
    let mut statuses = Vec::new();
    for n in 1..=4 {
        let id = format!("c0ffee00-0000-5000-8000-00000000000{n}");
        submit(&replay, &id, &graph(1, "x")).await;
        record(&replay, &id).await;
        let view = get(&replay, "/view?filename=kept+one.png&subfolder=&type=output").await;
        assert_eq!(view.status == 200, !view.body.is_empty());
        statuses.push(view.status);
    }
    assert_eq!(statuses, [200, 404, 200, 404]);
    assert_eq!(get(&replay, "/view?filename=never.png&type=output").await.status, 404);
}

// Interruption.

fn interrupted() -> Value {
    let mut events = vec![connect("ws", "me")];
    events.extend(submitted(RECORDED, "me", &graph(1, "x")));
    events.extend(begun("ws", RECORDED));
    events.extend([asked("POST", "/interrupt", json!({"prompt_id": RECORDED})), answered(200, Value::Null)]);
    let stopped = json!({"prompt_id": RECORDED, "node_id": "a", "node_type": "X", "executed": [], "timestamp": 2});
    events.push(said("ws", "execution_interrupted", stopped));
    events.push(said("ws", "executing", json!({"prompt_id": RECORDED, "node": null})));
    recording([events])
}

#[tokio::test]
async fn what_follows_the_first_progress_waits_for_the_request_for_interruption() {
    for by_job in [false, true] {
        let replay = play_with(&interrupted(), Options { hold: [0].into(), ..Options::default() }).await;
        let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
        submit(&replay, MINE, &graph(1, "x")).await;
        hear_until(&mut ear, "progress", |_| true).await;
        assert_eq!(ear.hear(QUIET).await, Heard::Silence);
        assert!(replay.holding());
        // Neither of somebody else's prompt, nor of a queue in which it no longer is.
        post(&replay, "/interrupt", json!({"prompt_id": ANOTHER})).await;
        post(&replay, "/queue", json!({"delete": [MINE]})).await;
        assert_eq!(ear.hear(QUIET).await, Heard::Silence);
        if by_job {
            let answer = post(&replay, &format!("/api/jobs/{MINE}/cancel"), Value::Null).await;
            assert_eq!(answer.json(), json!({"cancelled": true}));
        } else {
            assert!(post(&replay, "/interrupt", json!({"prompt_id": MINE})).await.body.is_empty());
        }
        let heard = hear_the_end(&mut ear).await;
        assert_eq!(heard[0]["type"], "execution_interrupted");
        assert_eq!(get(&replay, &format!("/api/jobs/{MINE}")).await.json()["status"], "cancelled");
    }
}

#[tokio::test]
async fn nobody_asks_and_the_interruption_of_the_recording_comes_all_the_same() {
    let replay = play(&interrupted()).await;
    submit(&replay, MINE, &graph(1, "x")).await;
    let record = record(&replay, MINE).await;
    assert_eq!(record["status"]["messages"][2][0], "execution_interrupted");
}

#[tokio::test]
async fn a_prompt_that_the_recording_lets_succeed_can_be_stopped() {
    let told = run(RECORDED, "me", &graph(1, "x"), "x.png");
    let replay =
        play_with(&recording([vec![connect("ws", "me")], told]), Options { hold: [0].into(), ..Options::default() })
            .await;
    let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
    submit(&replay, MINE, &graph(1, "x")).await;
    hear_until(&mut ear, "progress", |_| true).await;
    post(&replay, "/interrupt", json!({"prompt_id": MINE})).await;
    let heard = hear_the_end(&mut ear).await;
    assert_eq!(heard[0]["data"]["node_id"], "a");
    assert_eq!(record(&replay, MINE).await["status"]["status_str"], "error");
}

// Sockets.

#[tokio::test]
async fn a_socket_breaks_where_it_broke_and_the_next_one_hears_the_rest() {
    let mut events = vec![connect("first", "me")];
    events.extend(submitted(RECORDED, "me", &graph(1, "x")));
    events.extend(begun("first", RECORDED));
    events.extend([closed("first", json!(1006)), connect("second", "me")]);
    events.push(said("second", "status", json!({"sid": "me", "status": {"exec_info": {"queue_remaining": 1}}})));
    events.push(said("second", "executing", json!({"node": "a"})));
    events.push(saved("second", RECORDED, "x.png"));
    events.extend(succeeded("second", RECORDED));
    let replay = play(&recording([events])).await;
    let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
    submit(&replay, MINE, &graph(1, "x")).await;
    hear_until(&mut ear, "progress", |_| true).await;
    assert_eq!(ear.hear(SOON).await, Heard::Broken);
    assert_eq!(get(&replay, &format!("/api/jobs/{MINE}")).await.json()["status"], "in_progress");
    let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
    let heard = hear_the_end(&mut ear).await;
    let kinds: Vec<&str> = heard.iter().filter_map(|frame| frame["type"].as_str()).collect();
    assert_eq!(kinds, ["status", "executing", "executed", "execution_success", "executing"]);
}

#[tokio::test]
async fn a_socket_falls_silent_when_another_took_its_place_and_the_record_comes_all_the_same() {
    let mut events = vec![connect("first", "me")];
    events.extend(submitted(RECORDED, "me", &graph(1, "x")));
    events.extend(begun("first", RECORDED));
    events.push(connect("second", "me"));
    events.push(saved("second", RECORDED, "x.png"));
    events.extend(succeeded("second", RECORDED));
    let replay = play(&recording([events])).await;
    let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
    submit(&replay, MINE, &graph(1, "x")).await;
    hear_until(&mut ear, "progress", |_| true).await;
    assert_eq!(record(&replay, MINE).await["outputs"]["b"]["images"][0]["filename"], "x.png");
    assert_eq!(ear.hear(QUIET).await, Heard::Silence);
}

#[tokio::test]
async fn prompts_of_others_run_under_their_own_ids_and_the_client_waits_its_turn() {
    let mut events = vec![connect("theirs", "them"), connect("ws", "me")];
    events.extend(submitted(ANOTHER, "them", &graph(9, "x")));
    events.extend(begun("theirs", ANOTHER));
    events.extend(submitted(RECORDED, "me", &graph(1, "x")));
    events.push(said("ws", "status", json!({"status": {"exec_info": {"queue_remaining": 2}}})));
    // A prompt without a client: everybody hears of its steps.
    events.push(said("ws", "progress", json!({"prompt_id": ANOTHER, "node": "a", "value": 3, "max": 4})));
    events.extend(succeeded("theirs", ANOTHER));
    events.extend(begun("ws", RECORDED));
    events.extend(succeeded("ws", RECORDED));
    let ours = Options { ours: Some([1].into()), from: 1, hold: [1].into(), ..Options::default() };
    let replay = play_with(&recording([events]), ours).await;
    let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
    submit(&replay, MINE, &graph(1, "x")).await;
    let heard = hear_until(&mut ear, "progress", |data| data["prompt_id"] == MINE).await;
    let of_others: Vec<&Value> = heard.iter().filter(|frame| frame["data"]["prompt_id"] == ANOTHER).collect();
    assert_eq!(of_others.len(), 1, "{heard:#?}");
    assert_eq!(get(&replay, &format!("/api/jobs/{ANOTHER}")).await.json()["status"], "completed");
    assert_eq!(get(&replay, "/queue").await.json()["queue_running"][0][1], MINE);
}

#[tokio::test]
async fn previews_carry_metadata_only_for_a_client_that_asked() {
    let metadata = json!({"node_id": "a", "prompt_id": RECORDED, "image_type": "image/jpeg"});
    let binary = json!({
        "length": 900, "event_type": 4, "head_hex": "0000000400000040", "metadata": metadata, "image_head_hex": "ffd8ffe0",
    });
    let mut told = run(RECORDED, "me", &graph(1, "x"), "x.png");
    told.insert(6, json!({"dir": "server->client", "socket": "ws", "ws_binary": binary}));
    let told = recording([vec![connect("ws", "me")], told]);
    for asks in [false, true] {
        let replay = play(&told).await;
        let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
        if asks {
            let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
            ear.say(&flags).await.expect("the socket is open");
            hear_until(&mut ear, "feature_flags", |data| data["supports_preview_metadata"] == true).await;
        }
        submit(&replay, MINE, &graph(1, "x")).await;
        let preview = loop {
            match ear.hear(SOON).await {
                Heard::Binary(bytes) => break bytes,
                Heard::Text(_) => {}
                end => panic!("{end:?} before the preview"),
            }
        };
        let text = String::from_utf8_lossy(&preview).into_owned();
        assert_eq!(preview[3], if asks { 4 } else { 1 });
        assert_eq!(text.contains(MINE), asks);
        let start = preview.windows(3).position(|three| three == [0xff, 0xd8, 0xff]).expect("a JPEG");
        image::load_from_memory(&preview[start..]).expect("a picture");
    }
}

// The server.

#[tokio::test]
async fn a_server_that_was_killed_refuses_connections_until_it_is_back_and_has_forgotten_everything() {
    let mut events = vec![connect("ws", "me")];
    events.extend(submitted(RECORDED, "me", &graph(1, "x")));
    events.extend(begun("ws", RECORDED));
    events.extend([note("server process receives SIGKILL"), closed("ws", json!(1006))]);
    events.push(asked("GET", "/queue", Value::Null));
    events.push(json!({"dir": "server->client", "http_failure": "Cannot connect to host"}));
    let dead = recording([events.clone()]);
    // Nothing further is heard of it: that it died is not said, and follows.
    let unsaid: Vec<Value> =
        events[..events.len() - 2].iter().filter(|event| event["dir"] != "note").cloned().collect();
    let mut back = connect("second", "me");
    back["t_ms"] = json!(700);
    events.push(back);
    events.extend(run(RECORDED, "me", &graph(2, "x"), "after.png"));
    for (told, returns) in [(dead, false), (recording([unsaid]), false), (recording([events]), true)] {
        let replay = play(&told).await;
        let mut ear = Ear::open(replay.address, "me").await.expect("a socket");
        submit(&replay, MINE, &graph(1, "x")).await;
        hear_until(&mut ear, "progress", |_| true).await;
        assert_eq!(ear.hear(SOON).await, Heard::Broken);
        assert!(ask(replay.address, "GET", "/queue", None).await.is_err(), "connections are refused");
        let until = std::time::Instant::now() + if returns { SOON } else { Duration::from_secs(2) };
        let mut answer = None;
        while answer.is_none() && std::time::Instant::now() < until {
            answer = ask(replay.address, "GET", "/queue", None).await.ok();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(answer.is_some(), returns);
        if returns {
            assert_eq!(answer.expect("an answer").json(), json!({"queue_running": [], "queue_pending": []}));
            assert_eq!(get(&replay, "/history").await.json(), json!({}));
            assert_eq!(get(&replay, &format!("/api/jobs/{MINE}")).await.json(), json!({"error": "Job not found"}));
            submit(&replay, MINE, &graph(2, "x")).await;
            assert_eq!(record(&replay, MINE).await["outputs"]["b"]["images"][0]["filename"], "after.png");
        }
    }
}

#[tokio::test]
async fn a_server_that_never_comes_up_refuses_every_connection() {
    let told = recording([vec![
        asked("GET", "/system_stats", Value::Null),
        json!({"dir": "server->client", "http_failure": "Cannot connect to host"}),
    ]]);
    let replay = play(&told).await;
    for _ in 0..5 {
        assert!(ask(replay.address, "GET", "/system_stats", None).await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_not_up_yet_refuses_connections_first() {
    let stats = json!({"system": {"comfyui_version": "0.99.1"}, "devices": []});
    let mut later = asked("GET", "/system_stats", Value::Null);
    later["t_ms"] = json!(400);
    let told = recording([vec![
        asked("GET", "/system_stats", Value::Null),
        json!({"dir": "server->client", "http_failure": "Connection refused"}),
        later,
        answered(200, stats.clone()),
    ]]);
    let replay = play(&told).await;
    assert!(ask(replay.address, "GET", "/system_stats", None).await.is_err());
    let until = std::time::Instant::now() + SOON;
    let answer = loop {
        if let Ok(answer) = ask(replay.address, "GET", "/system_stats", None).await {
            break answer;
        }
        assert!(std::time::Instant::now() < until, "it never comes up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(answer.json(), stats);
}

#[tokio::test]
async fn a_route_that_the_server_does_not_have_answers_as_recorded() {
    let page = json!({"status": 404, "content_type": "text/html", "text": "<html>no such page</html>"});
    let mut told = run(RECORDED, "me", &graph(1, "x"), "x.png");
    told.push(asked("GET", &format!("/api/jobs/{RECORDED}"), Value::Null));
    told.push(json!({"dir": "server->client", "http_response": page}));
    let replay = play(&recording([vec![connect("ws", "me")], told])).await;
    let answer = get(&replay, &format!("/api/jobs/{MINE}")).await;
    assert_eq!((answer.status, answer.body.as_slice()), (404, b"<html>no such page</html>".as_slice()));
    assert_eq!(post(&replay, &format!("/api/jobs/{MINE}/cancel"), Value::Null).await.status, 405);
    submit(&replay, MINE, &graph(1, "x")).await;
    record(&replay, MINE).await;
}

#[tokio::test]
async fn what_was_never_recorded_is_answered_as_any_server_would() {
    let replay = play(&recording([vec![connect("ws", "me")]])).await;
    assert_eq!(get(&replay, "/system_stats").await.json()["system"]["comfyui_version"], "0.33.0");
    assert_eq!(get(&replay, "/object_info/Anything").await.json(), json!({}));
    assert!(get(&replay, "/api/features").await.json().is_object());
    assert_eq!(get(&replay, "/queue").await.json(), json!({"queue_running": [], "queue_pending": []}));
    assert_eq!(get(&replay, &format!("/api/jobs/{MINE}")).await.json(), json!({"error": "Job not found"}));
    let control = [
        ("/interrupt", json!({"prompt_id": MINE})),
        ("/queue", json!({"delete": [MINE]})),
        ("/history", json!({"delete": [MINE]})),
        ("/free", json!({"free_memory": true})),
    ];
    for (path, body) in control {
        let answer = post(&replay, path, body).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
    }
    // None of these prompts is the client's.
    assert_eq!(replay.surprises().len(), 3, "{:?}", replay.surprises());
    assert_eq!(get(&replay, "/no/such/page").await.status, 404);
}
