//! Tells the other nodes for whom there is something new, and hears it from them.
//!
//! NOTIFY and LISTEN are quick and may fail: each node also looks every now and then at what somebody waits for, and often while it
//! cannot listen. Nothing depends on either but how soon a message is seen.

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::time::Duration;

use deadpool_postgres::Pool;
use larder_wire::GroupId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Config};
use uuid::Uuid;

use super::pool::connection;
use super::tls::Connector;
use crate::error::Fault;
use crate::store::postgres::PostgresError;
use crate::store::tx::{DeviceKey, News};
use crate::wakeups::Wakeups;

/// Transactions whose news waits to be told. Beyond that it is not told.
const UNTOLD_MAX: usize = 1024;
/// A notification, whose payload PostgreSQL limits to 8000 bytes, ends with the word that reaches this size.
const NOTIFICATION_BYTES: usize = 7500;
/// The word for sessions that have ended.
const ENDED_SESSIONS: &str = "s";
/// What somebody waits for is looked at this often while the node cannot listen.
const LOOK_DEAF: Duration = Duration::from_secs(2);
/// And this often while it can.
const LOOK: Duration = Duration::from_secs(30);
/// Rows looked at in one statement.
const ROWS_PER_LOOK: usize = 1000;
/// After a failure the next attempt to listen waits this long, and twice as long each further time.
const LISTEN_PAUSE_MIN: Duration = Duration::from_secs(1);
/// It never waits longer.
const LISTEN_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Where a transaction leaves what is new.
pub(super) struct Hints {
    untold: mpsc::Sender<News>,
}

impl Hints {
    pub(super) fn tell(&self, news: News) {
        if !news.is_empty() {
            // When there is no room, the other nodes find out by looking.
            let _ = self.untold.try_send(news);
        }
    }
}

/// Starts what runs beside the requests.
pub(super) fn start(
    background: &mut JoinSet<()>,
    (config, connector): (Config, Connector),
    pool: Pool,
    incarnation: &str,
    wakeups: Wakeups,
) -> Hints {
    let (untold, to_tell) = mpsc::channel(UNTOLD_MAX);
    // Several servers may share a database, each in a schema of its own.
    let channel = format!("larder_{}", incarnation.replace('-', ""));
    let (listening, listens) = watch::channel(false);
    background.spawn(exchange(
        (config, connector),
        channel,
        to_tell,
        wakeups.clone(),
        listening,
    ));
    background.spawn(look(pool, wakeups, listens));
    Hints { untold }
}

/// Listens, and tells, on a connection of its own; again and again, if it is lost.
async fn exchange(
    database: (Config, Connector),
    channel: String,
    mut to_tell: mpsc::Receiver<News>,
    wakeups: Wakeups,
    listening: watch::Sender<bool>,
) {
    let mut pause = LISTEN_PAUSE_MIN;
    loop {
        let ended = exchange_once(&database, &channel, &mut to_tell, &wakeups, &listening).await;
        if listening.send_replace(false) {
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
    (config, connector): &(Config, Connector),
    channel: &str,
    to_tell: &mut mpsc::Receiver<News>,
    wakeups: &Wakeups,
    listening: &watch::Sender<bool>,
) -> Result<(), PostgresError> {
    let (client, mut connection) = connector.connect(config).await?;
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
    listening.send_replace(true);
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
        for payload in payloads(&node, batch) {
            client
                .query_typed(
                    "SELECT pg_notify($1, $2)",
                    &[(&channel, Type::TEXT), (&payload, Type::TEXT)],
                )
                .await?;
        }
    }
}

/// Each begins with the sender; then come the devices, as numbers, the groups, as base64url behind a `g`, and that sessions have
/// ended, as [`ENDED_SESSIONS`].
fn payloads(node: &str, news: Vec<News>) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for News {
        devices,
        groups,
        messages,
        ended_sessions,
    } in news
    {
        words.extend((ended_sessions > 0).then(|| ENDED_SESSIONS.to_owned()));
        words.extend(devices.iter().map(|device| device.0.to_string()));
        let groups = groups.iter().chain(messages.iter().map(|message| &message.group));
        words.extend(groups.map(|group| format!("g{group}")));
    }
    words.sort_unstable();
    words.dedup();
    let mut payloads: Vec<String> = Vec::new();
    for word in words {
        match payloads.last_mut() {
            Some(payload) if payload.len() < NOTIFICATION_BYTES => {
                payload.push(' ');
                payload.push_str(&word);
            }
            Some(_) | None => payloads.push(format!("{node} {word}")),
        }
    }
    payloads
}

/// What a payload tells, unless it is this node's own.
fn told_by_others(payload: &str, own: &str) -> News {
    let mut news = News::default();
    let mut words = payload.split(' ');
    if words.next() == Some(own) {
        return news;
    }
    for word in words {
        match word.strip_prefix('g') {
            Some(group) => news.groups.extend(group.parse::<GroupId>()),
            None if word == ENDED_SESSIONS => news.ended_sessions = 1,
            None => news.devices.extend(word.parse().map(DeviceKey)),
        }
    }
    news
}

/// Looks at what somebody waits for, and wakes whoever has something new.
async fn look(pool: Pool, wakeups: Wakeups, mut listens: watch::Receiver<bool>) {
    let mut seen = Seen::default();
    loop {
        let pause = match *listens.borrow_and_update() {
            true => LOOK,
            false => LOOK_DEAF,
        };
        // What came before it could listen is found at once when it can.
        if let Ok(Err(_)) = timeout(pause, listens.changed()).await {
            sleep(pause).await;
        }
        // The next look finds what this one could not.
        if let Err(error) = look_once(&pool, &wakeups, &mut seen).await {
            tracing::debug!(%error, "what is waited for could not be looked at");
        }
    }
}

/// What was found by the last look.
#[derive(Default)]
struct Seen {
    /// The number of the last mail, and how many groups there are.
    devices: HashMap<DeviceKey, (i64, i64)>,
    /// The number of the next row.
    groups: HashMap<GroupId, i64>,
}

async fn look_once(pool: &Pool, wakeups: &Wakeups, seen: &mut Seen) -> Result<(), Fault> {
    let waiting = wakeups.waiting();
    let mut found = Seen::default();
    for devices in waiting.devices.chunks(ROWS_PER_LOOK) {
        let ids: Vec<i64> = devices.iter().map(|device| device.0).collect();
        let rows = connection(pool)
            .await?
            .query_typed(
                "SELECT d.id, d.mail_last, (
                     SELECT count(*) FROM members m WHERE m.device_id >> 8 = d.user_id AND m.device_id = d.id)
                 FROM unnest($1::bigint[]) AS asked JOIN devices d ON d.user_id = asked >> 8 AND d.id = asked",
                &[(&ids, Type::INT8_ARRAY)],
            )
            .await?;
        for row in rows {
            let counted = (row.try_get(1)?, row.try_get(2)?);
            found.devices.insert(DeviceKey(row.try_get(0)?), counted);
        }
    }
    for groups in waiting.groups.chunks(ROWS_PER_LOOK) {
        let ids: Vec<&[u8]> = groups.iter().map(GroupId::as_bytes).collect();
        let rows = connection(pool)
            .await?
            .query_typed(
                "SELECT id, next_seq FROM groups WHERE id = ANY($1)",
                &[(&ids, Type::BYTEA_ARRAY)],
            )
            .await?;
        for row in rows {
            if let Ok(group) = GroupId::from_bytes(row.try_get(0)?) {
                found.groups.insert(group, row.try_get(1)?);
            }
        }
    }
    // One that has only begun to wait may have read before the row came that is counted here.
    let woken = News {
        devices: changed(&found.devices, &seen.devices),
        groups: changed(&found.groups, &seen.groups),
        ..News::default()
    };
    *seen = found;
    wakeups.wake(&woken);
    Ok(())
}

fn changed<K: Hash + Eq + Clone, V: PartialEq>(found: &HashMap<K, V>, seen: &HashMap<K, V>) -> Vec<K> {
    let changed = found.iter().filter(|(key, value)| seen.get(*key) != Some(*value));
    changed.map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_hears_of_what_others_tell_and_not_of_its_own() {
        let news = News {
            devices: vec![DeviceKey(1), DeviceKey(i64::MAX)],
            groups: vec![GroupId::from_bytes(b"a group").unwrap()],
            ended_sessions: 1,
            ..News::default()
        };
        let [told] = &payloads("node-1", vec![news.clone(), news.clone()])[..] else {
            panic!("one payload");
        };
        assert_eq!(told_by_others(told, "node-2"), news);
        assert!(told_by_others(told, "node-1").is_empty());
        assert!(told_by_others("node-1 not-a-number g!", "node-2").is_empty());
    }

    #[test]
    fn a_notification_fits_into_its_limit() {
        let groups = (0..1000_u16).map(|number| {
            let mut id = vec![0; larder_wire::GROUP_ID_BYTES_MAX];
            id[..2].copy_from_slice(&number.to_be_bytes());
            GroupId::from_bytes(&id).unwrap()
        });
        let news = News {
            devices: vec![DeviceKey(i64::MAX)],
            groups: groups.collect(),
            ..News::default()
        };
        let payloads = payloads(&Uuid::new_v4().to_string(), vec![news]);
        assert!(payloads.len() > 1);
        assert!(payloads.iter().all(|payload| payload.len() < 8000));
    }
}
