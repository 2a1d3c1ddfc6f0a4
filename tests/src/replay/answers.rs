//! What can be asked over HTTP: always what agrees with what has been played so far.

use serde_json::{Map, Value, json};

use super::files::{self, Found};
use super::recording::{Body, Request, Response, What};
use super::stage::{Reply, Stage};

impl Stage {
    /// Answers everything but submissions.
    pub fn ask(&mut self, request: &Request) -> Reply {
        let get = matches!(request.method.as_str(), "GET" | "HEAD");
        let body = request.json.clone().unwrap_or_default();
        let response = match request.path.as_str() {
            "/prompt" if get => Response::of_json(200, json!({"exec_info": {"queue_remaining": self.remaining()}})),
            "/queue" if get => self.queue(),
            "/queue" => self.change_queue(&body),
            "/history" if get => self.history(),
            "/history" => self.change_history(&body),
            "/interrupt" => {
                let id = body["prompt_id"].as_str();
                self.must_be_own("interrupt", id);
                self.interrupt(id);
                Response::empty(200)
            }
            "/view" => return self.view(request),
            "/api/jobs" if get => self.jobs(),
            "/api/jobs/cancel" => self.cancel_all(&body),
            path => {
                if let Some(id) = path.strip_prefix("/history/") {
                    return self.record(id);
                }
                let Some(rest) = path.strip_prefix("/api/jobs/") else { return self.recorded_or_default(request) };
                match rest.strip_suffix("/cancel") {
                    Some(id) => self.cancel(id),
                    None => self.job(rest),
                }
            }
        };
        Reply::Response(response)
    }

    fn queue(&self) -> Response {
        let running = self.running();
        let mut pending: Vec<usize> =
            (0..self.runs.len()).filter(|&k| self.runs[k].open() && Some(k) != running).collect();
        pending.sort_by(|&a, &b| self.order(a).total_cmp(&self.order(b)));
        let item = |k: usize| {
            let (submission, run) = (&self.tape.submissions[k], &self.runs[k]);
            let number = if submission.number.is_null() { json!(k) } else { submission.number.clone() };
            let outputs = submission.record.as_ref().map_or(json!([]), |record| record["prompt"][4].clone());
            json!([number, run.id, submission.graph, self.extra_data(k), outputs])
        };
        let running: Vec<Value> = running.into_iter().map(item).collect();
        let pending: Vec<Value> = pending.into_iter().map(item).collect();
        Response::of_json(200, json!({"queue_running": running, "queue_pending": pending}))
    }

    fn extra_data(&self, k: usize) -> Value {
        let submission = &self.tape.submissions[k];
        let mut extra = submission.extra_data.as_object().cloned().unwrap_or_default();
        extra.insert("client_id".into(), json!(submission.client));
        Value::Object(extra)
    }

    fn change_queue(&mut self, body: &Value) -> Response {
        let listed = body["delete"].as_array().cloned().unwrap_or_default();
        let mut ids: Vec<String> = listed.iter().filter_map(|id| id.as_str().map(str::to_string)).collect();
        ids.iter().for_each(|id| self.must_be_own("take from the queue", Some(id)));
        if body["clear"] == true {
            self.must_be_own("take from the queue", None);
            ids.extend(self.runs.iter().filter(|run| run.open()).map(|run| run.id.clone()));
        }
        ids.iter().for_each(|id| {
            self.remove(id);
        });
        Response::empty(200)
    }

    /// Every record, the oldest first; of one id, the last.
    fn history(&self) -> Response {
        let mut over: Vec<usize> = (0..self.runs.len()).filter(|&k| self.runs[k].record.is_some()).collect();
        over.sort_by_key(|&k| self.runs[k].place);
        let mut records = Map::new();
        for k in over {
            records.insert(self.runs[k].id.clone(), self.runs[k].record.clone().unwrap_or_default());
        }
        Response::of_json(200, Value::Object(records))
    }

    fn change_history(&mut self, body: &Value) -> Response {
        let listed = body["delete"].as_array().cloned().unwrap_or_default();
        listed.iter().for_each(|id| self.must_be_own("delete the record of", id.as_str()));
        if body["clear"] == true {
            self.must_be_own("delete the record of", None);
        }
        for run in self.runs.iter_mut().filter(|run| run.over) {
            if body["clear"] == true || listed.contains(&json!(run.id)) {
                run.record = None;
            }
        }
        Response::empty(200)
    }

    fn record(&mut self, id: &str) -> Reply {
        let of_id = (0..self.runs.len()).filter(|&k| self.runs[k].id == id && self.runs[k].over);
        let Some(k) = of_id.max_by_key(|&k| self.runs[k].place) else {
            return Reply::Response(Response::of_json(200, json!({})));
        };
        // The record was late, or could not be read at first.
        let early = self.tape.submissions[k].early.get(self.runs[k].early).copied();
        if let Some(early) = early
            && self.runs[k].early < MOST_EARLY
            && self.runs[k].record.is_some()
        {
            self.runs[k].early += 1;
            return match self.tape.what(early) {
                What::Response { response, .. } => Reply::Response(self.response(Some(k), response)),
                _ => Reply::Cut,
            };
        }
        let record = self.runs[k].record.clone();
        let answer: Map<String, Value> = record.map(|record| (id.to_string(), record)).into_iter().collect();
        Reply::Response(Response::of_json(200, Value::Object(answer)))
    }

    fn view(&mut self, request: &Request) -> Reply {
        let name = files::asked(&request.query);
        if name.2.is_empty() {
            return Reply::Response(Response::empty(404));
        }
        let times = self.count(&format!("/view {name:?} {:?}", self.latest));
        let since = self.latest.map_or(0, |k| self.tape.submissions[k].request);
        let found = self.files.look(&name, self.cursor, since, times, &self.tape);
        let bytes = |recorded: Option<&Response>| Body::Bytes { head: files::content(&name.2, recorded), length: 0 };
        Reply::Response(match found {
            Found::Missing => Response::empty(404),
            Found::Bytes => Response {
                status: 200,
                content_type: "application/octet-stream".into(),
                body: bytes(None),
                ..Response::default()
            },
            Found::Recorded(answer) => {
                let Some(recorded) = self.tape.response(answer) else { return Reply::Cut };
                let body = if recorded.status == 200 { bytes(Some(recorded)) } else { recorded.body.clone() };
                Response { body, ..recorded.clone() }
            }
        })
    }

    // Jobs.

    /// The last prompt with this id.
    fn latest_run(&self, id: &str) -> Option<usize> {
        let known = |k: &usize| self.runs[*k].id == id && (self.runs[*k].open() || self.runs[*k].record.is_some());
        (0..self.runs.len())
            .rev()
            .find(|k| known(k) && self.runs[*k].own)
            .or_else(|| (0..self.runs.len()).rev().find(known))
    }

    fn jobs(&self) -> Response {
        if let Some(absent) = &self.tape.no_jobs {
            return absent.clone();
        }
        let known = (0..self.runs.len()).filter(|&k| self.runs[k].open() || self.runs[k].record.is_some());
        let jobs: Vec<Value> = known.map(|k| self.job_of(k)).collect();
        let page = json!({"offset": 0, "limit": null, "total": jobs.len(), "has_more": false});
        Response::of_json(200, json!({"jobs": jobs, "pagination": page}))
    }

    fn job(&self, id: &str) -> Response {
        match (&self.tape.no_jobs, self.latest_run(id)) {
            (Some(absent), _) => absent.clone(),
            (None, Some(k)) => Response::of_json(200, self.job_of(k)),
            (None, None) => Response::of_json(404, json!({"error": "Job not found"})),
        }
    }

    fn job_of(&self, k: usize) -> Value {
        let (submission, run) = (&self.tape.submissions[k], &self.runs[k]);
        let last = |record: &Value| {
            let messages = record["status"]["messages"].as_array();
            messages.and_then(|all| all.last()).map(|last| last[0].as_str().unwrap_or_default().to_string())
        };
        let status = match &run.record {
            None if self.running() == Some(k) => "in_progress",
            None => "pending",
            Some(record) if last(record).as_deref() == Some("execution_interrupted") => "cancelled",
            Some(record) if record["status"]["status_str"] == "error" => "failed",
            Some(_) => "completed",
        };
        if let Some(recorded) = submission.jobs.get(status) {
            return super::ids::rewrite(recorded, &self.pairs(Some(k)));
        }
        let outputs = run.record.as_ref().map_or(json!({}), |record| record["outputs"].clone());
        let count = outputs.as_object().map_or(0, Map::len);
        let mut job = json!({
            "id": run.id,
            "status": status,
            "priority": submission.number,
            "create_time": 0,
            "outputs_count": count,
            "previewable_outputs_count": count,
        });
        if let Some(record) = &run.record {
            job["outputs"] = outputs;
            job["execution_status"] = record["status"].clone();
            job["workflow"] = json!({"prompt": submission.graph, "extra_data": self.extra_data(k)});
        }
        job
    }

    fn cancel(&mut self, id: &str) -> Response {
        self.must_be_own("cancel", Some(id));
        match self.tape.no_cancel.clone() {
            Some(absent) => absent,
            None => Response::of_json(200, json!({"cancelled": self.remove(id) || self.interrupt(Some(id))})),
        }
    }

    fn cancel_all(&mut self, body: &Value) -> Response {
        if let Some(absent) = self.tape.no_cancel.clone() {
            return absent;
        }
        let listed = body["job_ids"].as_array().cloned().unwrap_or_default();
        let is_id = |id: &Value| id.as_str().is_some_and(|id| uuid::Uuid::try_parse(id).is_ok());
        let invalid: Vec<&Value> = listed.iter().filter(|id| !is_id(id)).collect();
        if !invalid.is_empty() {
            return Response::of_json(400, json!({"error": "job_ids contains invalid id(s)", "invalid_ids": invalid}));
        }
        let ids: Vec<String> = listed.iter().filter_map(|id| id.as_str().map(str::to_string)).collect();
        let done = ids.iter().filter(|id| self.remove(id) || self.interrupt(Some(id))).count();
        Response::of_json(200, json!({"cancelled": done > 0}))
    }

    /// A server may be shared: a client touches no prompt but its own.
    fn must_be_own(&mut self, what: &str, id: Option<&str>) {
        if id.is_none_or(|id| !self.runs.iter().any(|run| run.own && run.id == id)) {
            let whom =
                id.map_or("everybody's prompts".into(), |id| format!("the prompt {id}, which is not the client's"));
            self.surprises.push(format!("the client asked to {what} {whom}"));
        }
    }

    // The rest.

    /// What was recorded for the same request, in order, the last one for ever; else what any server would say.
    fn recorded_or_default(&mut self, request: &Request) -> Reply {
        let same = |recorded: &Request| {
            (&recorded.method, &recorded.path, &recorded.query) == (&request.method, &request.path, &request.query)
                && recorded.headers.iter().all(|(name, value)| request.headers.get(name) == Some(value))
                && recorded.json == request.json
        };
        let answers: Vec<usize> = (0..self.tape.len())
            .filter(|&event| matches!(self.tape.what(event), What::Request(recorded) if same(recorded)))
            .filter_map(|event| self.tape.answer_of(event))
            // Refused connections belong to the server being down, which it is not.
            .filter(|&answer| {
                let before_up = self.tape.late.flatten().is_some_and(|up| answer < up);
                let dead = self
                    .tape
                    .deaths
                    .iter()
                    .any(|(died, back)| answer >= *died && back.is_none_or(|back| answer < back));
                !before_up && !dead
            })
            .collect();
        let times = self.count(&format!("{} {} {:?}", request.method, request.path, request.query));
        if let Some(&answer) = answers.get(times.min(answers.len().saturating_sub(1))) {
            return match self.tape.what(answer) {
                What::Response { response, .. } if empty_json(response) => {
                    Reply::Response(self.default_answer(request))
                }
                What::Response { response, .. } => Reply::Response(self.response(None, response)),
                _ => Reply::Cut,
            };
        }
        Reply::Response(self.default_answer(request))
    }

    fn default_answer(&self, request: &Request) -> Response {
        let version = &self.tape.recording.version;
        match (request.method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", "/system_stats") => {
                let system =
                    json!({"os": "linux", "comfyui_version": version, "ram_total": 0, "ram_free": 0, "argv": []});
                let device = json!({"name": "cpu", "type": "cpu", "index": null, "vram_total": 0, "vram_free": 0});
                Response::of_json(200, json!({"system": system, "devices": [device]}))
            }
            ("GET", "/features") => Response::of_json(200, self.features()),
            ("GET", path) if path == "/object_info" || path.starts_with("/object_info/") => {
                Response::of_json(200, json!({}))
            }
            ("POST", "/free") => Response::empty(200),
            ("GET" | "HEAD", _) => Response::of_text(404, "404: Not Found"),
            _ => Response::of_text(405, "405: Method Not Allowed"),
        }
    }

    /// What the server says it can do.
    pub fn features(&self) -> Value {
        let told = self.tape.recording.events.iter().find_map(|event| match &event.what {
            What::Text { frame, .. } if frame["type"] == "feature_flags" => Some(frame["data"].clone()),
            _ => None,
        });
        told.unwrap_or_else(|| json!({"supports_preview_metadata": true, "max_upload_size": 104_857_600}))
    }

    fn count(&mut self, what: &str) -> usize {
        let times = self.asked.entry(what.into()).or_default();
        *times += 1;
        *times - 1
    }
}

/// Most answers that are given between the end of a prompt and its record.
const MOST_EARLY: usize = 5;

/// An answer of which only the head was recorded, where a body belongs.
fn empty_json(response: &Response) -> bool {
    response.content_type.starts_with("application/json") && matches!(response.body, Body::Empty)
}
