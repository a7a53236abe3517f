//! How fast rows reach connected devices, and how fast HTTP alone pushes the same bytes.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::{StreamExt as _, stream};
use larder_wire::{MESSAGES_MAX, MessagesSent};
use tokio::sync::broadcast;

use super::bare::BareServer;
use super::device::Http;
use super::scene::Scene;
use super::stream::{Stream, read_all};
use super::{Plan, median, progress, rounded};
use crate::record::Measured;

/// The events of an inbox.
pub(super) const EVENTS: &str = "/v1/inbox/events";

/// Messages to a group whose members are all connected, from the first request until all have all of them; and as many events
/// of the same bytes, pushed to as many connections by nothing but HTTP.
pub(super) async fn measure(scene: &mut Scene, plan: &Plan, connected: usize) -> Result<Measured> {
    progress(&format!("connecting {connected} devices"));
    scene.catch_up(connected).await?;
    let members = scene.devices.iter().take(connected);
    let mut ours_streams = Stream::open_all(members.map(|device| device.http.clone()), EVENTS).await?;
    let bare = BarePush::start(plan.pushed)?;
    let bare_http = Http::new(&format!("http://{}", bare.server.address))?;
    let mut bare_streams = Stream::open_all((0..connected).map(|_| bare_http.clone()), "/").await?;

    // The first message is not measured: every stream is where it should be once it has come.
    (ours_streams, _) = push(scene, connected, 1, ours_streams).await?;
    let event = ours_streams.first().context("nobody is connected")?.last();
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let took;
        (ours_streams, took) = push(scene, connected, plan.pushed, ours_streams).await?;
        ours.push(took);

        let started = Instant::now();
        bare.push(&event, plan.pushed)?;
        bare_streams = read_all(bare_streams, plan.pushed).await?;
        limit.push(started.elapsed());
    }
    let rate = |times| (connected * plan.pushed) as f64 / median(times).as_secs_f64();
    let (larder, limit) = (rate(ours), rate(limit));
    Ok(Measured {
        work: "fan_out",
        devices: Some(connected),
        connections: None,
        stored: None,
        engine: scene.engine,
        unit: "rows/s",
        larder: larder.round(),
        limit: limit.round(),
        ratio: rounded(larder / limit),
        limit_of: "the same bytes pushed by nothing but HTTP",
        samples: plan.rounds,
    })
}

/// Sends messages to the group of this size until its members have them. How long that took.
async fn push(
    scene: &mut Scene,
    size: usize,
    messages: usize,
    streams: Vec<Stream>,
) -> Result<(Vec<Stream>, Duration)> {
    let owner = &scene.owner;
    let group = scene
        .groups
        .iter_mut()
        .find(|group| group.members == (0..size))
        .context("no group has these members")?;
    let said = (0..messages)
        .map(|number| group.message(owner, &format!("message {number}")))
        .collect::<Result<Vec<_>>>()?;
    let requests = said
        .chunks(MESSAGES_MAX)
        .map(|together| group.request(owner, together))
        .collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    let sending = async {
        // As a client sends what waits: one request after the other.
        let mut sent = Vec::new();
        for request in requests {
            sent.push(owner.http.send::<MessagesSent>(request).await?);
        }
        Ok(sent)
    };
    let (sent, streams) = tokio::try_join!(sending, read_all(streams, messages))?;
    let took = started.elapsed();
    for sent in &sent {
        group.have_sent(sent)?;
    }
    Ok((streams, took))
}

/// Pushes the same bytes to everybody, and does nothing else.
struct BarePush {
    server: BareServer,
    events: broadcast::Sender<Bytes>,
}

impl BarePush {
    /// So many events wait for a reader at most.
    fn start(waiting_max: usize) -> Result<Self> {
        let (events, _) = broadcast::channel::<Bytes>(waiting_max);
        let subscribe = events.clone();
        let push = move || {
            let pushed = subscribe.subscribe();
            async move {
                let events = stream::unfold(pushed, |mut pushed| async {
                    let event = pushed.recv().await.ok()?;
                    Some((Ok::<_, Infallible>(event), pushed))
                });
                let first = stream::once(async { Ok(Bytes::from_static(b":\n\n")) });
                Body::from_stream(first.chain(events))
            }
        };
        Ok(Self {
            server: BareServer::start(Router::new().route("/", get(push)))?,
            events,
        })
    }

    fn push(&self, event: &Bytes, count: usize) -> Result<()> {
        for _ in 0..count {
            self.events.send(event.clone()).context("nobody is connected")?;
        }
        Ok(())
    }
}
