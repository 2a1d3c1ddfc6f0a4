//! `http`: requests to the outside, within the operator's rules. Redirects are followed here and not by the client, so
//! that every address on the way is held to the same rules, and secrets meet only hosts they are bound to, encrypted.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Client, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use super::artifacts::Hex;
use super::contract::enginehouse::plugin::http::{self, Request, Response};
use super::{Capability, Reach, Shared, Start, http_rules, secrets};
use crate::digest::Digest;
use crate::net::{self, NetPolicy};
use crate::plugins::journal::{CallKey, Effect, Interrupt};
use crate::task::{Failure, FailureClass};

/// Redirects that one request may follow.
const REDIRECTS: usize = 10;

/// Headers that belong to the connection: set by the host, so that a request goes where its URL says.
const OWN_HEADERS: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "proxy-authorization",
    "proxy-connection",
];

/// A response, for the record.
#[derive(Serialize, Deserialize)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Hex,
}

impl http::Host for Start {
    async fn send(&mut self, request: Request) -> Result<Response, Interrupt> {
        self.request("http.send", request, Effect::Keyed).await
    }

    async fn send_once(&mut self, request: Request) -> Result<Response, Interrupt> {
        self.request("http.send-once", request, Effect::Once).await
    }
}

impl Start {
    async fn request(
        &mut self,
        function: &'static str,
        request: Request,
        effect: Effect,
    ) -> Result<Response, Interrupt> {
        let arguments = json!({
            "method": request.method,
            "url": request.url,
            "headers": request.headers,
            "body": { "sha256": Digest::of(&request.body), "bytes": request.body.len() },
        });
        let send = async move |reach: Shared, key: CallKey| -> Result<Answer, Interrupt> {
            let limit = reach.permits.limits.http_seconds;
            let sent = tokio::time::timeout(Duration::from_secs(limit), send(&reach, key, request)).await;
            Ok(sent.unwrap_or_else(|_| {
                let message = format!("no whole answer within {limit} seconds (`plugins.limits.http_seconds`)");
                Err(no_answer(&message).retryable())
            })?)
        };
        let answer: Answer = self.call(Some(Capability::Http), function, &arguments, effect, send).await?;
        Ok(Response { status: answer.status, headers: answer.headers, body: answer.body.bytes()? })
    }
}

/// One request, as it stands before the next redirect.
struct Hop {
    method: Method,
    url: Url,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

async fn send(reach: &Reach, key: CallKey, request: Request) -> Result<Answer, Failure> {
    fits(reach, "The request", &request.body)?;
    let mut hop = Hop {
        method: request.method.to_ascii_uppercase().parse().map_err(|_| {
            Failure::invalid("invalid_request", format!("`{}` is no HTTP method.", request.method.escape_default()))
        })?,
        url: request.url.parse().map_err(|e| Failure::invalid("invalid_request", format!("The URL is none: {e}.")))?,
        headers: request.headers,
        body: request.body,
    };
    if !hop.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("idempotency-key")) {
        hop.headers.push(("Idempotency-Key".into(), key.to_string()));
    }
    let policy = NetPolicy { allow: reach.permits.grant.addresses.clone() };
    let client = reach.http.get_or_try_init(async || policy.client_that_stays()).await?;
    for _ in 0..=REDIRECTS {
        http_rules::allowed(&reach.permits.plugin, &reach.permits.grant, hop.method.as_str(), &hop.url)?;
        policy.check_url(&hop.url)?;
        let (answer, next) = exchange(reach, client, &hop).await?;
        match next {
            Some(url) => hop = redirected(hop, answer.status, url)?,
            None => return Ok(answer),
        }
    }
    Err(no_answer(&format!("{} redirects more than {REDIRECTS} times", net::shown(&hop.url))))
}

/// Sends one request and reads its answer; with it, where it redirects to.
async fn exchange(reach: &Reach, client: &Client, hop: &Hop) -> Result<(Answer, Option<Url>), Failure> {
    let Filled { headers, body, secrets } = fill(reach, hop).await?;
    count(reach, body.len() as u64)?;
    let sent = client.request(hop.method.clone(), hop.url.clone()).headers(headers).body(body).send();
    let mut response = sent.await.map_err(|e| failed(&hop.url, e))?;

    let next = response
        .status()
        .is_redirection()
        .then(|| response.headers().get(LOCATION).and_then(|to| hop.url.join(to.to_str().ok()?).ok()))
        .flatten();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(&hidden(value.as_bytes(), &secrets)).into_owned())
        })
        .collect();
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| failed(&hop.url, e))? {
        count(reach, piece.len() as u64)?;
        body.extend_from_slice(&piece);
        fits(reach, "The answer", &body)?;
    }
    let body = Hex::of(&hidden(&body, &secrets));
    Ok((Answer { status: response.status().as_u16(), headers, body }, next))
}

/// The next hop of a redirect. As browsers do: after 303, and after 301 or 302 to a POST, it is a GET without a body.
fn redirected(mut hop: Hop, status: u16, url: Url) -> Result<Hop, Failure> {
    if hop.url.scheme() == "https" && url.scheme() != "https" {
        return Err(no_answer(&format!("it redirects from https to the unprotected address {}", net::shown(&url))));
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    let becomes_get = match status {
        StatusCode::SEE_OTHER => hop.method != Method::HEAD,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => hop.method == Method::POST,
        _ => false,
    };
    if becomes_get {
        hop.method = Method::GET;
        hop.body.clear();
        hop.headers.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("content-"));
    }
    // What proves who is asking is meant for the server that was asked.
    if url.origin() != hop.url.origin() {
        hop.headers.retain(|(name, _)| !matches!(name.to_ascii_lowercase().as_str(), "authorization" | "cookie"));
    }
    hop.url = url;
    Ok(hop)
}

/// Headers and body with the values of secrets in place of what stands for them.
struct Filled {
    headers: HeaderMap,
    body: Vec<u8>,
    /// Placeholder and value of those that were put in.
    secrets: Vec<(String, String)>,
}

/// Puts secrets in. Codes: `secret_not_bound`, `secret_not_granted`, `secret_missing`, `invalid_request`.
async fn fill(reach: &Reach, hop: &Hop) -> Result<Filled, Failure> {
    let mut secrets = Vec::new();
    for (name, grant) in &reach.permits.grant.secrets {
        let placeholder = secrets::placeholder(name);
        let used = contains(&hop.body, placeholder.as_bytes())
            || hop.headers.iter().any(|(_, value)| value.contains(&placeholder));
        if !used {
            continue;
        }
        if !http_rules::listed(&grant.hosts, &hop.url) {
            return Err(Failure::denied(
                "secret_not_bound",
                format!(
                    "The secret `{name}` may not be sent to {}: it is bound to {} \
                         (`[plugins.grants.{}.secrets.{name}]`, `hosts`).",
                    hop.url.host_str().unwrap_or_default(),
                    if grant.hosts.is_empty() { "no host".to_string() } else { grant.hosts.join(", ") },
                    reach.permits.plugin
                ),
            ));
        }
        if !http_rules::confidential(&reach.permits.grant, &grant.hosts, &hop.url) {
            return Err(unprotected(reach, name, &hop.url));
        }
        secrets.push((placeholder, secrets::value(name, grant).await?));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &hop.headers {
        if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            let message = format!("The header `{name}` is set by the host and cannot be given.");
            return Err(Failure::invalid("invalid_request", message));
        }
        let mut filled = value.clone();
        for (placeholder, secret) in &secrets {
            filled = filled.replace(placeholder, secret);
        }
        let bad = |what: &str| {
            // Not the value: it may hold a secret by now.
            Failure::invalid("invalid_request", format!("The header `{}` {what}.", name.escape_default()))
        };
        let name_of = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("has a name that is none"))?;
        let secret = filled != *value;
        let mut value = HeaderValue::from_str(&filled).map_err(|_| bad("has a value that no header can have"))?;
        value.set_sensitive(secret);
        headers.append(name_of, value);
    }
    let mut body = hop.body.clone();
    for (placeholder, secret) in &secrets {
        body = replaced(&body, placeholder.as_bytes(), secret.as_bytes());
    }
    Ok(Filled { headers, body, secrets })
}

fn unprotected(reach: &Reach, name: &str, url: &Url) -> Failure {
    let plugin = &reach.permits.plugin;
    let (scheme, host, port) =
        (url.scheme(), url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    Failure::denied(
        "secret_not_granted",
        format!(
            "The secret `{name}` is not sent by {scheme} to {host}, port {port}: secrets travel by https alone, on its usual \
             port or on one that `hosts` in `[plugins.grants.{plugin}.secrets.{name}]` names as {host}:PORT. Only an \
             address that stands in `addresses` of `[plugins.grants.{plugin}]` gets them otherwise."
        ),
    )
}

/// A server may send back what it was sent: the guest gets the placeholder again.
fn hidden(bytes: &[u8], secrets: &[(String, String)]) -> Vec<u8> {
    secrets.iter().fold(bytes.to_vec(), |bytes, (placeholder, secret)| {
        replaced(&bytes, secret.as_bytes(), placeholder.as_bytes())
    })
}

/// Counts bytes that were sent or received. Code `http_limit`.
fn count(reach: &Reach, bytes: u64) -> Result<(), Failure> {
    let limit = reach.permits.limits.http_mb;
    let before = reach.http_bytes.fetch_add(bytes, Ordering::Relaxed);
    if before.saturating_add(bytes) <= limit << 20 {
        return Ok(());
    }
    let plugin = &reach.permits.plugin;
    Err(Failure::denied(
        "http_limit",
        format!(
            "The plugin {plugin} sent and received more than {limit} MB by HTTP in one start. The limit is \
             `plugins.limits.http_mb`."
        ),
    ))
}

/// Whether a body, as far as it is there, is small enough: requests are for talking to services. Code `too_large`.
fn fits(reach: &Reach, what: &str, body: &[u8]) -> Result<(), Failure> {
    let limit = reach.permits.limits.http_body_mb;
    if body.len() as u64 <= limit.saturating_mul(1 << 20) {
        return Ok(());
    }
    let message = format!(
        "{what} has a body of more than {limit} MB. Files come in through `artifacts.resolve`. The limit is \
         `plugins.limits.http_body_mb`."
    );
    Err(Failure::denied("too_large", message))
}

fn failed(url: &Url, error: reqwest::Error) -> Failure {
    net::refusal(&error)
        .unwrap_or_else(|| no_answer(&format!("{}: {}", net::shown(url), net::innermost(&error))).retryable())
}

fn no_answer(why: &str) -> Failure {
    Failure::new(FailureClass::Dependency, "request_failed", format!("The request had no answer: {why}."))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn replaced(bytes: &[u8], part: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = (!part.is_empty()).then(|| rest.windows(part.len()).position(|w| w == part)).flatten() {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        out.extend_from_slice(by);
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_a_secret_is_replaced_wherever_it_is() {
        assert_eq!(replaced(b"a{{x}}b{{x}}", b"{{x}}", b"42"), b"a42b42");
        assert_eq!(replaced(b"none", b"{{x}}", b"42"), b"none");
        assert_eq!(replaced(b"none", b"", b"42"), b"none");
    }

    #[test]
    fn a_redirect_keeps_the_method_or_becomes_a_get_and_leaves_credentials_behind() {
        let hop = |method: Method| Hop {
            method,
            url: "https://a.example/x".parse().unwrap(),
            headers: vec![("Authorization".into(), "x".into()), ("Content-Type".into(), "y".into())],
            body: b"body".to_vec(),
        };
        let to = |url: &str| url.parse::<Url>().unwrap();
        let next = redirected(hop(Method::POST), 302, to("https://a.example/y")).unwrap();
        assert_eq!((next.method, next.body.len(), next.headers.len()), (Method::GET, 0, 1));
        let next = redirected(hop(Method::POST), 307, to("https://b.example/y")).unwrap();
        assert_eq!((next.method, next.body.len(), next.headers.len()), (Method::POST, 4, 1));
        assert_eq!(next.headers[0].0, "Content-Type");
        assert!(redirected(hop(Method::GET), 302, to("http://a.example/y")).is_err());
    }
}
