//! Words on pictures: a bitmap font, drawn in-process, so that two machines draw the same.

use image::imageops::{self, FilterType};
use image::{GrayImage, Luma, Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

pub const WHITE: Rgb<u8> = Rgb([255, 255, 255]);

/// A size of type that suits a picture.
#[derive(Clone, Copy, Debug)]
pub struct Type {
    raster: RasterHeight,
    weight: FontWeight,
    /// Beyond the font's largest size, pixels are doubled.
    scale: u32,
}

impl Type {
    /// For running text on a picture of this size.
    pub fn body(width: u32, height: u32) -> Self {
        let (raster, scale) = match width.min(height) {
            0..=360 => (RasterHeight::Size16, 1),
            361..=600 => (RasterHeight::Size20, 1),
            601..=900 => (RasterHeight::Size24, 1),
            901..=1300 => (RasterHeight::Size32, 1),
            1301..=1800 => (RasterHeight::Size24, 2),
            _ => (RasterHeight::Size32, 2),
        };
        Self { raster, weight: FontWeight::Regular, scale }
    }

    /// The smallest there is, for labels.
    pub fn small(width: u32, height: u32) -> Self {
        let scale = if width.min(height) > 1300 { 2 } else { 1 };
        Self { raster: RasterHeight::Size16, weight: FontWeight::Regular, scale }
    }

    pub fn bold(self) -> Self {
        Self { weight: FontWeight::Bold, ..self }
    }

    /// Height of a line in pixels.
    pub fn line(self) -> u32 {
        self.raster.val() as u32 * self.scale
    }

    /// Width of a character in pixels.
    pub fn advance(self) -> u32 {
        get_raster_width(self.weight, self.raster) as u32 * self.scale
    }

    /// How much of each pixel the words cover.
    pub fn coverage(self, words: &str) -> GrayImage {
        let words: Vec<char> = words.chars().flat_map(plain).collect();
        let (advance, line) = (get_raster_width(self.weight, self.raster) as u32, self.raster.val() as u32);
        let mut coverage = GrayImage::new(advance * words.len() as u32, line);
        for (at, character) in words.into_iter().enumerate() {
            let glyph =
                get_raster(character, self.weight, self.raster).or_else(|| get_raster('?', self.weight, self.raster));
            for (y, row) in glyph.iter().flat_map(|glyph| glyph.rows()).enumerate() {
                for (x, intensity) in row.iter().enumerate() {
                    if let Some(pixel) = coverage.get_pixel_mut_checked(at as u32 * advance + x as u32, y as u32) {
                        *pixel = Luma([*intensity]);
                    }
                }
            }
        }
        if self.scale == 1 {
            return coverage;
        }
        imageops::resize(&coverage, coverage.width() * self.scale, line * self.scale, FilterType::CatmullRom)
    }
}

/// Characters that the font lacks and that have a plain form.
fn plain(character: char) -> Vec<char> {
    match character {
        '‘' | '’' | '‚' => vec!['\''],
        '“' | '”' | '„' => vec!['"'],
        '–' | '—' | '−' => vec!['-'],
        '…' => vec!['.', '.', '.'],
        c if c.is_whitespace() => vec![' '],
        c => vec![c],
    }
}

/// Shrinks words that are wider or higher than the room there is.
pub fn shrunk(coverage: GrayImage, width: u32, height: u32) -> GrayImage {
    if coverage.width() <= width && coverage.height() <= height {
        return coverage;
    }
    let by = (width as f32 / coverage.width().max(1) as f32).min(height as f32 / coverage.height().max(1) as f32);
    let side = |side: u32| ((side as f32 * by) as u32).max(1);
    imageops::resize(&coverage, side(coverage.width()), side(coverage.height()), FilterType::Triangle)
}

/// Writes words; what lies outside the picture is cut off.
pub fn write(picture: &mut RgbImage, coverage: &GrayImage, x: u32, y: u32, colour: Rgb<u8>) {
    for (dx, dy, Luma([intensity])) in coverage.enumerate_pixels() {
        if *intensity > 0
            && let Some(pixel) = picture.get_pixel_mut_checked(x + dx, y + dy)
        {
            *pixel = mixed(*pixel, colour, f32::from(*intensity) / 255.0);
        }
    }
}

/// Fills a rectangle, so much of it (0 to 1) over what is there.
pub fn fill(picture: &mut RgbImage, x: u32, y: u32, width: u32, height: u32, colour: Rgb<u8>, amount: f32) {
    for py in y..y.saturating_add(height).min(picture.height()) {
        for px in x..x.saturating_add(width).min(picture.width()) {
            if let Some(pixel) = picture.get_pixel_mut_checked(px, py) {
                *pixel = mixed(*pixel, colour, amount);
            }
        }
    }
}

/// `amount` (0 to 1) of the second colour in the first.
pub fn mixed(one: Rgb<u8>, other: Rgb<u8>, amount: f32) -> Rgb<u8> {
    let (Rgb([r, g, b]), Rgb([or, og, ob])) = (one, other);
    let mix = |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * amount).round() as u8;
    Rgb([mix(r, or), mix(g, og), mix(b, ob)])
}

/// Breaks text into at most `lines` lines of `columns` characters; what does not fit is marked as cut.
pub fn wrapped(text: &str, columns: usize, lines: usize) -> Vec<String> {
    if columns == 0 || lines == 0 {
        return Vec::new();
    }
    let mut all: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().flat_map(plain).collect();
        let length = line.chars().count();
        if length > 0 && length + 1 + word.len() > columns {
            all.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        while word.len() > columns {
            let rest = word.split_off(columns);
            all.push(word.into_iter().collect());
            word = rest;
        }
        line.extend(word);
        if all.len() > lines {
            break;
        }
    }
    if !line.is_empty() {
        all.push(line);
    }
    if all.len() > lines {
        all.truncate(lines);
        if let Some(last) = all.last_mut() {
            let kept: String = last.chars().take(columns.saturating_sub(3)).collect();
            *last = format!("{}...", kept.trim_end()).chars().take(columns).collect();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_words_and_marked_where_it_is_cut() {
        assert_eq!(wrapped("a red fox  runs", 9, 3), ["a red fox", "runs"]);
        assert_eq!(wrapped("a red fox runs far", 9, 1), ["a red..."]);
        assert_eq!(wrapped("unbreakable", 4, 9), ["unbr", "eaka", "ble"]);
        assert_eq!(wrapped("anything", 2, 1), [".."]);
        assert!(wrapped("  ", 9, 2).is_empty());
    }

    #[test]
    fn words_that_do_not_fit_shrink_and_stay_visible() {
        let coverage = Type::body(96, 48).bold().coverage("animatic");
        let small = shrunk(coverage.clone(), 20, 10);
        assert!(small.width() <= 20 && small.height() <= 10);
        assert!(small.pixels().any(|Luma([v])| *v > 60));
        assert_eq!(shrunk(coverage.clone(), 200, 20), coverage);
    }
}
