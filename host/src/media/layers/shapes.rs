//! Rectangles, ellipses and lines: how much of each pixel they cover, with smooth edges.

use tiny_skia::{FillRule, Mask, Path, PathBuilder, Rect, Transform};

use super::canvas::{Area, Canvas, FULL, Paint};

/// How far beyond the drawn area a rectangle's coordinates are kept: what lies further out makes no difference.
const MARGIN: f64 = 2.0;

/// A rectangle or an ellipse in a box. The outline lies inside the box.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::media) struct Outlined {
    /// Of the upper left corner, in pixels.
    pub x: f32,
    pub y: f32,
    pub width: f32,
    pub height: f32,
    pub fill: Option<[u8; 3]>,
    pub outline: Option<[u8; 3]>,
    pub line_width: f32,
}

/// A straight line with square ends.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::media) struct Stroke {
    pub from: (f32, f32),
    pub to: (f32, f32),
    pub color: [u8; 3],
    pub width: f32,
}

/// Left, top, right, bottom.
type Sides = [f64; 4];

impl Outlined {
    /// Draws it; `opacity` from 0 to [`FULL`].
    pub(super) fn draw(&self, canvas: &mut Canvas<'_>, round: bool, opacity: u32) {
        let (x, y) = (f64::from(self.x), f64::from(self.y));
        let outer = [x, y, x + f64::from(self.width), y + f64::from(self.height)];
        let Some(area) = area(canvas, outer) else { return };
        let line = f64::from(self.line_width);
        let inner = [outer[0] + line, outer[1] + line, outer[2] - line, outer[3] - line];
        let fill = self.fill.and_then(|rgb| Some((rgb, coverage(area, &figure(area, outer, None, round)?)?)));
        let outline =
            self.outline.and_then(|rgb| Some((rgb, coverage(area, &figure(area, outer, Some(inner), round)?)?)));
        let width = area.width();
        let part = |part: &Option<([u8; 3], Mask)>, at: usize| match part {
            Some((rgb, mask)) => Paint::solid(*rgb, share(mask.data().get(at).copied().unwrap_or(0))),
            None => Paint::default(),
        };
        canvas.lay(area, |x, y| {
            let at = y * width + x;
            part(&outline, at).over(part(&fill, at)).faded(opacity)
        });
    }
}

impl Stroke {
    /// Draws it; `opacity` from 0 to [`FULL`]. A line of no length is nothing.
    pub(super) fn draw(&self, canvas: &mut Canvas<'_>, opacity: u32) {
        let [(ax, ay), (bx, by)] = [self.from, self.to].map(|(x, y)| (f64::from(x), f64::from(y)));
        let (dx, dy) = (bx - ax, by - ay);
        let length = (dx * dx + dy * dy).sqrt();
        if length <= 0.0 {
            return;
        }
        let half = f64::from(self.width) / 2.0;
        let (nx, ny) = (-dy / length * half, dx / length * half);
        let corners = [(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)];
        let least = |pick: fn(&(f64, f64)) -> f64| corners.iter().map(pick).fold(f64::INFINITY, f64::min);
        let most = |pick: fn(&(f64, f64)) -> f64| corners.iter().map(pick).fold(f64::NEG_INFINITY, f64::max);
        let Some(area) = area(canvas, [least(|c| c.0), least(|c| c.1), most(|c| c.0), most(|c| c.1)]) else { return };
        let mut path = PathBuilder::new();
        for (i, (x, y)) in corners.into_iter().enumerate() {
            let (x, y) = ((x - area.left as f64) as f32, (y - area.top as f64) as f32);
            if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
        }
        path.close();
        let Some(mask) = path.finish().and_then(|path| coverage(area, &path)) else { return };
        let width = area.width();
        canvas.lay(area, |x, y| {
            let covered = mask.data().get(y * width + x).copied().unwrap_or(0);
            Paint::solid(self.color, share(covered)).faded(opacity)
        });
    }
}

/// Coverage from 0 to 255 as a share of a pixel.
#[inline]
pub(super) fn share(covered: u8) -> u32 {
    (u32::from(covered) * FULL + 127) / 255
}

fn area(canvas: &Canvas<'_>, [left, top, right, bottom]: Sides) -> Option<Area> {
    Area::of(canvas.size(), left, top, right, bottom)
}

/// A box or the ellipse in it, less a smaller one, in coordinates of the area. None when it is empty.
fn figure(area: Area, outer: Sides, inner: Option<Sides>, round: bool) -> Option<Path> {
    let (left, top) = (area.left as f64, area.top as f64);
    let (width, height) = (area.width() as f64, area.height() as f64);
    let rect = |[l, t, r, b]: Sides| {
        let mut sides = [l - left, t - top, r - left, b - top];
        if sides[0] >= sides[2] || sides[1] >= sides[3] {
            return None;
        }
        if !round {
            let [l, t, r, b] = sides;
            sides = [l.max(-MARGIN), t.max(-MARGIN), r.min(width + MARGIN), b.min(height + MARGIN)];
        }
        let [l, t, r, b] = sides.map(|side| side as f32);
        Rect::from_ltrb(l, t, r, b)
    };
    let mut path = PathBuilder::new();
    let mut push = |sides: Sides| {
        let rect = rect(sides)?;
        if round {
            path.push_oval(rect)
        } else {
            path.push_rect(rect)
        }
        Some(())
    };
    push(outer)?;
    // An outline thicker than the box fills it.
    inner.and_then(push);
    path.finish()
}

fn coverage(area: Area, path: &Path) -> Option<Mask> {
    let mut mask = Mask::new(u32::try_from(area.width()).ok()?, u32::try_from(area.height()).ok()?)?;
    mask.fill_path(path, FillRule::EvenOdd, true, Transform::identity());
    Some(mask)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::frames::PixelFormat;

    /// A black frame of 20 by 16 pixels, drawn on; the red of each pixel.
    fn drawn(draw: impl FnOnce(&mut Canvas<'_>)) -> Vec<Vec<u8>> {
        let mut data = vec![0; 20 * 16 * 3];
        draw(&mut Canvas { data: &mut data, format: PixelFormat::Rgb24, width: 20, height: 16 });
        data.chunks(60).map(|row| row.iter().step_by(3).copied().collect()).collect()
    }

    fn shape(x: f32, y: f32, width: f32, height: f32) -> Outlined {
        Outlined { x, y, width, height, fill: Some([200, 0, 0]), outline: None, line_width: 1.0 }
    }

    #[test]
    fn a_rectangle_covers_its_pixels_and_no_other() {
        let rows = drawn(|canvas| shape(3.0, 2.0, 5.0, 4.0).draw(canvas, false, FULL));
        for (y, row) in rows.iter().enumerate() {
            for (x, red) in row.iter().enumerate() {
                let inside = (3..8).contains(&x) && (2..6).contains(&y);
                assert_eq!(*red, if inside { 200 } else { 0 }, "{x} {y}");
            }
        }
        let half = drawn(|canvas| shape(3.5, 2.0, 5.0, 4.0).draw(canvas, false, FULL));
        assert!(half[3][3].abs_diff(100) <= 2 && half[3][4] == 200 && half[3][8].abs_diff(100) <= 2, "{:?}", half[3]);
    }

    #[test]
    fn an_outline_lies_inside_its_box_over_the_fill() {
        let rectangle = Outlined { outline: Some([90, 0, 0]), line_width: 2.0, ..shape(2.0, 2.0, 10.0, 8.0) };
        let row = &drawn(|canvas| rectangle.draw(canvas, false, FULL))[5];
        assert_eq!(row[..14], [0, 0, 90, 90, 200, 200, 200, 200, 200, 200, 90, 90, 0, 0]);
        let alone = Outlined { fill: None, ..rectangle.clone() };
        let row = &drawn(|canvas| alone.draw(canvas, false, FULL))[5];
        assert_eq!(row[..14], [0, 0, 90, 90, 0, 0, 0, 0, 0, 0, 90, 90, 0, 0]);
        let thick = Outlined { line_width: 50.0, ..alone };
        assert_eq!(drawn(|canvas| thick.draw(canvas, false, FULL))[5][2..12], [90; 10]);
    }

    #[test]
    fn an_ellipse_fills_the_middle_and_spares_the_corners() {
        let rows = drawn(|canvas| shape(2.0, 2.0, 12.0, 12.0).draw(canvas, true, FULL));
        assert_eq!((rows[8][8], rows[2][2], rows[13][13], rows[8][1], rows[8][14]), (200, 0, 0, 0, 0));
        assert!((1..200).contains(&rows[3][4]), "the edge is smooth: {:?}", rows[3]);
        let area: u32 = rows.iter().flatten().map(|red| u32::from(*red)).sum();
        assert!((f64::from(area) / 200.0 - std::f64::consts::PI * 36.0).abs() < 3.0, "{area}");
    }

    #[test]
    fn lines_run_where_they_should() {
        let line = |from, to, width| Stroke { from, to, color: [200, 0, 0], width };
        let rows = drawn(|canvas| line((3.0, 5.0), (9.0, 5.0), 2.0).draw(canvas, FULL));
        assert_eq!(rows[4][3..9], [200; 6]);
        assert_eq!(rows[5][2..10], [0, 200, 200, 200, 200, 200, 200, 0]);
        assert!(rows[3].iter().chain(&rows[6]).all(|red| *red == 0));
        let rows = drawn(|canvas| line((0.0, 0.0), (16.0, 16.0), 2.0).draw(canvas, FULL));
        assert!((0..16).all(|i| rows[i][i] > 190) && rows[3][9] == 0);
        assert!(drawn(|canvas| line((3.0, 5.0), (3.0, 5.0), 9.0).draw(canvas, FULL)).concat().iter().all(|r| *r == 0));
    }

    #[test]
    fn what_reaches_far_beyond_the_frame_is_drawn_where_it_can_be_seen() {
        let rows = drawn(|canvas| shape(-90_000.0, -90_000.0, 90_010.0, 90_008.0).draw(canvas, false, FULL));
        assert_eq!((rows[7][9], rows[0][0], rows[8][9], rows[7][10]), (200, 200, 0, 0));
        let rows = drawn(|canvas| shape(-50_000.0, -50_000.0, 100_000.0, 100_000.0).draw(canvas, true, FULL));
        assert!(rows.concat().iter().all(|red| *red == 200));
        let line = Stroke { from: (-99_999.0, 8.0), to: (99_999.0, 8.0), color: [200, 0, 0], width: 2.0 };
        let rows = drawn(|canvas| line.draw(canvas, FULL));
        assert!(rows[7].iter().chain(&rows[8]).all(|red| *red == 200) && rows[9].iter().all(|red| *red == 0));
        assert!(drawn(|canvas| shape(20.0, 0.0, 5.0, 5.0).draw(canvas, false, FULL)).concat().iter().all(|r| *r == 0));
        assert!(drawn(|canvas| shape(2.0, 2.0, 0.0, 5.0).draw(canvas, true, FULL)).concat().iter().all(|r| *r == 0));
    }

    /// A place or a length: near the frame, or as far away as is allowed.
    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![-30.0f32..30.0, -100_000.0f32..=100_000.0, Just(0.0), Just(-100_000.0), Just(100_000.0)]
    }

    proptest! {
        #[test]
        fn no_shape_marks_pixels_outside_its_box(
            (x, y, width, height) in (number(), number(), number(), number()),
            line_width in 0.1f32..1000.0,
            round in any::<bool>(),
        ) {
            let (width, height) = (width.abs(), height.abs());
            let shape = Outlined { x, y, width, height, fill: Some([200, 0, 0]), outline: Some([90, 0, 0]), line_width };
            let marked = |rows: &[Vec<u8>], l: f32, t: f32, r: f32, b: f32| {
                rows.iter().enumerate().flat_map(|(y, row)| row.iter().enumerate().map(move |(x, red)| (x, y, *red)))
                    .any(|(x, y, red)| {
                        let (x, y) = (x as f32, y as f32);
                        red > 0 && (x + 1.0 < l || x > r || y + 1.0 < t || y > b)
                    })
            };
            let rows = drawn(|canvas| shape.draw(canvas, round, FULL));
            prop_assert!(!marked(&rows, x, y, x + width, y + height), "{rows:?}");
            let line = Stroke { from: (x, y), to: (y, width), color: [200, 0, 0], width: line_width };
            let rows = drawn(|canvas| line.draw(canvas, FULL));
            let half = line_width / 2.0;
            prop_assert!(!marked(&rows, x.min(y) - half, y.min(width) - half, x.max(y) + half, y.max(width) + half));
        }
    }
}
