//! Tells the other nodes whose inbox has something new, and hears it from them.
//!
//! NOTIFY and LISTEN are quick and may fail: each node also looks every two seconds at the inboxes that somebody waits
//! for. Nothing depends on either but how soon a message is seen.

use std::collections::HashMap;
use std::future::poll_fn;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Config, NoTls};
use uuid::Uuid;

use super::pool::connection;
use crate::error::Fault;
use crate::store::postgres::PostgresError;
use crate::store::tx::DeviceKey;
use crate::wakeups::Wakeups;

/// Transactions whose receivers wait to be told. Beyond that they are not told.
const UNTOLD_MAX: usize = 1024;
/// Devices named in one notification, whose payload PostgreSQL limits to 8000 bytes.
const DEVICES_PER_NOTIFICATION: usize = 350;
/// Inboxes are looked at this often.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Inboxes looked at in one statement.
const DEVICES_PER_POLL: usize = 1000;
/// After a failure the next attempt to listen waits this long, and twice as long each further time.
const LISTEN_PAUSE_MIN: Duration = Duration::from_secs(1);
/// It never waits longer.
const LISTEN_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Where a transaction leaves whom it woke.
pub(super) struct Hints {
    untold: mpsc::Sender<Vec<DeviceKey>>,
}

impl Hints {
    pub(super) fn tell(&self, devices: Vec<DeviceKey>) {
        if !devices.is_empty() {
            // When there is no room, the other nodes find out by looking.
            let _ = self.untold.try_send(devices);
        }
    }
}

/// Starts what runs beside the requests.
pub(super) fn start(
    background: &mut JoinSet<()>,
    config: Config,
    pool: Pool,
    incarnation: &str,
    wakeups: Wakeups,
) -> Hints {
    let (untold, to_tell) = mpsc::channel(UNTOLD_MAX);
    // Several servers may share a database, each in a schema of its own.
    let channel = format!("larder_{}", incarnation.replace('-', ""));
    background.spawn(exchange(config, channel, to_tell, wakeups.clone()));
    background.spawn(look(pool, wakeups));
    Hints { untold }
}

/// Listens, and tells, on a connection of its own; again and again, if it is lost.
async fn exchange(
    config: Config,
    channel: String,
    mut to_tell: mpsc::Receiver<Vec<DeviceKey>>,
    wakeups: Wakeups,
) {
    let mut pause = LISTEN_PAUSE_MIN;
    loop {
        let mut listening = false;
        let ended = exchange_once(&config, &channel, &mut to_tell, &wakeups, &mut listening).await;
        if listening {
            pause = LISTEN_PAUSE_MIN;
        }
        match ended {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "notifications are lost: messages through other nodes arrive later");
            }
        }
        sleep(pause).await;
        pause = LISTEN_PAUSE_MAX.min(pause * 2);
    }
}

async fn exchange_once(
    config: &Config,
    channel: &str,
    to_tell: &mut mpsc::Receiver<Vec<DeviceKey>>,
    wakeups: &Wakeups,
    listening: &mut bool,
) -> Result<(), PostgresError> {
    let (client, mut connection) = config.connect(NoTls).await?;
    let node = Uuid::new_v4().to_string();
    let (own, wakeups) = (node.clone(), wakeups.clone());
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message? {
                wakeups.wake(&told_by_others(notification.payload(), &own));
            }
        }
        Ok::<(), tokio_postgres::Error>(())
    });
    client.batch_execute(&format!("LISTEN {channel}")).await?;
    *listening = true;
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            ended = driver.join_next() => {
                return match ended {
                    Some(Ok(Err(error))) => Err(error.into()),
                    Some(Ok(Ok(())) | Err(_)) | None => Err(PostgresError::other("the connection ended")),
                };
            }
            received = to_tell.recv_many(&mut batch, UNTOLD_MAX) => if received == 0 {
                return Ok(());
            },
        }
        let mut devices: Vec<DeviceKey> = batch.into_iter().flatten().collect();
        devices.sort_unstable();
        devices.dedup();
        for devices in devices.chunks(DEVICES_PER_NOTIFICATION) {
            let payload = payload(&node, devices);
            client
                .query_typed(
                    "SELECT pg_notify($1, $2)",
                    &[(&channel, Type::TEXT), (&payload, Type::TEXT)],
                )
                .await?;
        }
    }
}

/// The sender, then the devices.
fn payload(node: &str, devices: &[DeviceKey]) -> String {
    let mut payload = node.to_owned();
    for device in devices {
        payload.push(' ');
        payload.push_str(&device.0.to_string());
    }
    payload
}

/// The devices of a payload, unless it is this node's own.
fn told_by_others(payload: &str, own: &str) -> Vec<DeviceKey> {
    let mut words = payload.split(' ');
    if words.next() == Some(own) {
        return Vec::new();
    }
    words
        .filter_map(|word| word.parse().ok().map(DeviceKey))
        .collect()
}

/// Looks at the inboxes that somebody waits for, and wakes whoever has something new.
async fn look(pool: Pool, wakeups: Wakeups) {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = HashMap::new();
    loop {
        ticks.tick().await;
        // The next look finds what this one could not.
        if let Err(error) = look_once(&pool, &wakeups, &mut seen).await {
            tracing::debug!(%error, "the inboxes could not be looked at");
        }
    }
}

async fn look_once(pool: &Pool, wakeups: &Wakeups, seen: &mut HashMap<DeviceKey, i64>) -> Result<(), Fault> {
    let waiting = wakeups.waiting();
    let mut found = HashMap::with_capacity(waiting.len());
    for devices in waiting.chunks(DEVICES_PER_POLL) {
        let ids: Vec<i64> = devices.iter().map(|device| device.0).collect();
        let rows = connection(pool)
            .await?
            .query_typed(
                "SELECT id, inbox_last FROM devices WHERE id = ANY($1)",
                &[(&ids, Type::INT8_ARRAY)],
            )
            .await?;
        for row in rows {
            found.insert(DeviceKey(row.try_get(0)?), row.try_get::<_, i64>(1)?);
        }
    }
    // One that has only begun to wait may have read before the row came that is counted here.
    let woken: Vec<DeviceKey> = found
        .iter()
        .filter(|(device, last)| seen.get(*device) != Some(*last))
        .map(|(device, _)| *device)
        .collect();
    *seen = found;
    wakeups.wake(&woken);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_hears_of_the_devices_that_others_name_and_not_of_its_own() {
        let devices = [DeviceKey(1), DeviceKey(i64::MAX)];
        let told = payload("node-1", &devices);
        assert_eq!(told_by_others(&told, "node-2"), devices);
        assert!(told_by_others(&told, "node-1").is_empty());
        assert!(told_by_others("node-1 not-a-number", "node-2").is_empty());
    }

    #[test]
    fn a_notification_of_as_many_devices_as_it_may_name_fits_into_its_limit() {
        let devices = vec![DeviceKey(i64::MAX); DEVICES_PER_NOTIFICATION];
        assert!(payload(&Uuid::new_v4().to_string(), &devices).len() < 8000);
    }
}
