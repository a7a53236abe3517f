//! What a message and a Commit cost, in groups of every size in turns.

use std::time::{Duration, Instant};

use anyhow::Result;
use larder_wire::{Accepted, MessagesSent};

use super::group::InMemory;
use super::scene::Scene;
use super::{Plan, median, progress, rounded};
use crate::record::Measured;

/// Times of a group: ours, and those of the limit.
#[derive(Default, Clone)]
struct Times {
    ours: Vec<Duration>,
    limit: Vec<Duration>,
}

impl Times {
    fn measured(
        self,
        work: &'static str,
        devices: usize,
        engine: &'static str,
        limit_of: &'static str,
    ) -> Measured {
        let samples = self.ours.len();
        let ms = |times| median(times).as_secs_f64() * 1000.0;
        let (larder, limit) = (ms(self.ours), ms(self.limit));
        Measured {
            work,
            devices: Some(devices),
            connections: None,
            stored: None,
            engine,
            unit: "ms",
            larder: rounded(larder),
            limit: rounded(limit),
            ratio: rounded(larder / limit),
            limit_of,
            samples,
        }
    }
}

/// A message from its request to its answer, and one durable row of the same bytes.
pub(super) async fn messages(scene: &mut Scene, plan: &Plan) -> Result<Vec<Measured>> {
    progress("sending messages");
    let mut times = vec![Times::default(); plan.sizes.len()];
    // All are encrypted before: that takes the longer the larger the group is, and a server that waits meanwhile has to come to
    // itself.
    let mut messages = Vec::new();
    for number in 0..plan.messages {
        for (place, group) in scene.groups.iter_mut().enumerate() {
            let message = group.message(&scene.owner, &format!("message {number}"))?;
            let request = group.request(&scene.owner, std::slice::from_ref(&message))?;
            messages.push((place, message, request));
        }
    }
    for (place, bytes, request) in messages {
        let (Some(group), Some(times)) = (scene.groups.get_mut(place), times.get_mut(place)) else {
            continue;
        };
        let started = Instant::now();
        let sent: MessagesSent = scene.owner.http.send(request).await?;
        times.ours.push(started.elapsed());
        group.have_sent(&sent)?;
        times.limit.push(scene.rows.write(&bytes).await?);
    }
    let rows = plan.sizes.iter().zip(times);
    Ok(rows
        .map(|(size, times)| times.measured("message", *size, scene.engine, "one durable row"))
        .collect())
}

/// A Commit that adds one, and the same judged and merged in memory, with one durable row. Whoever was added is removed
/// again, so that the group stays as large as it is; that is not measured.
pub(super) async fn commits(scene: &mut Scene, plan: &Plan) -> Result<Vec<Measured>> {
    progress("committing");
    let owner = &scene.owner;
    let mut in_memory = Vec::new();
    for group in scene.groups.iter().take(plan.sizes.len()) {
        in_memory.push(InMemory::of(owner, group).await?);
    }
    let mut times = vec![Times::default(); plan.sizes.len()];
    for newcomer in &scene.newcomers {
        for ((group, in_memory), times) in scene.groups.iter_mut().zip(&mut in_memory).zip(&mut times) {
            let request = group.stage_adds(owner, std::slice::from_ref(newcomer)).await?;
            let prepared = group.prepared_commit(owner, &request)?;
            let started = Instant::now();
            let accepted: Accepted = owner.http.send(prepared).await?;
            times.ours.push(started.elapsed());
            group.merge(owner, &accepted)?;
            let started = Instant::now();
            in_memory.accept(&request)?;
            let judged = started.elapsed();
            times
                .limit
                .push(judged + scene.rows.write(&request.commit.0).await?);

            let request = group.stage_remove(owner, newcomer)?;
            group
                .commit(owner, group.prepared_commit(owner, &request)?)
                .await?;
            in_memory.accept(&request)?;
        }
    }
    let rows = plan.sizes.iter().zip(times);
    Ok(rows
        .map(|(size, times)| {
            times.measured(
                "commit",
                *size,
                scene.engine,
                "PublicGroup in memory, and one durable row",
            )
        })
        .collect())
}
