//! `bench groups` and `bench server`: what messages, Commits, connected devices and the directory cost a server, each beside a limit
//! of the same run and in turns with it. The server is a process of its own; the devices are raw: OpenMLS in memory, and HTTP.
//!
//! * `store` is where the server keeps everything, and the durable rows that it is held against.
//! * `device` and `group` are those who talk to it, `stream` is a connected one.
//! * `directory` measures reservations and whatever else the directory does, among KeyPackages that `fill` has stored, by `load`,
//!   and beside what is `bare`.
//! * `cost` measures messages and Commits, `fan_out` what reaches connected devices, `memory` the server's.

mod bare;
mod cost;
mod device;
mod directory;
mod fan_out;
mod fill;
mod group;
mod load;
mod memory;
mod scene;
mod store;
mod stream;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;

use self::scene::Scene;
use self::store::Store;
use crate::cli::StoreUrl;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::record::{Measured, Record};
use crate::shutdown::Shutdown;

/// Requests under way at once where it does not matter how long each takes.
const AT_ONCE: usize = 16;
/// Far more than any step takes.
const TIME_MAX: Duration = Duration::from_secs(300);

/// What is measured, and how often.
struct Plan {
    /// Receivers in the groups, ascending.
    sizes: &'static [usize],
    messages: usize,
    commits: usize,
    /// Devices that are connected while rows reach them; a group of each size is there.
    fan_out: &'static [usize],
    /// Messages of one round of the fan-out.
    pushed: usize,
    rounds: usize,
    /// Devices that are connected while the server's memory is measured, ascending, the largest group's first.
    connected: &'static [usize],
    /// Those beyond the largest group are in groups of so many.
    crowd: usize,
    /// Reads of the largest group's public state at once.
    reads: usize,
}

const FULL: Plan = Plan {
    sizes: &[10, 100, 1000],
    messages: 200,
    commits: 20,
    fan_out: &[100, 1000],
    pushed: 200,
    rounds: 5,
    connected: &[1000, 10_000],
    crowd: 100,
    reads: 12,
};

const QUICK: Plan = Plan {
    sizes: &[3, 10],
    messages: 5,
    commits: 2,
    fan_out: &[3, 10],
    pushed: 5,
    rounds: 2,
    connected: &[10, 20],
    crowd: 5,
    reads: 12,
};

/// Measures all of it, and prints each figure as soon as it is known. Nothing is left behind, also when interrupted.
pub(crate) async fn groups(output: &Output, store: Option<&StoreUrl>, quick: bool) -> Result<()> {
    let mut shutdown = Shutdown::listen()?;
    let store = Store::create(store).await?;
    let plan = if quick { &QUICK } else { &FULL };
    let measured = tokio::select! {
        measured = measure(output, &store, plan) => measured,
        () = shutdown.requested() => Err(Failure::new(Exit::Failed, "interrupted", "interrupted").into()),
    };
    // The server is a value of what was measured, killed when that is dropped.
    let removed = store.remove().await;
    measured.and(removed)
}

/// The same of the directory, for each of so many stored KeyPackages.
pub(crate) async fn server(
    output: &Output,
    store: Option<&StoreUrl>,
    stored: Option<u64>,
    quick: bool,
) -> Result<()> {
    let mut shutdown = Shutdown::listen()?;
    let plan = match quick {
        true => directory::Plan::quick(stored),
        false => directory::Plan::full(stored),
    };
    output.note(Measured::heading())?;
    let print = |rows: Vec<Measured>| {
        let rows: Vec<Record> = rows.into_iter().map(Record::Measured).collect();
        Ok(output.print(&rows)?)
    };
    for stored in &plan.stored {
        let store = Store::create(store).await?;
        let measured = tokio::select! {
            measured = directory::measure(&store, &plan, *stored, &print) => measured,
            () = shutdown.requested() => Err(Failure::new(Exit::Failed, "interrupted", "interrupted").into()),
        };
        let removed = store.remove().await;
        measured.and(removed)?;
    }
    Ok(())
}

async fn measure(output: &Output, store: &Store, plan: &Plan) -> Result<()> {
    output.note(Measured::heading())?;
    let print = |rows: Vec<Measured>| {
        let rows: Vec<Record> = rows.into_iter().map(Record::Measured).collect();
        output.print(&rows)
    };
    let (server, url) = store.serve().await?;
    let mut scene = Scene::prepare(store, &url, plan).await?;
    print(cost::messages(&mut scene, plan).await?)?;
    print(cost::commits(&mut scene, plan).await?)?;
    for connected in plan.fan_out {
        print(vec![fan_out::measure(&mut scene, plan, *connected).await?])?;
    }
    if !memory::CAN_BE_MEASURED {
        progress("the memory of a process can be measured on Linux only");
        return server.end().await;
    }
    let possible = memory::prepare(&mut scene, plan).await?;
    server.end().await?;
    print(memory::of_streams(&scene, store, plan, possible).await?)?;
    print(vec![memory::of_reads(&scene, store, plan).await?])?;
    Ok(())
}

/// Tells a person what is going on.
fn progress(text: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // Nobody may be reading any more.
        let _ = writeln!(stderr, "… {text}");
    }
}

/// The one in the middle.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// As many digits as mean anything.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
