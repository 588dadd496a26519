//! `docs/benchmarks/step-time.svg`: model against measurement.

use std::fmt::Write;

use super::StepTime;
use super::measurement::{Row, rows};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 560.0;
const COLOURS: [&str; 4] = ["#0b6e99", "#b5541c", "#3f7d20", "#7a4fa3"];

/// A rectangle of the picture and the values that it spans.
struct Panel {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
}

/// The picture: step times over the decoding batch, and the relative errors below.
pub(super) fn plot() -> String {
    let rows = rows();
    let times = Panel {
        left: 70.0,
        top: 60.0,
        width: 660.0,
        height: 300.0,
        x: (0.0, 200.0),
        y: (0.0, 30.0),
    };
    let errors = Panel {
        top: 410.0,
        height: 90.0,
        y: (-8.0, 8.0),
        ..times
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        (70.0, 24.0),
        "start",
        "Mean step time, Llama-3.1-8B on one H100, vLLM 0.11.0: measured and modelled",
    );
    legend(&mut svg, &rows);
    times.frame(
        &mut svg,
        &[0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0],
        "step, ms",
    );
    errors.frame(&mut svg, &[-8.0, -5.0, 0.0, 5.0, 8.0], "error, %");
    text(
        &mut svg,
        (400.0, 540.0),
        "middle",
        "mean number of decoding sequences",
    );
    for (configuration, colour) in configurations(&rows).iter().zip(COLOURS) {
        let mut of_it: Vec<&Row> = rows
            .iter()
            .filter(|row| row.configuration == *configuration)
            .collect();
        of_it.sort_by(|a, b| a.decode_batch.total_cmp(&b.decode_batch));
        times.line(&mut svg, &of_it, colour);
        for row in of_it {
            times.dot(
                &mut svg,
                (row.decode_batch, row.step_ms),
                colour,
                row.held_out,
            );
            let error = row.error(&StepTime::LLAMA_8B_H100) * 100.0;
            errors.dot(&mut svg, (row.decode_batch, error), colour, row.held_out);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

impl Panel {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (
            self.left + (x - self.x.0) / (self.x.1 - self.x.0) * self.width,
            self.top + (self.y.1 - y) / (self.y.1 - self.y.0) * self.height,
        )
    }

    /// Grid, scales and the name of the upright one.
    fn frame(&self, svg: &mut String, marks: &[f64], name: &str) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        for mark in marks {
            let (_, y) = self.place((0.0, *mark));
            stroke(svg, (self.left, y), (right, y), "#dddddd");
            text(svg, (self.left - 8.0, y + 4.0), "end", &format!("{mark}"));
        }
        for mark in [0.0, 50.0, 100.0, 150.0, 200.0] {
            let (x, _) = self.place((mark, 0.0));
            stroke(svg, (x, self.top), (x, bottom), "#dddddd");
            text(svg, (x, bottom + 16.0), "middle", &format!("{mark}"));
        }
        let middle = self.top + self.height / 2.0;
        element(
            svg,
            &format!(
                "<text transform=\"translate(24 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{name}</text>"
            ),
        );
    }

    /// The model, from row to row.
    fn line(&self, svg: &mut String, rows: &[&Row], colour: &str) {
        let points: Vec<String> = rows
            .iter()
            .map(|row| self.place((row.decode_batch, row.h100_ms())))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let points = points.join(" ");
        element(
            svg,
            &format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"/>"),
        );
    }

    /// A measurement: hollow when the fit has not seen it.
    fn dot(&self, svg: &mut String, at: (f64, f64), colour: &str, hollow: bool) {
        let (x, y) = self.place(at);
        let fill = if hollow { "#ffffff" } else { colour };
        element(
            svg,
            &format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{colour}\"/>"
            ),
        );
    }
}

fn configurations(rows: &[Row]) -> Vec<&str> {
    let mut names: Vec<&str> = rows.iter().map(|row| row.configuration.as_str()).collect();
    names.dedup();
    names
}

fn legend(svg: &mut String, rows: &[Row]) {
    text(
        svg,
        (70.0, 42.0),
        "start",
        "line: model; dot: measured; hollow: held out of the fit",
    );
    for (place, (name, colour)) in configurations(rows).iter().zip(COLOURS).enumerate() {
        let y = 80.0 + 18.0 * place as f64;
        stroke(svg, (84.0, y - 4.0), (104.0, y - 4.0), colour);
        element(
            svg,
            &format!(
                "<circle cx=\"94\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
                y - 4.0
            ),
        );
        text(svg, (112.0, y), "start", name);
    }
}

fn stroke(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    element(
        svg,
        &format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
        ),
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    element(
        svg,
        &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"),
    );
}

fn element(svg: &mut String, element: &str) {
    writeln!(svg, "{element}").expect("a string takes all that is written");
}
