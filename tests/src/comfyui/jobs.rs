//! `/api/jobs`: where a prompt is, in one answer.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::Server;
use super::queue::{Item, Record};
use super::routes::{body, json};

const STATES: [&str; 5] = ["pending", "in_progress", "completed", "failed", "cancelled"];

/// Keys of outputs that a page can show.
const SHOWN_KEYS: [&str; 5] = ["images", "video", "audio", "3d", "files"];

pub(super) async fn list(State(server): State<Arc<Server>>, Query(query): Query<HashMap<String, String>>) -> Response {
    match listed(&server, &query) {
        Ok(listed) => json(StatusCode::OK, &listed),
        Err(why) => refused(&why),
    }
}

pub(super) async fn one(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Response {
    match find(&server, &id) {
        Some(job) => json(StatusCode::OK, &job),
        None => json(StatusCode::NOT_FOUND, &json!({"error": "Job not found"})),
    }
}

pub(super) async fn cancel(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Response {
    json(StatusCode::OK, &json!({"cancelled": cancelled(&server, &id)}))
}

/// All of the ids, or, if one is malformed, none.
pub(super) async fn cancel_many(State(server): State<Arc<Server>>, headers: HeaderMap, sent: Body) -> Response {
    let bytes = match body(&server, &headers, sent).await {
        Ok(bytes) => bytes,
        Err(answer) => return answer,
    };
    let Ok(asked) = serde_json::from_slice::<Value>(&bytes) else { return refused("Request body must be valid JSON") };
    let Some(ids) = asked["job_ids"].as_array() else { return refused("job_ids must be a list") };
    let invalid: Vec<&Value> = ids.iter().filter(|id| !id.as_str().is_some_and(super::routes::is_prompt_id)).collect();
    if !invalid.is_empty() {
        let answer = json!({"error": "job_ids contains invalid id(s)", "invalid_ids": invalid});
        return json(StatusCode::BAD_REQUEST, &answer);
    }
    let mut any = false;
    for id in ids.iter().filter_map(Value::as_str) {
        any |= cancelled(&server, id);
    }
    json(StatusCode::OK, &json!({"cancelled": any}))
}

fn refused(why: &str) -> Response {
    json(StatusCode::BAD_REQUEST, &json!({"error": why}))
}

fn cancelled(server: &Server, id: &str) -> bool {
    super::routes::interrupt_running(server, id) || server.queue.delete(id, |remaining| server.hub.status(remaining))
}

fn find(server: &Server, id: &str) -> Option<Value> {
    let (running, pending) = server.queue.listed();
    if let Some(item) = running.filter(|item| item.prompt_id == id) {
        return Some(waiting(&item, "in_progress"));
    }
    if let Some(item) = pending.iter().find(|item| item.prompt_id == id) {
        return Some(waiting(item, "pending"));
    }
    let record = server.queue.record(id)?;
    let mut job = over(&record);
    job["outputs"] = json!(record.ended.outputs);
    job["execution_status"] = record.status();
    job["workflow"] = json!({"prompt": record.item.graph, "extra_data": record.item.extra_data});
    Some(job)
}

fn listed(server: &Server, query: &HashMap<String, String>) -> Result<Value, String> {
    let number = |name: &str| -> Result<Option<i64>, String> {
        query.get(name).map(|text| text.parse().map_err(|_| format!("{name} must be an integer"))).transpose()
    };
    let states: Option<Vec<&str>> = query.get("status").map(|text| text.split(',').map(str::trim).collect());
    let unknown: Vec<&str> = states.iter().flatten().filter(|state| !STATES.contains(*state)).copied().collect();
    if !unknown.is_empty() {
        return Err(format!("Invalid status value(s): {}. Valid values: {}", unknown.join(", "), STATES.join(", ")));
    }
    let sort_by = query.get("sort_by").map_or("created_at", String::as_str);
    if !["created_at", "execution_duration"].contains(&sort_by) {
        return Err("sort_by must be 'created_at' or 'execution_duration'".to_string());
    }
    let sort_order = query.get("sort_order").map_or("desc", String::as_str);
    if !["asc", "desc"].contains(&sort_order) {
        return Err("sort_order must be 'asc' or 'desc'".to_string());
    }
    let limit = number("limit")?;
    if limit.is_some_and(|limit| limit < 1) {
        return Err("limit must be a positive integer".to_string());
    }
    let offset = usize::try_from(number("offset")?.unwrap_or(0).max(0)).unwrap_or(0);

    let (running, pending) = server.queue.listed();
    let mut jobs: Vec<(u64, Value)> = Vec::new();
    jobs.extend(pending.iter().map(|item| (item.sequence, waiting(item, "pending"))));
    jobs.extend(running.iter().map(|item| (item.sequence, waiting(item, "in_progress"))));
    jobs.extend(server.queue.records().iter().map(|record| (record.item.sequence, over(record))));
    jobs.retain(|(_, job)| {
        states.as_ref().is_none_or(|states| states.iter().any(|state| job["status"] == *state))
            && query.get("workflow_id").is_none_or(|id| job["workflow_id"] == id.as_str())
    });
    let duration = |job: &Value| {
        job["execution_end_time"]
            .as_u64()
            .unwrap_or(0)
            .saturating_sub(job["execution_start_time"].as_u64().unwrap_or(0))
    };
    jobs.sort_by_key(
        |(sequence, job)| if sort_by == "created_at" { (*sequence, 0) } else { (duration(job), *sequence) },
    );
    if sort_order == "desc" {
        jobs.reverse();
    }
    let total = jobs.len();
    let most = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let page: Vec<Value> = jobs.into_iter().skip(offset).take(most).map(|(_, job)| job).collect();
    let has_more = offset + page.len() < total;
    Ok(json!({
        "jobs": page,
        "pagination": {"offset": offset, "limit": limit, "total": total, "has_more": has_more},
    }))
}

fn waiting(item: &Item, status: &str) -> Value {
    let mut job = json!({
        "id": item.prompt_id,
        "status": status,
        "priority": item.number,
        "create_time": item.create_time_ms,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    });
    add_workflow_id(&mut job, item);
    job
}

fn add_workflow_id(job: &mut Value, item: &Item) {
    let id = &item.extra_data["extra_pnginfo"]["workflow"]["id"];
    if !id.is_null() {
        job["workflow_id"] = id.clone();
    }
}

fn over(record: &Record) -> Value {
    let told = |kind: &str| {
        let messages = record.ended.messages.iter();
        messages.filter(|message| message[0] == kind).map(|message| message[1].clone()).next_back()
    };
    let status = match (record.ended.success, told("execution_interrupted")) {
        (true, _) => "completed",
        (false, Some(_)) => "cancelled",
        (false, None) => "failed",
    };
    let mut job = waiting(&record.item, status);
    if let Some(start) = told("execution_start") {
        job["execution_start_time"] = start["timestamp"].clone();
    }
    if let Some(last) = record.ended.messages.last() {
        job["execution_end_time"] = last[1]["timestamp"].clone();
    }
    if let Some(error) = told("execution_error") {
        job["execution_error"] = error;
    }
    let (count, shown, preview) = counted(&record.ended.outputs);
    job["outputs_count"] = json!(count);
    job["previewable_outputs_count"] = json!(shown);
    if let Some(preview) = preview {
        job["preview_output"] = preview;
    }
    job
}

/// How many items there are, how many of them a page can show, and the one it would: the first that is no preview.
fn counted(outputs: &Map<String, Value>) -> (usize, usize, Option<Value>) {
    let (mut count, mut shown) = (0, 0);
    let (mut first, mut fallback) = (None, None);
    for (node, keys) in outputs {
        for (key, items) in keys.as_object().into_iter().flatten() {
            for item in items.as_array().into_iter().flatten().filter(|item| item.is_object()) {
                count += 1;
                let format = item["format"].as_str().unwrap_or_default();
                let moving = format.starts_with("video/") || format.starts_with("audio/");
                if !moving && !SHOWN_KEYS.contains(&key.as_str()) {
                    continue;
                }
                shown += 1;
                let place = if item["type"] == "output" { &mut first } else { &mut fallback };
                place.get_or_insert_with(|| {
                    let mut preview = item.clone();
                    preview["nodeId"] = json!(node);
                    preview["mediaType"] = json!(key);
                    preview
                });
            }
        }
    }
    (count, shown, first.or(fallback))
}
