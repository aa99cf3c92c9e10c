//! Plots: how long things take, as the share of samples that are done by then; and how each figure
//! grows with the mesh and with loss.

use std::error::Error;

use anyhow::{Result, anyhow};
use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::Shift,
    coord::combinators::IntoLogRange,
    drawing::{DrawingArea, IntoDrawingArea},
    element::PathElement,
    prelude::SVGBackend,
    series::LineSeries,
    style::{Color, IntoFont, Palette, Palette99, WHITE},
};

use crate::measure::Figures;

/// Milliseconds, in any order, under the name of what took them.
pub type Samples<'a> = [(&'a str, &'a [u64])];

const SIZE: (u32, u32) = (900, 480);

/// An SVG with a line for each name: the share of samples done within so many milliseconds.
pub fn shares(title: &str, samples: &Samples<'_>) -> Result<String> {
    drawn(SIZE, |area| draw_shares(area, title, samples))
}

/// What all that is drawn here is drawn on.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn drawn(
    size: (u32, u32),
    on: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn Error>>,
) -> Result<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let done = area.fill(&WHITE).map_err(Box::from).and_then(|()| on(&area));
    let done = done.and_then(|()| Ok(area.present()?));
    done.map_err(|error| anyhow!("nothing drawn: {error}"))?;
    drop(area);
    Ok(svg)
}

fn draw_shares(area: &Area<'_>, title: &str, samples: &Samples<'_>) -> Result<(), Box<dyn Error>> {
    let most = samples.iter().flat_map(|(_, all)| all.iter()).max().copied().unwrap_or(1);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font())
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d((1.0..most as f64 * 1.5).log_scale(), 0.0..100.0)?;
    chart.configure_mesh().x_desc("milliseconds").y_desc("% done").draw()?;
    for (number, (name, all)) in samples.iter().enumerate() {
        let mut all = all.to_vec();
        all.sort_unstable();
        let count = all.len().max(1) as f64;
        let points = all
            .iter()
            .zip(1u32..)
            .map(|(ms, done)| ((*ms).max(1) as f64, f64::from(done) * 100.0 / count));
        let colour = Palette99::pick(number).to_rgba();
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(WHITE)
        .background_style(WHITE)
        .draw()?;
    Ok(())
}

/// What was found at one loss: its name, and the figures of each size of the mesh.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Its name.
    pub name: String,
    /// Nodes, and what was found with so many.
    pub places: Vec<(usize, &'a Figures)>,
}

/// A point of a panel: nodes, the median, the worst.
type Point = (f64, f64, f64);

/// A panel: what it shows, and the points of each line.
type Panel = (&'static str, Vec<Vec<Point>>);

const COLUMNS: usize = 3;
const PANEL: (u32, u32) = (420, 300);

/// An SVG with a panel for each figure that was taken: it against the size of the mesh, a
/// line for each loss, with a bar from the median to the worst.
pub fn growth(title: &str, lines: &[Line<'_>]) -> Result<String> {
    let panels = panels(lines);
    let rows = panels.len().div_ceil(COLUMNS).max(1);
    let size = (PANEL.0 * u32::try_from(COLUMNS)?, PANEL.1 * u32::try_from(rows)? + 40);
    drawn(size, |area| {
        let area = area.titled(title, ("sans-serif", 20).into_font())?;
        let places = area.split_evenly((rows, COLUMNS));
        panels.iter().zip(places).try_for_each(|(panel, place)| draw_panel(&place, panel, lines))
    })
}

fn panels(lines: &[Line<'_>]) -> Vec<Panel> {
    let rate = "nodes wrongly held for dead in a node-hour";
    let names = Figures::default().rows().map(|row| row.what);
    let figures = names.into_iter().enumerate().map(|(number, what)| {
        let point = move |figures: &Figures| {
            let rows = figures.rows();
            let row = rows.get(number)?;
            row.at(50).zip(row.at(100))
        };
        (what, points(lines, point))
    });
    let deaths = points(lines, |figures| figures.false_death_rate().map(|rate| (rate, rate)));
    let all = figures.chain([(rate, deaths)]);
    all.filter(|(_, lines)| lines.iter().any(|points| !points.is_empty())).collect()
}

fn points(lines: &[Line<'_>], of: impl Fn(&Figures) -> Option<(f64, f64)>) -> Vec<Vec<Point>> {
    let line = |line: &Line<'_>| {
        let found = line.places.iter().filter_map(|(nodes, figures)| {
            of(figures).map(|(median, worst)| (*nodes as f64, median, worst))
        });
        found.collect()
    };
    lines.iter().map(line).collect()
}

fn draw_panel(
    place: &Area<'_>,
    (what, points): &Panel,
    lines: &[Line<'_>],
) -> Result<(), Box<dyn Error>> {
    let all = || points.iter().flatten();
    let from = all().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let to = all().map(|point| point.0).fold(1.0, f64::max);
    let most = all().map(|point| point.2).fold(0.0, f64::max);
    // One size alone still needs a width to be drawn in, and what is always 0 a height.
    let across = (from * 0.8..to * 1.25).log_scale();
    let up = 0.0..if most > 0.0 { most * 1.1 } else { 1.0 };
    let mut chart = ChartBuilder::on(place)
        .caption(what, ("sans-serif", 14).into_font())
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d(across, up)?;
    let digits = usize::from(most < 10.0);
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_desc("nodes")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.digits$}"))
        .draw()?;
    for (number, (line, points)) in lines.iter().zip(points).enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        let medians = points.iter().map(|point| (point.0, point.1));
        chart
            .draw_series(LineSeries::new(medians, colour.stroke_width(2)).point_size(2))?
            .label(&*line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        let bars = points.iter().map(|(nodes, median, worst)| {
            PathElement::new([(*nodes, *median), (*nodes, *worst)], colour.stroke_width(1))
        });
        chart.draw_series(bars)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .border_style(WHITE)
        .background_style(WHITE.mix(0.7))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_has_a_panel_for_each_figure_and_a_line_for_each_loss() {
        let figures =
            |update: u64| Figures { update: vec![update, 2 * update, 1], ..Figures::default() };
        let found = [figures(20), figures(30), figures(40), figures(90)];
        let line = |name: &str, from: usize| Line {
            name: name.to_owned(),
            places: [100, 400].into_iter().zip(&found[from..]).collect(),
        };
        let lines = [line("0 % lost", 0), line("5 % lost", 2)];
        let svg = growth("of two sizes", &lines).unwrap();
        for word in ["of two sizes", "an update is everywhere (ms)", "0 % lost", "5 % lost"] {
            assert!(svg.contains(word), "{word} in {svg}");
        }
        assert!(!svg.contains("a crash"), "no panel for what was not taken: {svg}");
        assert_eq!(panels(&lines)[0].1[1], [(100.0, 40.0, 80.0), (400.0, 90.0, 180.0)]);
    }
}
