//! Requests to the outside: within rules, to public addresses, with secrets that no guest sees.

use std::sync::Arc;
use std::time::Duration;

use enginehouse::artifacts::download::Downloader;
use enginehouse::config::{HttpRule, SecretGrant};
use enginehouse::net::NetPolicy;
use enginehouse::task::Output;
use enginehouse_tests::handlers::{Held, House, child_of, text};
use enginehouse_tests::web::{Asked, Web};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "s3cr3t-value";

fn rule(host: &str, methods: &[&str], path: &str) -> HttpRule {
    HttpRule { host: host.into(), methods: methods.iter().map(|m| m.to_string()).collect(), path: path.into() }
}

/// A house that may send GET and POST to this server, below `/v1`.
async fn house(web: &Web) -> House {
    let mut house = House::new().await;
    house.permits.grant.addresses = vec![web.address.to_string()];
    house.permits.grant.http = vec![rule("127.0.0.1", &["GET", "POST"], "/v1")];
    let file = house.folder.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    for (name, host) in [("token", web.address.to_string()), ("elsewhere", "example.com".into())] {
        let grant = SecretGrant { env: None, file: Some(file.display().to_string()), hosts: vec![host] };
        house.permits.grant.secrets.insert(name.into(), grant);
    }
    house
}

/// Sends back what it was sent.
fn echo(asked: &Asked) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let token = asked.header("authorization").unwrap_or_default().to_string();
    (200, vec![("X-Echo".into(), token)], asked.body.clone())
}

async fn ask(house: &House, calls: Value) -> Value {
    house.seen(json!({"do": "script", "calls": calls})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_sent_when_a_rule_and_an_address_allow_it() {
    let web = Web::start(echo);
    let mut house = house(&web).await;
    let calls = json!([
        ["http.send", "POST", web.url("/v1/x"), {}, "hello"],
        ["http.send", "DELETE", web.url("/v1/x"), {}, ""],
        ["http.send", "GET", web.url("/v10"), {}, ""],
        ["http.send", "GET", "http://example.com/v1", {}, ""],
        ["http.send", "GET", web.url("/v1"), {"Host": "example.com"}, ""],
        ["http.send", "GET", "file:///etc/passwd", {}, ""],
    ]);
    let seen = ask(&house, calls).await;
    assert_eq!((&seen[0]["ok"]["status"], &seen[0]["ok"]["body"]), (&json!(200), &json!("hello")), "{seen}");
    for (index, code) in [(1, "request_not_allowed"), (2, "request_not_allowed"), (3, "request_not_allowed")] {
        assert_eq!(seen[index]["err"]["code"], code, "{index}: {seen}");
        assert_eq!(seen[index]["err"]["class"], "FailureClass::Denied");
    }
    assert_eq!(seen[4]["err"]["code"], "invalid_request", "the host header follows the URL");
    assert!(seen[5]["err"].is_object());
    assert_eq!(web.asked().len(), 1, "nothing else went out");

    house.permits.grant.addresses.clear();
    let seen = ask(&house, json!([["http.send", "GET", web.url("/v1"), {}, ""]])).await;
    assert_eq!(seen[0]["err"]["code"], "private_address", "a rule alone opens no private network: {seen}");
    assert_eq!(web.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sends_a_secret_it_never_sees_and_only_where_it_is_bound() {
    let web = Web::start(echo);
    let house = house(&web).await;
    let stands_for = "{{enginehouse-secret:token}}";
    let calls = json!([
        ["secrets.placeholder", "token"],
        ["http.send", "POST", web.url("/v1"), {"Authorization": format!("Bearer {stands_for}")}, format!("[{stands_for}]")],
        ["http.send", "POST", web.url("/v1"), {}, "{{enginehouse-secret:elsewhere}}"],
        ["secrets.placeholder", "unknown"],
    ]);
    let held = house.task(json!({"do": "script", "calls": calls})).await;
    let outcome = house.start(&held, CancellationToken::new()).await;
    let seen = text(outcome);
    assert_eq!(seen[0]["ok"], stands_for);
    let asked = web.asked();
    assert_eq!(asked[0].header("authorization"), Some(&*format!("Bearer {SECRET}")));
    assert_eq!(asked[0].body, format!("[{SECRET}]").into_bytes());
    assert_eq!(seen[1]["ok"]["body"], format!("[{stands_for}]"), "sent back by the server, hidden again");
    assert_eq!(seen[2]["err"]["code"], "secret_not_bound");
    assert_eq!(seen[3]["err"]["code"], "secret_not_granted");
    assert_eq!(asked.len(), 1);
    let journal = format!("{:?}", house.journal(&held).await);
    assert!(!seen.to_string().contains(SECRET) && !journal.contains(SECRET), "in no result and no record");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_not_sent_where_others_could_read_it() {
    let web = Web::start(|_| (302, vec![("Location".into(), "http://example.com/v1".into())], Vec::new()));
    let mut house = house(&web).await;
    house.permits.grant.http.push(rule("example.com", &["POST"], "/v1"));
    let both = house.permits.grant.secrets.get_mut("token").unwrap();
    both.hosts.push("example.com".into());
    let send = |url: &str, secret: &str| json!(["http.send", "POST", url, {"X-Key": secret}, ""]);
    let elsewhere = "{{enginehouse-secret:elsewhere}}";
    let calls = json!([
        send("http://example.com/v1", elsewhere),
        send("https://example.com:8443/v1", elsewhere),
        ["http.send", "POST", "http://example.com:443/v1", {}, elsewhere],
    ]);
    let seen = ask(&house, calls).await;
    for index in 0..3 {
        let told = (&seen[index]["err"]["class"], &seen[index]["err"]["code"]);
        assert_eq!(told, (&json!("FailureClass::Denied"), &json!("secret_not_granted")), "{seen}");
        let message = seen[index]["err"]["message"].as_str().unwrap();
        assert!(message.contains("https") && message.contains("example.com") && !message.contains(SECRET), "{message}");
    }

    let rules = &mut house.permits.grant.http;
    rules.push(rule("example.com", &["GET"], "/v1"));
    let seen = ask(&house, json!([send(&web.url("/v1"), "{{enginehouse-secret:token}}")])).await;
    assert_eq!(seen[0]["err"]["code"], "secret_not_granted", "behind a redirect, too: {seen}");
    assert_eq!(web.asked()[0].header("x-key"), Some(SECRET), "the address is listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_held_to_the_same_rules() {
    let web = Web::start(|asked| {
        let to = match asked.line.as_str() {
            "GET /v1/inside" => "/v1/end",
            "GET /v1/outside" => "/admin",
            "GET /v1/private" => "http://127.0.0.1:9/v1",
            "GET /v1/circle" => "/v1/circle",
            _ => return (200, Vec::new(), b"end".to_vec()),
        };
        (302, vec![("Location".into(), to.into())], Vec::new())
    });
    let house = house(&web).await;
    let get = |path: &str| json!(["http.send", "GET", web.url(path), {}, ""]);
    let seen = ask(&house, json!([get("/v1/inside"), get("/v1/outside"), get("/v1/private"), get("/v1/circle")])).await;
    assert_eq!(seen[0]["ok"]["body"], "end");
    assert_eq!(seen[1]["err"]["code"], "request_not_allowed");
    assert_eq!(seen[2]["err"]["code"], "private_address");
    assert_eq!(seen[3]["err"]["code"], "request_failed");
    assert!(!web.asked().iter().any(|asked| asked.line == "GET /admin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_and_time_of_requests_are_limited() {
    let web = Web::start(|asked| {
        if asked.line.ends_with("/slow") {
            std::thread::sleep(std::time::Duration::from_secs(30));
        }
        (200, Vec::new(), vec![b'x'; 600_000])
    });
    let mut house = house(&web).await;
    house.permits.limits.http_mb = 1;
    house.permits.limits.http_seconds = 1;
    let get = |path: &str| json!(["http.send", "GET", web.url(path), {}, ""]);
    let seen = ask(&house, json!([get("/v1/slow"), get("/v1/a"), get("/v1/b")])).await;
    assert_eq!(seen[0]["err"]["code"], "request_failed");
    assert!(seen[0]["err"]["message"].as_str().unwrap().contains("plugins.limits.http_seconds"), "{}", seen[0]);
    assert_eq!(seen[1]["ok"]["status"], 200);
    assert_eq!(seen[2]["err"]["code"], "http_limit");
    assert!(seen[2]["err"]["message"].as_str().unwrap().contains("plugins.limits.http_mb"), "{}", seen[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_a_limit_in_both_directions() {
    let web = Web::start(|asked| {
        let length = if asked.line.ends_with("/large") { (1 << 20) + 1 } else { 100 };
        (200, Vec::new(), vec![b'x'; length])
    });
    let mut house = house(&web).await;
    house.permits.limits.http_body_mb = 1;
    let calls = json!([
        ["http.send", "POST", web.url("/v1/small"), {}, "x".repeat(1 << 20)],
        ["http.send", "POST", web.url("/v1/small"), {}, "x".repeat((1 << 20) + 1)],
        ["http.send", "GET", web.url("/v1/large"), {}, ""],
    ]);
    let seen = ask(&house, calls).await;
    assert_eq!(seen[0]["ok"]["status"], 200, "a body of the limit's size passes");
    for index in [1, 2] {
        assert_eq!(seen[index]["err"]["code"], "too_large");
        let message = seen[index]["err"]["message"].as_str().unwrap();
        assert!(message.contains("plugins.limits.http_body_mb"), "{message}");
    }
    assert_eq!(web.asked().len(), 2, "the request that is too large did not go out");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_a_dependency_that_failed() {
    let web = Web::start(echo);
    let mut house = house(&web).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    house.permits.grant.addresses = vec![free.to_string()];
    let seen = ask(&house, json!([["http.send", "GET", format!("http://{free}/v1"), {}, ""]])).await;
    assert_eq!(
        (&seen[0]["err"]["class"], &seen[0]["err"]["code"]),
        (&json!("FailureClass::Dependency"), &json!("request_failed"))
    );
}

/// A house whose downloads may come from this machine.
async fn downloading() -> House {
    let mut house = House::new().await;
    let policy = NetPolicy { allow: vec!["127.0.0.1".into()] };
    let downloader = Downloader { policy, bytes: 1 << 20, timeout: Duration::from_secs(20) };
    house.services.intake.downloader = Arc::new(downloader);
    house
}

/// The address and a call that puts it together, so that it stands nowhere in the params of the call.
fn resolve(web: &Web, path: &str) -> (String, Value) {
    (web.url(path), json!(["artifacts.resolve", web.url(""), path]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_fetched_from_where_the_task_was_told_or_a_rule_allows_and_nowhere_else() {
    let web = Web::start(|_| (200, Vec::new(), b"text".to_vec()));
    let mut house = downloading().await;
    let (given, call) = resolve(&web, "/given?signature=1");
    let (_, made_up) = resolve(&web, "/given?signature=1&and=what-i-know");
    let ask = |calls: Value| json!({"do": "script", "inputs": [{"url": given}], "calls": calls});

    let seen = house.seen(ask(json!([call, made_up]))).await;
    assert_eq!(seen[0]["ok"]["bytes"], 4, "{seen}");
    let denied = &seen[1]["err"];
    let told = (&denied["class"], &denied["code"]);
    assert_eq!(told, (&json!("FailureClass::Denied"), &json!("not_granted")), "{seen}");
    let message = denied["message"].as_str().unwrap();
    assert!(message.contains("/given") && message.contains("[plugins.grants.offender]"), "{message}");
    assert!(!message.contains("what-i-know"), "{message}");
    assert_eq!(web.asked().len(), 1, "nothing was asked");

    house.permits.grant.http = vec![rule("127.0.0.1", &["POST"], "/"), rule("127.0.0.1", &["GET"], "/files")];
    let (_, allowed) = resolve(&web, "/files/a?any=thing");
    let seen = house.seen(ask(json!([allowed, made_up]))).await;
    assert_eq!((&seen[0]["ok"]["bytes"], &seen[1]["err"]["code"]), (&json!(4), &json!("not_granted")), "{seen}");
    assert_eq!(web.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_given_to_the_parent_is_given_to_its_children() {
    let web = Web::start(|_| (200, Vec::new(), b"text".to_vec()));
    let house = downloading().await;
    let (given, call) = resolve(&web, "/given");
    let (_, other) = resolve(&web, "/other");
    let parent = house.task(json!({"do": "nothing", "travel": {"images": [given]}})).await;
    let child = child_of(&house, &parent, "child", json!({"do": "script", "calls": [call, other]})).await;
    let held = house.claim(child).await;
    let seen = text(house.start(&held, CancellationToken::new()).await);
    assert_eq!((&seen[0]["ok"]["bytes"], &seen[1]["err"]["code"]), (&json!(4), &json!("not_granted")), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_a_task_ended_with_is_fetched_by_those_who_may_look_at_it() {
    let web = Web::start(|_| (200, Vec::new(), b"text".to_vec()));
    let house = downloading().await;
    let (ended_with, call) = resolve(&web, "/result?signature=1");
    let (_, other) = resolve(&web, "/other");
    let calls = json!([call, other]);
    let end = async |held: &Held| {
        let output = Output::Text { text: ended_with.clone() };
        house.services.store.complete(held.task.id, held.token, output).await.unwrap();
    };
    let stranger = house.task(json!({"do": "nothing"})).await;
    end(&stranger).await;
    let seen = house.seen(json!({"do": "script", "calls": calls})).await;
    assert_eq!(seen[0]["err"]["code"], "not_granted", "of a stranger: {seen}");
    assert_eq!(web.asked().len(), 0);

    let given = house.seen(json!({"do": "script", "of": stranger.task.id, "calls": calls})).await;
    let parent = house.task(json!({"do": "nothing"})).await;
    let first = child_of(&house, &parent, "first", json!({"do": "nothing"})).await;
    end(&house.claim(first).await).await;
    let second = child_of(&house, &parent, "second", json!({"do": "script", "calls": calls})).await;
    let held = house.claim(second).await;
    let sibling = text(house.start(&held, CancellationToken::new()).await);
    for seen in [given, sibling] {
        assert_eq!((&seen[0]["ok"]["bytes"], &seen[1]["err"]["code"]), (&json!(4), &json!("not_granted")), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_count_with_the_files_that_a_start_makes() {
    let web = Web::start(|asked| (200, Vec::new(), asked.line.as_bytes()[..6].repeat(100_000)));
    let mut house = downloading().await;
    house.permits.limits.artifact_mb = 1;
    let fetch = |path: &str| json!(["artifacts.resolve", web.url(path)]);
    let calls = json!([fetch("/a"), fetch("/b"), fetch("/c"), ["artifacts.write", 1]]);
    let seen = ask(&house, calls).await;
    assert_eq!(seen[0]["ok"]["bytes"], 600_000, "{seen}");
    for over in 1..4 {
        assert_eq!(seen[over]["err"]["code"], "artifact_limit", "{seen}");
        assert!(seen[over]["err"]["message"].as_str().unwrap().contains("plugins.limits.artifact_mb"), "{seen}");
    }
    assert_eq!(web.asked().len(), 2, "over the limit, nothing more is fetched");
}
