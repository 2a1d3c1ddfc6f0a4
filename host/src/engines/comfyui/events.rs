//! What the server says over its WebSocket, read into plain data. Nothing here is trusted to decide anything: messages
//! give progress, and hints that the record is worth a look.

use serde_json::Value;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// Sent to every socket; the first one after connecting confirms the registration.
    Status,
    /// About one prompt.
    About { prompt: String, news: News },
    /// A picture of the running prompt of this client; newer servers say of which.
    Preview { prompt: Option<String>, picture: Picture },
    /// Of no interest: other kinds, and `executing` without a prompt after a reconnection.
    Other,
}

/// News of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    Started,
    /// Nodes whose results are known already.
    Cached(Vec<String>),
    /// A node starts to run.
    Executing(String),
    /// A node's steps.
    Steps {
        node: String,
        value: f64,
        max: f64,
    },
    /// Every node that has left the queue so far.
    Nodes(Vec<NodeState>),
    Executed,
    /// The prompt is over, or about to be: time to look at the record.
    Over,
    /// It goes on, whatever the message was.
    Alive,
}

/// Where a node stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeState {
    pub id: String,
    /// The node of the workflow that it belongs to, when it came into being by expansion.
    pub shown_as: String,
    pub value: f64,
    pub max: f64,
    pub running: bool,
    pub finished: bool,
}

/// A picture in a binary frame.
#[derive(Clone, PartialEq)]
pub(super) struct Picture {
    pub bytes: bytes::Bytes,
    pub jpeg: bool,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} bytes, jpeg: {})", self.bytes.len(), self.jpeg)
    }
}

/// Reads a text frame. What is not understood is `Other`.
pub(super) fn text(frame: &str) -> Event {
    let Ok(message) = serde_json::from_str::<Value>(frame) else { return Event::Other };
    let none = Value::Null;
    let data = message.get("data").unwrap_or(&none);
    let kind = message.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind == "status" {
        return Event::Status;
    }
    let Some(prompt) = data.get("prompt_id").and_then(Value::as_str) else { return Event::Other };
    Event::About { prompt: prompt.to_string(), news: news(kind, data) }
}

fn news(kind: &str, data: &Value) -> News {
    let text = |key: &str| data.get(key).and_then(Value::as_str).map(String::from);
    let number = |value: Option<&Value>| value.and_then(Value::as_f64).unwrap_or(0.0);
    match kind {
        "execution_start" => News::Started,
        "execution_cached" => {
            let nodes = data.get("nodes").and_then(Value::as_array).into_iter().flatten();
            News::Cached(nodes.filter_map(Value::as_str).map(String::from).collect())
        }
        "executing" => match data.get("node") {
            Some(Value::String(node)) => News::Executing(text("display_node").unwrap_or_else(|| node.clone())),
            Some(Value::Null) => News::Over,
            _ => News::Alive,
        },
        "progress" => match text("node") {
            Some(node) => News::Steps { node, value: number(data.get("value")), max: number(data.get("max")) },
            None => News::Alive,
        },
        "progress_state" => {
            let nodes = data.get("nodes").and_then(Value::as_object).into_iter().flatten();
            News::Nodes(
                nodes
                    .map(|(id, node)| {
                        let state = node.get("state").and_then(Value::as_str).unwrap_or_default();
                        let shown = node.get("display_node_id").and_then(Value::as_str).unwrap_or(id);
                        NodeState {
                            id: id.clone(),
                            shown_as: shown.to_string(),
                            value: number(node.get("value")),
                            max: number(node.get("max")),
                            running: state == "running",
                            finished: state == "finished",
                        }
                    })
                    .collect(),
            )
        }
        "executed" => News::Executed,
        "execution_success" | "execution_interrupted" => News::Over,
        // A branch that a node blocked is reported like an error, and the prompt goes on.
        "execution_error" if text("exception_type").as_deref() == Some("ExecutionBlocked") => News::Alive,
        "execution_error" => News::Over,
        _ => News::Alive,
    }
}

/// Reads a binary frame: a big-endian event number, then what belongs to it.
pub(super) fn binary(frame: &bytes::Bytes) -> Event {
    let word = |at: usize| {
        let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    match word(0) {
        // 1 is JPEG, 2 PNG.
        Some(1) if frame.len() > 8 => {
            Event::Preview { prompt: None, picture: Picture { bytes: frame.slice(8..), jpeg: word(4) == Some(1) } }
        }
        Some(4) => {
            let about = word(4).and_then(|length| {
                let end = 8_usize.checked_add(length as usize)?;
                let about: Value = serde_json::from_slice(frame.get(8..end)?).ok()?;
                Some((about, end))
            });
            let Some((about, end)) = about.filter(|(_, end)| *end < frame.len()) else { return Event::Other };
            let text = |key: &str| about.get(key).and_then(Value::as_str);
            Event::Preview {
                prompt: text("prompt_id").map(String::from),
                picture: Picture { bytes: frame.slice(end..), jpeg: text("image_type") == Some("image/jpeg") },
            }
        }
        _ => Event::Other,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_blocked_branch_is_no_end_and_a_null_node_is_one() {
        let about = |frame: &str| match text(frame) {
            Event::About { news, .. } => news,
            other => panic!("{other:?}"),
        };
        let error = |kind: &str| {
            about(&format!(r#"{{"type":"execution_error","data":{{"prompt_id":"p","exception_type":"{kind}"}}}}"#))
        };
        assert_eq!(error("ExecutionBlocked"), News::Alive);
        assert_eq!(error("ValueError"), News::Over);
        assert_eq!(about(r#"{"type":"executing","data":{"prompt_id":"p","node":null}}"#), News::Over);
        assert_eq!(about(r#"{"type":"crystools.monitor","data":{"prompt_id":"p"}}"#), News::Alive);
        // Sent after a reconnection: it names no prompt and ends none.
        assert_eq!(text(r#"{"type":"executing","data":{"node":null}}"#), Event::Other);
    }

    #[test]
    fn pictures_of_both_kinds_of_frame_are_found() {
        let old = Bytes::from([&[0, 0, 0, 1, 0, 0, 0, 1][..], b"JPEG"].concat());
        assert_eq!(
            binary(&old),
            Event::Preview { prompt: None, picture: Picture { bytes: Bytes::from_static(b"JPEG"), jpeg: true } }
        );
        let about = br#"{"prompt_id":"p","image_type":"image/png"}"#;
        let length = u32::try_from(about.len()).unwrap().to_be_bytes();
        let new = Bytes::from([&[0, 0, 0, 4][..], &length, about, b"PNG"].concat());
        let Event::Preview { prompt, picture } = binary(&new) else { panic!("a preview") };
        assert_eq!((prompt.as_deref(), &picture.bytes[..], picture.jpeg), (Some("p"), &b"PNG"[..], false));
    }

    proptest! {
        #[test]
        fn no_frame_breaks_the_reader(frame in prop::collection::vec(any::<u8>(), 0..64), start in 0u8..6) {
            let mut frame = frame;
            frame.splice(0..0, [0, 0, 0, start]);
            let _ = binary(&Bytes::from(frame.clone()));
            let _ = text(&String::from_utf8_lossy(&frame));
        }
    }
}
