//! KV blocks over time as recorded and as modelled, in a panel a recording.

use std::fmt::Write as _;

use crate::recording::{Recording, Shown};

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 190.0;
const MARGIN: f64 = 44.0;

/// One panel.
pub(crate) struct Panel<'a> {
    pub(crate) title: String,
    pub(crate) recording: &'a Recording,
    pub(crate) modelled: &'a [Shown],
}

/// The picture, two panels to a row.
pub(crate) fn svg(panels: &[Panel<'_>]) -> String {
    let rows = panels.len().div_ceil(2) as f64;
    let (width, height) = (2.0 * WIDTH, rows * HEIGHT);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (place, panel) in panels.iter().enumerate() {
        let (left, top) = ((place % 2) as f64 * WIDTH, (place / 2) as f64 * HEIGHT);
        draw(&mut text, panel, left + MARGIN, top + 26.0);
    }
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, panel: &Panel<'_>, left: f64, top: f64) {
    let (width, height) = (WIDTH - MARGIN - 16.0, HEIGHT - 60.0);
    let all = || panel.recording.timeline.iter().chain(panel.modelled);
    let seconds = all().map(Shown::seconds).fold(1.0, f64::max);
    let blocks = all()
        .map(|shown| shown.kv_blocks() as f64)
        .fold(1.0, f64::max);
    let x = |shown: &Shown| left + shown.seconds() / seconds * width;
    let y = |shown: &Shown| top + height - shown.kv_blocks() as f64 / blocks * height;
    let mut add = |part: std::fmt::Arguments<'_>| {
        text.write_fmt(part).expect("a String takes all");
    };
    add(format_args!(
        "<text x=\"{left}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>\n<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#999\"/>\n",
        top - 8.0,
        panel.title
    ));
    add(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{blocks}</text>\n<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{seconds:.1} s</text>\n",
        left - 4.0,
        top + 10.0,
        left + width,
        top + height + 14.0
    ));
    add(format_args!(
        "<polyline fill=\"none\" stroke=\"#1f6fb4\" points=\""
    ));
    for shown in panel.modelled {
        add(format_args!("{:.1},{:.1} ", x(shown), y(shown)));
    }
    add(format_args!(
        "\"/>\n<path fill=\"none\" stroke=\"#d1495b\" stroke-width=\"2.4\" stroke-linecap=\"round\" d=\""
    ));
    for shown in &panel.recording.timeline {
        add(format_args!("M{:.1} {:.1}h0", x(shown), y(shown)));
    }
    add(format_args!("\"/>\n"));
}
