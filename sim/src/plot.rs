//! Plots: how long things take, as the share of samples that are done by then.

use std::{error::Error, path::Path};

use anyhow::{Result, anyhow};
use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::combinators::IntoLogRange,
    drawing::IntoDrawingArea,
    element::PathElement,
    prelude::SVGBackend,
    series::LineSeries,
    style::{Color, IntoFont, Palette, Palette99, WHITE},
};

/// Milliseconds, in any order, under the name of what took them.
pub type Samples<'a> = [(&'a str, &'a [u64])];

const SIZE: (u32, u32) = (900, 480);

/// Writes an SVG with a line for each name: the share of samples done within so many
/// milliseconds.
pub fn shares(to: &Path, title: &str, samples: &Samples<'_>) -> Result<()> {
    draw(to, title, samples).map_err(|error| anyhow!("{}: {error}", to.display()))
}

fn draw(to: &Path, title: &str, samples: &Samples<'_>) -> Result<(), Box<dyn Error>> {
    let most = samples.iter().flat_map(|(_, all)| all.iter()).max().copied().unwrap_or(1);
    let area = SVGBackend::new(to, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
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
    area.present()?;
    Ok(())
}
