//! What a server needs of memory: with nothing to do, for each connected device, and for parallel reads of a large group. For
//! each a server is started anew on the store that is there.

use std::fs;

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use larder_wire::GroupInfoAnswer;

use super::fan_out::EVENTS;
use super::scene::Scene;
use super::store::Store;
use super::stream::{Stream, read_all};
use super::{Plan, progress, rounded};
use crate::descriptors;
use crate::process::Process;
use crate::record::Measured;

/// Whether the system tells of another process's memory.
pub(super) const CAN_BE_MEASURED: bool = cfg!(target_os = "linux");

/// Descriptors of this process, and of a server, beside those of connected devices.
const OTHERS: u64 = 512;

const KIB: f64 = 1024.0;
/// What an idle server may need, in bytes.
const IDLE_MAX: f64 = 30e6;
/// The same for each connected device.
const CONNECTED_MAX: f64 = 20e3;
/// The same for parallel reads.
const READS_MAX: f64 = 100e6;

/// Brings as many devices into groups as can be connected, and lets a message wait for each. How many those are.
pub(super) async fn prepare(scene: &mut Scene, plan: &Plan) -> Result<usize> {
    let wanted = plan.connected.last().copied().unwrap_or_default();
    let needed = u64::try_from(wanted)?.saturating_add(OTHERS);
    let possible = match descriptors::raise(needed) {
        Some(allowed) => usize::try_from(allowed.saturating_sub(OTHERS))?.min(wanted),
        None => wanted,
    };
    scene.grow(possible, plan.crowd).await?;
    scene.catch_up(possible).await?;
    let largest = plan.sizes.last().map(|size| 0..*size);
    for group in &mut scene.groups {
        // One group of each device is enough.
        if Some(&group.members) == largest.as_ref() || group.members.start > 0 {
            let message = group.message(&scene.owner, "it waits")?;
            let request = group.request(&scene.owner, &[message])?;
            group.have_sent(&scene.owner.http.send(request).await?)?;
        }
    }
    Ok(possible)
}

/// A server with nothing to do, and with connected devices, each of which has received what waited for it.
pub(super) async fn of_streams(
    scene: &Scene,
    store: &Store,
    plan: &Plan,
    possible: usize,
) -> Result<Vec<Measured>> {
    let (server, url) = store.serve().await?;
    let idle = resident(&server)?;
    let mut rows = vec![row(scene, "idle", None, (idle, IDLE_MAX), "30 MB")];
    let mut streams = Vec::new();
    for wanted in plan.connected {
        let connected = possible.min(*wanted);
        progress(&format!("connecting {connected} devices"));
        let more = scene.devices.get(streams.len()..connected).unwrap_or_default();
        if more.is_empty() {
            break;
        }
        let more = Stream::open_all(more.iter().map(|device| device.http.at(&url)), EVENTS).await?;
        streams.extend(read_all(more, 1).await?);
        let each = (resident(&server)? - idle) / connected as f64;
        let limit_of = match connected < *wanted {
            true => "20 kB each; more file descriptors are not allowed",
            false => "20 kB each",
        };
        rows.push(row(
            scene,
            "connected",
            Some(connected),
            (each, CONNECTED_MAX),
            limit_of,
        ));
    }
    server.end().await?;
    Ok(rows)
}

/// What parallel reads of the largest group's public state add at most.
pub(super) async fn of_reads(scene: &Scene, store: &Store, plan: &Plan) -> Result<Measured> {
    progress("reading a group's public state");
    let (server, url) = store.serve().await?;
    let size = plan.sizes.last().copied().unwrap_or_default();
    let group = scene.groups.iter().find(|group| group.members == (0..size));
    let path = group.context("no group has these members")?.path("info");
    let http = scene.owner.http.at(&url);
    let idle = resident(&server)?;
    try_join_all((0..plan.reads).map(|_| http.get::<GroupInfoAnswer>(&path))).await?;
    let added = peak(&server)? - idle;
    server.end().await?;
    Ok(Measured {
        samples: plan.reads,
        ..row(scene, "group_info", Some(size), (added, READS_MAX), "100 MB more")
    })
}

fn row(
    scene: &Scene,
    work: &'static str,
    devices: Option<usize>,
    (larder, limit): (f64, f64),
    limit_of: &'static str,
) -> Measured {
    Measured {
        work,
        devices,
        connections: None,
        stored: None,
        engine: scene.engine,
        unit: "KiB",
        larder: rounded(larder / KIB),
        limit: rounded(limit / KIB),
        ratio: rounded(larder / limit),
        limit_of,
        samples: 1,
    }
}

/// What a server has in memory, in bytes.
fn resident(server: &Process) -> Result<f64> {
    field(server, "smaps_rollup", "Rss:")
}

/// The most that it has had.
fn peak(server: &Process) -> Result<f64> {
    field(server, "status", "VmHWM:")
}

fn field(server: &Process, file: &str, name: &str) -> Result<f64> {
    let path = format!("/proc/{}/{file}", server.id()?);
    let text = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kib: f64 = number.with_context(|| format!("{path} has no {name}"))?.parse()?;
    Ok(kib * KIB)
}
