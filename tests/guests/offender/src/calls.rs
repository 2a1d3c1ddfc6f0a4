//! Calls of the host: all of them once, as many as possible, or by a script.

use enginehouse_sdk::bindings::enginehouse::plugin::types::{Failure, FailureClass, Outcome, Product};
use enginehouse_sdk::bindings::enginehouse::plugin::{
    artifacts, assist, engines, http, media, progress, secrets, settings, tasks,
};
use serde_json::{Value, json};

use crate::world;

const NO_FILE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// One call of every function, and the code it failed with.
pub fn all() -> Value {
    let request = || http::Request {
        method: "GET".into(),
        url: "http://example.com/".into(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    progress::report(Some(0.5), "offending");
    json!({
        "engines.submit-generation": code(engines::submit_generation("{}", "{}")),
        "engines.submit-workflow": code(engines::submit_workflow("{}", "{}")),
        "engines.wait": code(engines::wait("x", Some(1))),
        "engines.wait-any": code(engines::wait_any(&[])),
        "engines.cancel": code(engines::cancel("x")),
        "engines.model-info": code(engines::model_info("x")),
        "tasks.create": code(tasks::create(&[])),
        "tasks.children": code(tasks::children("x")),
        "tasks.get": code(tasks::get("x")),
        "tasks.wait": code(tasks::wait(&["x".into()])),
        "tasks.cancel": code(tasks::cancel("x")),
        "tasks.remove": code(tasks::remove("x")),
        "artifacts.resolve": code(artifacts::resolve("/etc/passwd")),
        "artifacts.read": code(artifacts::read(NO_FILE, 0, 1)),
        "artifacts.write": code(artifacts::write(b"x", "x.txt")),
        "artifacts.publish": code(artifacts::publish(NO_FILE, "x")),
        "media.probe": code(media::probe(NO_FILE)),
        "media.render": code(media::render("{}")),
        "assist.caption": code(assist::caption("{}")),
        "assist.guidance": code(assist::guidance("{}")),
        "http.send": code(http::send(&request())),
        "http.send-once": code(http::send_once(&request())),
        "settings.get": code(settings::get()),
        "secrets.placeholder": code(secrets::placeholder("x")),
    })
}

fn code<T>(result: Result<T, Failure>) -> String {
    result.map_or_else(|failure| failure.code, |_| "ok".into())
}

/// Calls without end; their failures are ignored.
pub fn flood() -> ! {
    loop {
        let _ = settings::get();
    }
}

/// Calls by a list: `["function", argument …]` each. The answers, failures included.
pub fn script(calls: &Value) -> Value {
    calls.as_array().map_or(Value::Null, |calls| calls.iter().map(one).collect())
}

fn one(call: &Value) -> Value {
    let text = |index: usize| call[index].as_str().unwrap_or_default();
    let number = |index: usize| call[index].as_u64().unwrap_or_default();
    let request = || http::Request {
        method: text(1).into(),
        url: text(2).into(),
        headers: call[3].as_object().map_or_else(Vec::new, |headers| {
            headers.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().into())).collect()
        }),
        body: text(4).as_bytes().to_vec(),
    };
    let answered = |response: http::Response| {
        json!({
            "status": response.status,
            "headers": response.headers,
            "body": String::from_utf8_lossy(&response.body),
        })
    };
    match text(0) {
        "settings.get" => said(settings::get().map(parsed)),
        "secrets.placeholder" => said(secrets::placeholder(text(1)).map(Value::from)),
        "engines.submit-generation" => {
            said(engines::submit_generation(&call[1].to_string(), r#"{"label": "one"}"#).map(Value::from))
        }
        "engines.submit-workflow" => said(engines::submit_workflow(&call[1].to_string(), "{}").map(Value::from)),
        "engines.wait" => said(engines::wait(text(1), None).map(parsed)),
        "tasks.create" => {
            let mut children: Vec<_> = (0..number(1)).map(|n| child(&format!("child {n}"), None)).collect();
            for child in &mut children {
                if let Some(params) = call[2].as_object() {
                    child.params = json!(params).to_string();
                }
                if let Some(options) = call[3].as_object() {
                    child.options = json!(options).to_string();
                }
            }
            said(tasks::create(&children).map(Value::from))
        }
        "tasks.children" => said(tasks::children(text(1)).map(parsed)),
        // Put together here, an id or an address stands nowhere in the params.
        "tasks.get" => said(tasks::get(&format!("{}{}", text(1), text(2))).map(parsed)),
        "tasks.wait" => said(tasks::wait(&[text(1).into()]).map(parsed)),
        "tasks.cancel" => said(tasks::cancel(text(1)).map(Value::from)),
        "tasks.remove" => said(tasks::remove(text(1)).map(Value::from)),
        "artifacts.resolve" => said(artifacts::resolve(&format!("{}{}", text(1), text(2))).map(parsed)),
        "artifacts.write" => said(artifacts::write(&vec![b'x'; number(1) as usize], "x.txt").map(Value::from)),
        "artifacts.read" => said(artifacts::read(text(1), 0, 1 << 20).map(|bytes| Value::from(bytes.len()))),
        "artifacts.publish" => said(artifacts::publish(text(1), "published.txt").map(Value::from)),
        "http.send" => said(http::send(&request()).map(answered)),
        "http.send-once" => said(http::send_once(&request()).map(answered)),
        "clock" => world::clock(),
        "random" => world::random(),
        other => json!(format!("`{other}` is no call I know")),
    }
}

fn said(result: Result<Value, Failure>) -> Value {
    match result {
        Ok(value) => json!({ "ok": value }),
        Err(f) => json!({ "err": { "class": format!("{:?}", f.class), "code": f.code, "message": f.message } }),
    }
}

fn parsed(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn child(key: &str, after: Option<u32>) -> tasks::NewChild {
    tasks::NewChild {
        key: key.into(),
        task_type: "offender".into(),
        params: json!({ "do": "nothing", "key": key }).to_string(),
        depends_on: after.map(tasks::Dependency::Sibling).into_iter().collect(),
        options: "{}".into(),
    }
}

/// A handler as they are in earnest: settings, children, two engine jobs, a request, a file; time and randomness go into
/// what it asks for and what it returns.
pub fn work(params: &Value) -> Result<Outcome, Failure> {
    let settings = settings::get()?;
    let children = tasks::create(&[child("first", None), child("second", Some(0))])?;
    let again = tasks::create(&[child("first", None)])?;
    let random = world::random();
    let job = |prompt: &str| engines::submit_generation(&json!({ "prompt": prompt }).to_string(), "{}");
    let jobs = [job(&random.to_string())?, job("second")?];
    let any = engines::wait_any(&jobs)?;
    let rest = engines::wait(&jobs[1 - any.index as usize], Some(60))?;
    let model = engines::model_info("vace_14B")?;
    let answer = http::send(&http::Request {
        method: "POST".into(),
        url: params["url"].as_str().unwrap_or_default().into(),
        headers: Vec::new(),
        body: random.to_string().into_bytes(),
    })?;
    let known = tasks::children(params["id"].as_str().unwrap_or_default())?;
    let large = artifacts::write(&vec![7; 100_000], "large.bin")?;
    let read = artifacts::read(&large, 0, 100_000)?;
    let clock = world::clock();
    let facts = json!({
        "settings": parsed(settings),
        "children": children,
        "again": again,
        "any": any.outcome.map(parsed).map_err(|failure| failure.code),
        "rest": parsed(rest),
        "model": parsed(model),
        "status": answer.status,
        "known": parsed(known).as_array().map(Vec::len),
        "read": read.len(),
        "random": random,
        "clock": clock,
    });
    let result = artifacts::write(facts.to_string().as_bytes(), "result.json")?;
    tasks::remove(&children[1])?;
    tasks::cancel(&children[0])?;
    if again[0] != children[0] {
        return Err(Failure {
            class: FailureClass::Internal,
            code: "child_made_twice".into(),
            message: format!("{again:?} {children:?}"),
            retry: false,
        });
    }
    Ok(Outcome::Product(Product { artifact: result, name: "result.json".into(), facts: facts.to_string() }))
}
