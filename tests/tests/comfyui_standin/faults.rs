//! Every fault strikes as it was ordered, and no other way; what happened is counted.

use std::time::{Duration, Instant};

use enginehouse_tests::comfyui::{Options, Seen, Standin};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::http::ask;
use crate::program::{Program, Socket, until};

fn picture(prefix: &str) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    })
}

async fn launched(faults: Value) -> Program {
    let mut program = Program::with_faults(&faults);
    program.launch().await;
    program
}

async fn seen(program: &Program) -> Seen {
    serde_json::from_value(program.json("/standin/seen").await).expect("what was seen is told in its own form")
}

#[tokio::test]
async fn inside_a_test_it_runs_on_a_free_port_and_counts_what_it_did() {
    let root = tempfile::tempdir().unwrap();
    let standin = Standin::start(Options::below(root.path()).unwrap()).await.unwrap();
    let body = json!({"prompt": picture("in_process")}).to_string();
    let answer = ask(standin.address(), "POST", "/prompt", &[], body.as_bytes()).await.unwrap();
    let id = answer.json()["prompt_id"].as_str().unwrap().to_string();
    let file = standin.output_folder().join("in_process_00001_.png");
    until("the picture is there", async || file.exists()).await;
    let seen = standin.seen();
    assert_eq!((seen.prompts[&id], seen.executions[&id], seen.nodes["SaveImage"]), (1, 1, 1));
    let (address, temp) = (standin.address(), root.path().join("temp"));
    assert!(temp.exists());
    standin.stop();
    assert!(!temp.exists(), "a clean stop takes the temp folder along");
    until("nobody listens", async || ask(address, "GET", "/queue", &[], b"").await.is_err()).await;
}

#[tokio::test]
async fn nothing_listens_before_a_slow_start_is_over() {
    let mut program = Program::with_faults(&json!({"start_delay_s": 0.7}));
    let begun = Instant::now();
    program.spawn(&[]);
    program.ready().await;
    assert!(begun.elapsed() >= Duration::from_millis(700), "ready after {:?}", begun.elapsed());
}

#[tokio::test]
async fn starts_fail_as_often_as_ordered() {
    let mut program = Program::with_faults(&json!({"exit_at_start": {"code": 3, "times": 2}, "port_in_use_times": 1}));
    for code in [3, 3, 1] {
        program.spawn(&[]);
        assert_eq!(program.ended().await.code(), Some(code));
    }
    program.launch().await;
}

#[tokio::test]
async fn a_taken_port_is_code_1_and_an_unknown_flag_code_2() {
    let mut program = Program::new();
    let taken = std::net::TcpListener::bind(program.address).unwrap();
    program.spawn(&[]);
    assert_eq!(program.ended().await.code(), Some(1));
    drop(taken);
    program.spawn(&["--no-such-flag"]);
    assert_eq!(program.ended().await.code(), Some(2));
}

#[tokio::test]
async fn sigterm_kills_and_leaves_the_temp_folder_behind() {
    let mut program = launched(json!({})).await;
    program.signal(Signal::TERM);
    let status = program.ended().await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::TERM.as_raw()));
    assert!(program.folder("temp").exists());
}

#[tokio::test]
async fn a_socket_is_cut_after_so_many_messages_and_the_next_one_is_not() {
    let program = launched(json!({"drop_socket": {"after": 3, "times": 1}})).await;
    let first = Socket::registered(program.address, "c").await;
    let id = program.submit(&picture("cut"), Some("c")).await;
    first.hears("cut").await;
    assert_eq!(first.heard().len(), 4, "three messages and the end");
    program.record(&id).await;
    let second = Socket::registered(program.address, "c").await;
    program.submit(&picture("cut again"), Some("c")).await;
    second.hears("execution_success").await;
}

#[tokio::test]
async fn a_silenced_socket_stays_open_and_says_nothing() {
    let program = launched(json!({"silence_socket_after": 2})).await;
    let socket = Socket::registered(program.address, "c").await;
    let id = program.submit(&picture("silent"), Some("c")).await;
    program.record(&id).await;
    let heard = socket.heard();
    assert_eq!(heard.iter().filter(|one| one.kind() == "status").count(), heard.len(), "{heard:?}");
    assert!(heard.len() <= 2);
}

#[tokio::test]
async fn a_socket_that_took_over_falls_silent_when_the_first_one_closes() {
    let program = launched(json!({})).await;
    let mut first = Socket::registered(program.address, "c").await;
    let second = Socket::registered(program.address, "c").await;
    program.submit(&picture("taken over"), Some("c")).await;
    second.hears("execution_success").await;
    assert_eq!(first.heard().len(), 1, "the first hears nothing once it is taken over");
    first.close().await;
    let before = second.heard().len();
    let bystander = Socket::registered(program.address, "b").await;
    // What was sent is heard in order: once the bystander knows of the end, the second would know of the start.
    let id = program.submit(&picture("unheard"), Some("c")).await;
    program.record(&id).await;
    until("the queue is empty again", async || bystander.heard().len() >= 4).await;
    let after: Vec<_> =
        second.heard()[before..].iter().filter(|one| one.kind() == "execution_start").cloned().collect();
    assert!(after.is_empty(), "{after:?}");
}

#[tokio::test]
async fn a_record_comes_late_or_never() {
    let program = launched(json!({"history_delay_ms": 400})).await;
    let socket = Socket::registered(program.address, "c").await;
    let id = program.submit(&picture("late"), Some("c")).await;
    socket.hears("execution_success").await;
    assert_eq!(program.json(&format!("/history/{id}")).await, json!({}), "the end is told before it is written");
    program.record(&id).await;

    program.post("/standin/faults", &json!({"history_delay_ms": 0, "lose_records": 1})).await;
    let lost = program.submit(&picture("lost"), Some("c")).await;
    let kept = program.submit(&picture("kept"), Some("c")).await;
    program.record(&kept).await;
    assert_eq!(program.json(&format!("/history/{lost}")).await, json!({}));
    assert_eq!(seen(&program).await.executions[&lost], 1);
}

#[tokio::test]
async fn a_hanging_worker_takes_no_prompt_until_it_is_let_go() {
    let program = launched(json!({"hang": true})).await;
    let id = program.submit(&picture("hang"), None).await;
    assert_eq!(program.json(&format!("/api/jobs/{id}")).await["status"], "pending");
    assert_eq!(program.json("/prompt").await["exec_info"]["queue_remaining"], 1);
    assert!(seen(&program).await.executions.is_empty());
    program.post("/standin/faults", &json!({"hang": false})).await;
    program.record(&id).await;
}

#[tokio::test]
async fn it_dies_of_a_node_as_often_as_ordered() {
    let mut program = launched(json!({"die": {"class": "SaveImage", "times": 1}})).await;
    // It may be dead before it answers.
    let body = json!({"prompt": picture("dead")}).to_string();
    let _ = ask(program.address, "POST", "/prompt", &[], body.as_bytes()).await;
    let status = program.ended().await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::KILL.as_raw()));
    program.launch().await;
    let id = program.submit(&picture("alive"), None).await;
    assert_eq!(program.record(&id).await["status"]["completed"], true);
}

#[tokio::test]
async fn outputs_vanish_though_the_record_names_them() {
    let program = launched(json!({"vanish_outputs": true})).await;
    let id = program.submit(&picture("vanished"), None).await;
    let record = program.record(&id).await;
    let name = record["outputs"]["2"]["images"][0]["filename"].as_str().unwrap().to_string();
    assert_eq!(program.get(&format!("/view?filename={name}")).await.unwrap().status, 404);
}

#[tokio::test]
async fn so_many_connections_are_refused() {
    let program = launched(json!({})).await;
    program.post("/standin/faults", &json!({"refuse_connections": 2})).await;
    for _ in 0..2 {
        assert!(program.get("/queue").await.is_err());
    }
    assert_eq!(program.get("/queue").await.unwrap().status, 200);
    assert_eq!(program.post("/standin/faults", &json!({"no_such_fault": 1})).await.status, 400);
}

#[tokio::test]
async fn grandchildren_outlive_a_killed_server() {
    let mut program = launched(json!({"grandchildren": {"plain": 1, "own_session": 1}})).await;
    let ids: Vec<Pid> = seen(&program)
        .await
        .grandchildren
        .iter()
        .map(|id| Pid::from_raw(i32::try_from(*id).unwrap()).unwrap())
        .collect();
    assert_eq!(ids.len(), 2);
    let own = rustix::process::getsid(None).unwrap();
    assert_eq!(rustix::process::getsid(Some(ids[0])).unwrap(), own, "a plain one is in our session");
    until("the other has a session of its own", async || rustix::process::getsid(Some(ids[1])) == Ok(ids[1])).await;
    program.signal(Signal::KILL);
    program.ended().await;
    for id in ids {
        assert!(rustix::process::test_kill_process(id).is_ok(), "it outlives the server");
        rustix::process::kill_process(id, Signal::KILL).unwrap();
    }
}
