//! A workflow as a picture: a box for each node, in columns from what is loaded to what is saved, links between them, and the
//! literal inputs as far as there is room. As time goes on, the boxes fill one after the other, in the order of the graph.

use std::collections::BTreeMap;

use image::{Rgb, RgbImage};
use serde_json::{Map, Value};

use super::scene::stamp;
use super::text::{Type, WHITE, fill, mixed, shrunk, wrapped, write};
use crate::templates::graph;

const GROUND: Rgb<u8> = Rgb([24, 27, 33]);
const BOX: Rgb<u8> = Rgb([52, 58, 68]);
const DONE: Rgb<u8> = Rgb([38, 96, 90]);
const LINK: Rgb<u8> = Rgb([120, 128, 140]);
const GREY: Rgb<u8> = Rgb([176, 182, 190]);

/// Where a node is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

/// A node with everything that its box says.
struct Node {
    place: Place,
    class: String,
    /// Literal inputs: prompts first.
    inputs: Vec<String>,
    /// Positions of the nodes that it is linked to.
    from: Vec<usize>,
    /// What is drawn is its output.
    saves: bool,
}

/// The picture of one output.
pub struct GraphMap {
    width: u32,
    height: u32,
    /// In the order in which they fill.
    nodes: Vec<Node>,
    /// Says what the output is.
    caption: String,
}

impl GraphMap {
    /// `output`: the node whose output is drawn.
    pub fn new(workflow: &Map<String, Value>, output: &str, width: u32, height: u32, caption: String) -> Self {
        let columns = columns(workflow);
        let margin = (width.min(height) / 40).max(1);
        let (top, foot) = (head(width, height), foot(width, height));
        let room = height.saturating_sub(top + foot).max(1);
        let cell_width = (width.saturating_sub(2 * margin) / columns.len().max(1) as u32).max(1);
        let mut nodes: Vec<(&str, Node)> = Vec::new();
        for (column, ids) in columns.iter().enumerate() {
            let cell_height = (room / ids.len().max(1) as u32).max(1);
            for (row, id) in ids.iter().enumerate() {
                let node = workflow.get(*id);
                // A single node in a tall column stays a box and does not become a wall.
                let box_height = (cell_height * 4 / 5).min(room * 3 / 5).max(1);
                nodes.push((
                    id,
                    Node {
                        place: Place {
                            x: margin + column as u32 * cell_width + cell_width / 10,
                            y: top + row as u32 * cell_height + (cell_height - box_height) / 2,
                            width: (cell_width * 4 / 5).max(1),
                            height: box_height,
                        },
                        class: node.and_then(graph::class).unwrap_or("?").to_string(),
                        inputs: node.map(literals).unwrap_or_default(),
                        from: Vec::new(),
                        saves: *id == output,
                    },
                ));
            }
        }
        let at: BTreeMap<&str, usize> = nodes.iter().enumerate().map(|(i, (id, _))| (*id, i)).collect();
        let nodes = nodes.into_iter().map(|(id, mut node)| {
            let links = workflow.get(id).into_iter().flat_map(graph::links);
            node.from = links.filter_map(|(_, from)| at.get(from).copied()).collect();
            node
        });
        Self { width, height, nodes: nodes.collect(), caption }
    }

    /// The picture when `way` (0 to 1) of the run is done; `moment` says when that is.
    pub fn draw(&self, way: f32, moment: &str) -> RgbImage {
        let mut picture = RgbImage::from_pixel(self.width, self.height, GROUND);
        let reached = way.clamp(0.0, 1.0) * self.nodes.len() as f32;
        for (i, node) in self.nodes.iter().enumerate() {
            for from in node.from.iter().filter_map(|from| self.nodes.get(*from)) {
                connect(&mut picture, from.place, node.place, if reached > i as f32 { WHITE } else { LINK });
            }
        }
        for (i, node) in self.nodes.iter().enumerate() {
            draw_box(&mut picture, node, (reached - i as f32).clamp(0.0, 1.0));
        }
        self.foot(&mut picture, way, moment);
        stamp(&mut picture);
        picture
    }

    /// The band at the foot: what it is, when it is, and a bar.
    fn foot(&self, picture: &mut RgbImage, way: f32, moment: &str) {
        let (width, height) = (self.width, self.height);
        let bar = (height / 120).clamp(1, 8);
        let kind = Type::small(width, height);
        let words = if moment.is_empty() { self.caption.clone() } else { format!("{moment} · {}", self.caption) };
        let pad = width / 60 + 1;
        if foot(width, height) > bar + kind.line() / 2 {
            let line = shrunk(kind.coverage(&words), width.saturating_sub(2 * pad), kind.line());
            write(picture, &line, pad, height.saturating_sub(bar + line.height() + 1), GREY);
        }
        let reached = (way.clamp(0.0, 1.0) * width as f32).round() as u32;
        fill(picture, 0, height.saturating_sub(bar), width, bar, BOX, 1.0);
        fill(picture, 0, height.saturating_sub(bar), reached, bar, WHITE, 0.8);
    }
}

/// Room for the word in the corner.
fn head(width: u32, height: u32) -> u32 {
    (Type::small(width, height).line() * 3 / 2).min(height / 6)
}

/// Room for the caption.
fn foot(width: u32, height: u32) -> u32 {
    (Type::small(width, height).line() * 3 / 2).min(height / 6).max(1)
}

/// Ids in columns: a node stands behind everything that it is linked to. In circles, which no engine runs, somebody is first.
fn columns(workflow: &Map<String, Value>) -> Vec<Vec<&str>> {
    let ids = graph::ids(workflow);
    let mut column: BTreeMap<&str, usize> = ids.iter().map(|id| (*id, 0)).collect();
    // So many rounds suffice for the longest chain.
    for _ in 0..ids.len() {
        let mut moved = false;
        for id in &ids {
            let links = workflow.get(*id).into_iter().flat_map(graph::links);
            let behind = links.filter_map(|(_, from)| column.get(from)).max().map_or(0, |column| column + 1);
            if let Some(own) = column.get_mut(id)
                && behind > *own
                && behind < ids.len()
            {
                *own = behind;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let mut columns: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for id in ids {
        columns.entry(column.get(id).copied().unwrap_or_default()).or_default().push(id);
    }
    columns.into_values().collect()
}

/// The inputs that are no links, as a box says them; longer texts (prompts) first. Files are told without their digest's
/// many digits.
fn literals(node: &Value) -> Vec<String> {
    let mut found: Vec<(usize, String)> = Vec::new();
    for (name, value) in graph::inputs(node).into_iter().flatten() {
        let text = match value {
            Value::Array(_) => continue,
            Value::String(text) => text.clone(),
            Value::Object(file) if file.contains_key("$artifact") => {
                file.get("name").and_then(Value::as_str).unwrap_or("file").to_string()
            }
            other => other.to_string(),
        };
        let long = if text.contains(' ') { text.chars().count() } else { 0 };
        found.push((long, format!("{name}: {text}")));
    }
    found.sort_by_key(|(long, _)| std::cmp::Reverse(*long));
    found.into_iter().map(|(_, text)| text).collect()
}

fn draw_box(picture: &mut RgbImage, node: &Node, done: f32) {
    let Place { x, y, width, height } = node.place;
    if node.saves {
        fill(picture, x.saturating_sub(2), y.saturating_sub(2), width + 4, height + 4, WHITE, 0.9);
    }
    fill(picture, x, y, width, height, BOX, 1.0);
    fill(picture, x, y, (width as f32 * done).round() as u32, height, DONE, 1.0);
    let kind = Type::small(picture.width(), picture.height());
    let pad = (width / 20).clamp(1, 6);
    let across = width.saturating_sub(2 * pad);
    if height < 8 || across < 8 {
        return;
    }
    let title = shrunk(kind.bold().coverage(&node.class), across, kind.line().min(height));
    write(picture, &title, x + pad, y + pad.min(height - title.height()), WHITE);
    let mut at = y + pad + title.height() + 2;
    let letters = (across / kind.advance().max(1)) as usize;
    // Narrower than this, words are no longer words.
    if letters < 6 {
        return;
    }
    for input in &node.inputs {
        let lines = (y + height).saturating_sub(at) / kind.line();
        for line in wrapped(input, letters, lines.min(8) as usize) {
            write(picture, &kind.coverage(&line), x + pad, at, GREY);
            at += kind.line();
        }
    }
}

/// A line that leaves one box to the right and comes to another from the left.
fn connect(picture: &mut RgbImage, from: Place, to: Place, colour: Rgb<u8>) {
    let (x0, y0) = ((from.x + from.width) as f32, (from.y + from.height / 2) as f32);
    let (x1, y1) = (to.x as f32, (to.y + to.height / 2) as f32);
    let thick = (picture.width().min(picture.height()) / 360).clamp(1, 4);
    let steps = ((x1 - x0).abs() + (y1 - y0).abs()).ceil().max(1.0) as u32 * 2;
    for step in 0..=steps {
        let t = step as f32 / steps as f32;
        let (x, y) = (x0 + (x1 - x0) * t, y0 + (y1 - y0) * t * t * (3.0 - 2.0 * t));
        for (dx, dy) in (0..thick).flat_map(|dx| (0..thick).map(move |dy| (dx, dy))) {
            if let Some(pixel) = picture.get_pixel_mut_checked(x.max(0.0) as u32 + dx, y.max(0.0) as u32 + dy) {
                *pixel = mixed(*pixel, colour, 0.8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workflow() -> Value {
        json!({
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
            "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox in the snow", "clip": ["1", 1]}},
            "3": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "seed": 7}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}}
        })
    }

    fn map(width: u32, height: u32) -> GraphMap {
        GraphMap::new(workflow().as_object().unwrap(), "4", width, height, "picture".into())
    }

    #[test]
    fn nodes_stand_behind_what_they_are_linked_to() {
        let workflow = workflow();
        assert_eq!(columns(workflow.as_object().unwrap()), [["1"], ["2"], ["3"], ["4"]]);
        let circle = json!({
            "1": {"class_type": "A", "inputs": {"x": ["2", 0]}}, "2": {"class_type": "B", "inputs": {"x": ["1", 0]}}
        });
        assert_eq!(columns(circle.as_object().unwrap()).iter().map(Vec::len).sum::<usize>(), 2);
    }

    #[test]
    fn the_same_graph_gives_the_same_picture_and_its_way_shows() {
        for (width, height) in [(16, 16), (96, 64), (640, 384), (1920, 1080)] {
            let one = map(width, height).draw(0.5, "frame 1/2");
            assert_eq!(one.dimensions(), (width, height));
            assert_eq!(one, map(width, height).draw(0.5, "frame 1/2"), "{width}x{height}");
            assert_ne!(one, map(width, height).draw(0.9, "frame 1/2"), "{width}x{height}");
        }
    }

    #[test]
    fn a_box_says_the_prompt_before_the_numbers_and_the_name_of_a_file() {
        let node = json!({"inputs": {"seed": 7, "text": "a red fox", "clip": ["1", 0], "image": {"$artifact": "sha256:00", "name": "a.png"}}});
        assert_eq!(literals(&node), ["text: a red fox", "seed: 7", "image: a.png"]);
    }
}
