//! What may go wrong with a server, one thing after the other, and what becomes of the tasks. The stand-in does wrong what it
//! is told to; a real server cannot be told.

use std::sync::Arc;

use enginehouse::engines::comfyui::{Address, Client, Prompt, Run, Times, prompt_id};
use enginehouse::engines::{Report, WorkflowTerms};
use enginehouse_tests::comfyui::{Options, Standin};
use enginehouse_tests::host::{Host, wait_for};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cases::{LONG, complete, failed, names, runs, stepped, submit};
use crate::place::{Place, engine_pid, given_to_owned};

/// What `engines ls` says of ComfyUI.
fn engine(host: &Host) -> Value {
    let engines = host.run(&["engines", "ls", "--json"]).ok().json();
    engines["engines"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|engine| engine["engine"] == "comfyui")
        .cloned()
        .expect("it")
}

#[test]
fn a_server_that_does_not_start_leaves_its_tasks_untouched_and_says_why() {
    let place = Place::standin();
    place.faults(&json!({"exit_at_start": {"code": 3, "times": 100}}));
    let host = place.host();
    let _worker = host.start();
    let task = submit(&host, &stepped(2, 1));
    let unavailable = wait_for("the engine to be unavailable", || {
        let engine = engine(&host);
        (engine["state"] == "unavailable").then_some(engine)
    });
    assert_eq!(unavailable["starts"], 5, "{unavailable:#}");
    assert!(unavailable["reason"].as_str().expect("a reason").contains("code 3"), "{unavailable:#}");
    let waiting = wait_for("the task to be back", || {
        let task = host.task(&task);
        (task["status"] == "Queued").then_some(task)
    });
    assert_eq!((&waiting["error"], &waiting["attempts"]), (&Value::Null, &json!(1)), "{waiting:#}");
    // Whoever needs the other engine is served meanwhile.
    let other = host.submit("flux", &json!({"prompt": "x", "resolution": "64x64", "video_length": 1}));
    complete(&host, &other);
    assert_eq!(host.task(&task)["status"], "Queued");
}

#[test]
fn a_task_that_is_run_in_place_ends_as_unavailable_and_stays_in_the_queue() {
    let host = Host::new();
    host.configure("[engines.comfyui]\nroot = \"/nowhere\"\n");
    let file = host.home().join("params.json");
    std::fs::write(&file, json!({"workflow": stepped(2, 12)}).to_string()).expect("params written");
    let said = host.run(&["submit", "comfy", "-f", file.to_str().expect("a path"), "--run"]);
    assert_eq!(said.code, 69, "{said:?}");
    assert!(said.stderr.contains("/nowhere/main.py") && said.stderr.contains("stays in the queue"), "{}", said.stderr);
    let tasks = host.run(&["tasks", "ls", "--json"]).ok().stdout;
    assert!(tasks.contains("Queued"), "{tasks}");
}

#[test]
fn a_port_that_is_taken_costs_a_pause_and_no_task() {
    let place = Place::standin();
    place.faults(&json!({"port_in_use_times": 1}));
    let host = place.host();
    let _worker = host.start();
    let task = submit(&host, &stepped(2, 2));
    complete(&host, &task);
    assert_eq!(engine(&host)["starts"], 2);
}

#[test]
fn a_job_that_kills_the_server_is_set_aside_and_the_next_one_runs() {
    let place = Place::standin();
    place.faults(&json!({"die": {"class": "ProbeSteps", "times": 2}}));
    let host = place.host();
    let _worker = host.start();
    let task = submit(&host, &stepped(2, 3));
    let task = failed(&host, &task);
    assert_eq!((&task["error"]["kind"], &task["error"]["code"]), (&json!("quarantined"), &json!("engine_crashed")));
    let next = submit(&host, &stepped(2, 4));
    complete(&host, &next);
    assert_eq!(given_to_owned(&host), 3);
}

#[test]
fn a_socket_that_falls_silent_or_is_cut_hides_no_end() {
    for faults in [json!({"silence_socket_after": 4}), json!({"drop_socket": {"after": 4, "times": 3}})] {
        let place = Place::standin();
        place.faults(&faults);
        let host = place.host();
        let _worker = host.start();
        let task = submit(&host, &stepped(4, 5));
        complete(&host, &task);
        assert_eq!(given_to_owned(&host), 1, "{faults}");
    }
}

#[test]
fn a_record_that_comes_late_is_waited_for_and_one_that_never_comes_costs_a_second_run() {
    for (faults, given) in [(json!({"history_delay_ms": 800}), 1), (json!({"lose_records": 1}), 2)] {
        let place = Place::standin();
        place.faults(&faults);
        let host = place.host();
        let _worker = host.start();
        let task = submit(&host, &stepped(2, 6));
        complete(&host, &task);
        assert_eq!(given_to_owned(&host), given, "{faults}");
    }
}

#[test]
fn an_output_that_vanished_is_made_once_more_and_then_given_up() {
    let place = Place::standin();
    place.faults(&json!({"vanish_outputs": true}));
    let host = place.host();
    let _worker = host.start();
    let task = submit(&host, &stepped(2, 7));
    let task = failed(&host, &task);
    assert_eq!(task["error"]["code"], "output_lost");
    assert_eq!(given_to_owned(&host), 2);
}

#[test]
fn a_server_that_takes_no_prompt_is_restarted_and_the_job_tried_once_more() {
    let place = Place::standin();
    place.faults(&json!({"hang": true}));
    let host = place.host_with("inactive_seconds = 1\ncancel_grace_seconds = 1\n");
    let _worker = host.start();
    let task = submit(&host, &stepped(2, 8));
    let task = failed(&host, &task);
    assert_eq!(task["error"]["code"], "timeout_inactive");
    assert_eq!(given_to_owned(&host), 2);
}

#[test]
fn memory_that_did_not_suffice_is_tried_again_only_when_others_were_there_before() {
    let place = Place::standin();
    let host = place.host();
    let _worker = host.start();
    let hungry = |nonce: u64| {
        json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
            "2": {"class_type": "ProbeFail", "inputs": {"image": ["1", 0], "kind": "oom", "nonce": nonce}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "never"}},
        })
    };
    let alone = submit(&host, &hungry(1));
    let alone = failed(&host, &alone);
    assert_eq!((&alone["error"]["kind"], &alone["error"]["code"]), (&json!("out-of-memory"), &json!("vram_oom")));
    assert_eq!((given_to_owned(&host), engine(&host)["starts"].as_u64()), (1, Some(1)), "nothing else was in memory");
    let after = submit(&host, &hungry(2));
    failed(&host, &after);
    assert_eq!((given_to_owned(&host), engine(&host)["starts"].as_u64()), (3, Some(2)), "once more on a fresh server");
}

#[test]
fn an_eager_server_starts_with_the_host_and_ends_with_it() {
    let place = Place::standin();
    let host = place.host_with("start = \"eager\"\n");
    let mut worker = host.start();
    let pid = engine_pid(&host);
    assert_eq!(given_to_owned(&host), 0);
    assert_eq!(worker.terminate(), 0);
    assert!(!crate::place::lives(pid), "stopped in order before the host left");
    assert_eq!(engine(&host)["state"], "stopped");
}

#[test]
fn the_newest_preview_of_a_running_job_lies_beside_it() {
    let place = Place::standin();
    let host = place.host();
    let _worker = host.start();
    let task = submit(&host, &stepped(LONG, 9));
    runs(&host, &task);
    let preview = host.home().join("data/jobs").join(&task).join("1-0/preview.jpg");
    let picture = wait_for("a preview", || image::open(&preview).ok());
    assert!(picture.width() > 0);
    let written = || std::fs::metadata(&preview).and_then(|found| found.modified()).ok();
    let first = written();
    wait_for("a newer one", || (written() != first).then_some(()));
    host.run(&["tasks", "cancel", &task]).ok();
}

#[test]
fn a_refused_part_refuses_the_whole_unless_the_task_allows_parts() {
    let place = Place::standin();
    let host = place.host();
    let _worker = host.start();
    let workflow = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "good"}},
        "3": {"class_type": "LoadImage", "inputs": {"image": "nowhere.png"}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "bad"}},
    });
    let whole = submit(&host, &workflow);
    let whole = failed(&host, &whole);
    assert_eq!(whole["error"]["code"], "input_missing");
    assert!(whole["error"]["message"].as_str().expect("a message").contains("3 (LoadImage)"), "{whole:#}");
    let parts = host.submit("comfy", &json!({"workflow": workflow, "allow_partial": true}));
    let parts = complete(&host, &parts);
    assert_eq!(names(&parts).len(), 1);
}

#[test]
fn an_operators_server_sees_the_headers_that_it_wants() {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (heard, heads) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).unwrap_or(0);
            // Whoever listened may have heard enough.
            heard.send(String::from_utf8_lossy(&head[..length]).to_lowercase()).ok();
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
        }
    });
    let host = Host::new();
    let secret = host.home().join("token");
    std::fs::write(&secret, "Bearer opensesame\n").expect("a file");
    host.configure(&format!(
        "[engines.comfyui]\nurl = \"http://127.0.0.1:{port}/behind\"\nheaders = {{ Authorization = {{ file = {secret:?} }} }}\n"
    ));
    let _worker = host.start();
    submit(&host, &stepped(2, 11));
    let (mut asked, mut socket) = (false, false);
    while !(asked && socket) {
        let head = heads.recv_timeout(enginehouse_tests::host::CEILING).expect("requests");
        assert!(head.contains("authorization: bearer opensesame"), "{head}");
        asked |= head.starts_with("get /behind/system_stats ");
        socket |= head.starts_with("get /behind/ws?clientid=") && head.contains("upgrade: websocket");
    }
}

#[test]
fn an_address_where_nobody_listens_leaves_its_tasks_untouched_until_somebody_does() {
    let host = Host::new();
    // Reserved and free: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    host.configure(&format!("[engines.comfyui]\nurl = \"http://127.0.0.1:{port}\"\n"));
    let _worker = host.start();
    let task = submit(&host, &stepped(2, 10));
    wait_for("the task to be back", || {
        let log = host.run(&["tasks", "logs", &task]).stdout;
        log.contains("given back").then_some(())
    });
    let task = host.task(&task);
    assert_eq!((&task["status"], &task["error"]), (&json!("Queued"), &Value::Null), "{task:#}");
    assert!(host.worker_log().contains("engines.comfyui.url"), "{}", host.worker_log());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_is_asked_back_holds_no_results_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let server =
        Standin::start(Options::below(&folder.path().join("server")).expect("options")).await.expect("it starts");
    let address = Address { url: format!("{}/", server.url()).parse().expect("an address"), headers: Vec::new() };
    let client = Client::new(&address, Times::default(), None).expect("a client");
    let graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 9}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "same"}},
    });
    let mut made = Vec::new();
    for turn in ["first", "cached", "freed"] {
        if turn == "freed" {
            client.free(true, true).await.expect("the server obeys");
        }
        let outputs = folder.path().join(turn);
        std::fs::create_dir(&outputs).expect("a folder");
        let prompt = Prompt {
            id: prompt_id(turn),
            graph: graph.as_object().expect("a graph").clone(),
            terms: WorkflowTerms::default(),
            seek: false,
        };
        let (report, cancel, gone): (Report, _, _) =
            (Arc::new(|_, _| ()), CancellationToken::new(), CancellationToken::new());
        let run = Run { folder: &outputs, preview: None, report: &report, cancel: &cancel, gone: &gone };
        assert_eq!(client.run(&prompt, &run).await.expect("outputs").len(), 1, "{turn}");
        made.push(server.seen().nodes.get("EmptyImage").copied().unwrap_or_default());
    }
    assert_eq!((made, server.seen().frees), (vec![1, 1, 2], 1));
}
