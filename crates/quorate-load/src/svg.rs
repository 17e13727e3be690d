//! Lines over two axes as inline SVG. Colours are classes, which the page gives a light and a dark meaning.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 42.0;

/// One axis: from where to where, and what is written at which place.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// What it measures.
    pub(crate) name: &'static str,
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From zero to a round number that is no less than `highest`.
    pub(crate) fn linear(name: &'static str, highest: f64, text: impl Fn(f64) -> String) -> Self {
        let step = round_step(highest.max(f64::MIN_POSITIVE) / 4.0);
        let count = (highest / step).ceil().clamp(1.0, 10.0);
        let ticks = (0..=10u32).map(f64::from).take_while(|tick| *tick <= count);
        let ticks = ticks.map(|tick| (tick * step, text(tick * step))).collect();
        Self { name, low: 0.0, high: count * step, logarithmic: false, ticks }
    }

    /// Powers of ten around `lowest` to `highest`, both above zero.
    pub(crate) fn logarithmic(
        name: &'static str,
        lowest: f64,
        highest: f64,
        text: impl Fn(f64) -> String,
    ) -> Self {
        let first = lowest.max(1.0).log10().floor();
        let last = highest.max(1.0).log10().ceil().max(first + 1.0);
        let mut ticks = Vec::new();
        let mut power = first;
        while power <= last {
            ticks.push((10f64.powf(power), text(10f64.powf(power))));
            power += 1.0;
        }
        Self { name, low: 10f64.powf(first), high: 10f64.powf(last), logarithmic: true, ticks }
    }

    /// With places of its own.
    pub(crate) const fn with_ticks(name: &'static str, high: f64, ticks: Vec<(f64, String)>) -> Self {
        Self { name, low: 0.0, high, logarithmic: false, ticks }
    }

    /// Where `value` is, from 0 to 1.
    fn part(&self, value: f64) -> f64 {
        let at = |value: f64| if self.logarithmic { value.max(self.low).log10() } else { value };
        let span = at(self.high) - at(self.low);
        if span > 0.0 { ((at(value) - at(self.low)) / span).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// 1, 2 or 5 times a power of ten, no less than `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What it shows, for the legend.
    pub(crate) name: String,
    /// Its points, from left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws lines. `description` is what a screen reader says.
pub(crate) fn chart(description: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
        escape(description)
    );
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let across = |value: f64| LEFT + x.part(value) * (right - LEFT);
    let up = |value: f64| bottom - y.part(value) * (bottom - TOP);
    for (value, text) in &y.ticks {
        let (at, text) = (up(*value), escape(text));
        push(
            &mut svg,
            format_args!("<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>"),
        );
        let (end, below) = (LEFT - 6.0, at + 4.0);
        push(&mut svg, format_args!("<text x=\"{end}\" y=\"{below:.1}\" text-anchor=\"end\">{text}</text>"));
    }
    for (value, text) in &x.ticks {
        let (at, text, below) = (across(*value), escape(text), bottom + 16.0);
        push(
            &mut svg,
            format_args!("<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>"),
        );
        push(
            &mut svg,
            format_args!("<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{text}</text>"),
        );
    }
    let (middle, last) = (f64::midpoint(LEFT, right), HEIGHT - 6.0);
    push(
        &mut svg,
        format_args!("<text x=\"{middle}\" y=\"{last}\" text-anchor=\"middle\">{}</text>", escape(x.name)),
    );
    for (number, line) in lines.iter().enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y))).collect();
        let (class, points) = (number + 1, points.join(" "));
        push(&mut svg, format_args!("<polyline class=\"line line{class}\" points=\"{points}\"/>"));
    }
    svg.push_str("</svg>\n");
    svg.push_str(&legend(y.name, lines));
    svg
}

fn legend(what: &str, lines: &[Line]) -> String {
    let mut legend = format!("<p class=\"legend\">{}: ", escape(what));
    for (number, line) in lines.iter().enumerate() {
        let (class, name) = (number + 1, escape(&line.name));
        push(&mut legend, format_args!("<span><i class=\"key key{class}\"></i>{name}</span> "));
    }
    legend.push_str("</p>\n");
    legend
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    writeln!(text, "{more}").expect("writing to a string does not fail");
}

/// Text that means itself between and within tags.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_values_stay_within() {
        let axis = Axis::linear("y", 4321.0, |value| value.to_string());
        assert_eq!((axis.low, axis.high), (0.0, 6000.0));
        assert_eq!(axis.part(3000.0), 0.5);
        let axis = Axis::logarithmic("y", 900.0, 20_000.0, |value| value.to_string());
        assert_eq!((axis.low, axis.high, axis.ticks.len()), (100.0, 100_000.0, 4));
        assert!((axis.part(1000.0) - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!((axis.part(0.0), axis.part(1e9)), (0.0, 1.0));
        // Nothing happened at all: still an axis.
        assert!(Axis::linear("y", 0.0, |value| value.to_string()).high > 0.0);
    }
}
