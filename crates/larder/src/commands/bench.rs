//! `bench chat`, `bench groups` and `bench server`.

use std::process::ExitCode;

use anyhow::Result;

use crate::bench;
use crate::cli::{BenchGroups, BenchServer};
use crate::output::Output;
use crate::record::Record;
use crate::tui;

/// Keys that are pressed.
const FRAMES: usize = 2_000;

pub(super) fn chat(output: &Output) -> Result<ExitCode> {
    let mut records = Vec::new();
    for (at, scrolled) in [("newest", false), ("oldest", true)] {
        let frames = tui::frames(FRAMES, scrolled)?;
        let us = |percent| frames.percentile(percent).as_micros();
        records.push(Record::Frames {
            at,
            frames: frames.count(),
            median_us: us(50),
            p99_us: us(99),
            longest_us: us(100),
        });
    }
    output.print(&records)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn groups(output: &Output, options: BenchGroups) -> Result<ExitCode> {
    bench::groups(output, options.store.as_ref(), options.quick).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn server(output: &Output, options: BenchServer) -> Result<ExitCode> {
    bench::server(output, options.store.as_ref(), options.stored, options.quick).await?;
    Ok(ExitCode::SUCCESS)
}
