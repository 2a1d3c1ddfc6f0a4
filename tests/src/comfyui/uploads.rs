//! `/upload/image` and `/upload/mask`: any file, into one of the three folders.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use super::routes::{body, empty, fault, json};
use super::{Server, files};

/// The form of an upload.
#[derive(Default)]
struct Form {
    /// `image`: bytes, and the file name if it came with one.
    image: Option<(Option<String>, Bytes)>,
    texts: HashMap<String, String>,
}

pub(super) async fn image(State(server): State<Arc<Server>>, request: Request) -> Response {
    upload(&server, request, false).await
}

/// A mask names the picture it belongs to (`original_ref`), which must be there; the file is kept as it is.
pub(super) async fn mask(State(server): State<Arc<Server>>, request: Request) -> Response {
    upload(&server, request, true).await
}

async fn upload(server: &Server, request: Request, mask: bool) -> Response {
    let (head, sent) = request.into_parts();
    let bytes = match body(server, &head.headers, sent).await {
        Ok(bytes) => bytes,
        Err(answer) => return answer,
    };
    let request = Request::from_parts(head, Body::from(bytes));
    let Ok(multipart) = Multipart::from_request(request, &()).await else { return empty(StatusCode::BAD_REQUEST) };
    let Ok(form) = read(multipart).await else { return fault() };
    match keep(server, form, mask) {
        Ok(kept) => json(StatusCode::OK, &kept),
        Err(Refused::Bad) => empty(StatusCode::BAD_REQUEST),
        Err(Refused::Broken) => fault(),
    }
}

async fn read(mut multipart: Multipart) -> Result<Form, axum::extract::multipart::MultipartError> {
    let mut form = Form::default();
    while let Some(field) = multipart.next_field().await? {
        let name = field.name().unwrap_or_default().to_string();
        let file = field.file_name().map(|name| name.replace("\\\\", "\\").replace("\\\"", "\""));
        let bytes = field.bytes().await?;
        if name == "image" {
            form.image = Some((file, bytes));
        } else {
            form.texts.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Ok(form)
}

enum Refused {
    /// 400 without a word.
    Bad,
    /// 500.
    Broken,
}

fn keep(server: &Server, form: Form, mask: bool) -> Result<Value, Refused> {
    let (name, bytes) = form.image.ok_or(Refused::Bad)?;
    let text = |name: &str| form.texts.get(name).map(String::as_str);
    let kind = text("type").unwrap_or("input");
    let folder = files::folder(&server.options, kind).ok_or(Refused::Broken)?;
    let name = name.ok_or(Refused::Broken)?;
    // A leading slash does not survive the reading of the form.
    let name = name.trim_start_matches('/');
    if name.is_empty() {
        return Err(Refused::Bad);
    }
    let subfolder = text("subfolder").unwrap_or_default();
    let target = files::inside(&folder, subfolder).ok_or(Refused::Bad)?;
    files::inside(&target, name).ok_or(Refused::Bad)?;
    if mask && let Some(reference) = text("original_ref") {
        original(server, reference)?;
    }
    std::fs::create_dir_all(&target).map_err(|_| Refused::Broken)?;
    let overwrite = text("overwrite").is_some_and(|value| value == "true" || value == "1");
    let name = if overwrite { name.to_string() } else { free_name(&target, name, &bytes) };
    std::fs::write(target.join(&name), &bytes).map_err(|_| Refused::Broken)?;
    server.seen().uploads.push(name.clone());
    Ok(json!({"name": name, "subfolder": subfolder, "type": kind}))
}

/// The name itself, or with a number, unless a file of that name holds the same bytes.
fn free_name(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (name, ""),
    };
    let mut candidate = name.to_string();
    for number in 1_u32.. {
        let path = folder.join(&candidate);
        if !path.exists() || std::fs::read(&path).is_ok_and(|there| there == bytes) {
            break;
        }
        candidate = format!("{stem} ({number}){extension}");
    }
    candidate
}

fn original(server: &Server, reference: &str) -> Result<(), Refused> {
    let reference: Value = serde_json::from_str(reference).map_err(|_| Refused::Broken)?;
    let name = reference["filename"].as_str().ok_or(Refused::Bad)?;
    let kind = reference["type"].as_str().unwrap_or("output");
    let folder = files::folder(&server.options, kind).ok_or(Refused::Bad)?;
    let folder = files::inside(&folder, reference["subfolder"].as_str().unwrap_or_default()).ok_or(Refused::Bad)?;
    let file = files::inside(&folder, name).ok_or(Refused::Bad)?;
    if file.is_file() { Ok(()) } else { Err(Refused::Bad) }
}
