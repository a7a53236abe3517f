//! What must be stored when everybody has stopped: every row of every audit, sequence and inbox.

use std::collections::BTreeMap;

use larder_server::Admin;
use larder_wire::{AuditChain, AuditPage, AuditRow, GroupId, InboxKind, InboxRow};

use super::checker::Operation;
use super::group::{self, Id};
use super::key_package;
use super::member::{Member, read_all};
use super::recorder::Fate;
use super::world::{Message, World, identity, sha256};
use crate::support::Device;

/// Longer than any reservation.
const LATER_SECONDS: u64 = 2 * 60 * 60;

/// Lets every reservation lapse, and reads all that there is into the histories.
pub(super) async fn read_everything(world: &World, members: &[Member]) {
    world.sweep_after(LATER_SECONDS, true).await;
    for owner in 0..world.owners.len() {
        world.read(owner).await;
        read_audit(world, &world.owners[owner]).await;
    }
    let sequences = sequences(world, members).await;
    for (gid, ids) in sequences.values() {
        let happened = Operation {
            invoked: world.recorder.tick(),
            op: group::Op::Sequence,
            answer: Some((world.recorder.tick(), group::Answer::Sequence(ids.clone()))),
        };
        world.recorder.group(gid, [happened]);
    }
    for member in members {
        member.ask(Fate::Answered).await;
        let who = Who::Founder(&member.gid);
        let found = member.found.clone();
        check_inbox(world, &member.device, (who, found), sequences.values()).await;
    }
    for (at, owner) in world.owners.iter().enumerate() {
        check_inbox(world, owner, (Who::Owner(at), Vec::new()), sequences.values()).await;
    }
    let admin = Admin::open(&world.server.database.location()).await.unwrap();
    let mut findings = Vec::new();
    admin.check(|finding| findings.push(finding)).await.unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}

type Sequences = BTreeMap<Vec<u8>, (GroupId, Vec<Id>)>;

/// Whose inbox it is.
#[derive(Clone, Copy)]
enum Who<'a> {
    /// A member of this group from the first Commit on.
    Founder(&'a GroupId),
    /// Somebody whom the founders add and remove.
    Owner(usize),
}

/// What each group accepted, in order, out of the database itself.
async fn sequences(world: &World, members: &[Member]) -> Sequences {
    let database = &world.server.database;
    let gapless = "SELECT count(*) FROM (SELECT group_id FROM log GROUP BY group_id
                   HAVING min(seq) <> 1 OR max(seq) <> count(*)) AS gaps";
    let one_each = "SELECT count(*) FROM (SELECT group_id FROM log WHERE kind = 0 GROUP BY group_id, epoch
                    HAVING count(*) > 1) AS forks";
    assert_eq!(database.count(gapless).await, 0, "S9: no gaps");
    assert_eq!(database.count(one_each).await, 0, "S9: one Commit per epoch");
    let groups = database
        .bytes("SELECT group_id FROM log ORDER BY group_id, seq")
        .await;
    let ids = database
        .bytes("SELECT sha256 FROM log ORDER BY group_id, seq")
        .await;
    let mut sequences = Sequences::new();
    for member in members {
        let key = member.gid.as_bytes().to_vec();
        sequences.insert(key, (member.gid.clone(), Vec::new()));
    }
    for (group, id) in groups.into_iter().zip(ids) {
        let (_, sequence) = sequences.get_mut(&group).expect("a group of the tests");
        sequence.push(id);
    }
    sequences
}

/// S8: the whole chain is verified, and what it tells of each KeyPackage goes into its history.
async fn read_audit(world: &World, owner: &Device) {
    let (mut chain, mut rows): (_, Vec<AuditRow>) = (AuditChain::default(), Vec::new());
    let invoked = world.recorder.tick();
    loop {
        let path = format!("/v1/key-packages/audit?after={}", chain.seq());
        let page: AuditPage = owner.http.get(&path).await.ok();
        for row in page.rows {
            chain.follow(&row).expect("the chain holds");
            rows.push(row);
        }
        if chain.ends_at(&page.head) {
            break;
        }
    }
    let answered = world.recorder.tick();
    let mut entries: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        let entry = (row.transition, row.actor, row.group_id);
        entries.entry(row.key_package_ref).or_default().push(entry);
    }
    for (key_package_ref, entries) in entries {
        let happened = Operation {
            invoked,
            op: key_package::Op::Audit,
            answer: Some((answered, key_package::Answer::Audit(entries))),
        };
        world.recorder.key_package(&key_package_ref, [happened]);
    }
}

/// S9: the rows of each group follow one another, but for what came before a Welcome.
fn leaves_out_nothing(rows: &[InboxRow]) {
    let mut positions: BTreeMap<&GroupId, u64> = BTreeMap::new();
    for row in rows {
        let Some(group) = &row.group_id else { continue };
        let first = row.first.unwrap_or(row.seq);
        let position = positions.entry(group).or_insert(first - 1);
        assert!(
            first == *position + 1 || row.kind == InboxKind::Welcome && first > *position,
            "row {first} to {} of a group follows row {position}",
            row.seq
        );
        *position = row.seq;
    }
}

/// X1, R-S2: of each group a device finds, in order and once, what was accepted while it belonged there.
async fn check_inbox<'a>(
    world: &World,
    device: &Device,
    (who, mut rows): (Who<'_>, Vec<InboxRow>),
    sequences: impl Iterator<Item = &'a (GroupId, Vec<Id>)>,
) {
    rows.extend(read_all(device).await);
    leaves_out_nothing(&rows);
    rows.retain(|row| row.kind != InboxKind::Passed);
    let mut expected = 0;
    for (gid, sequence) in sequences {
        let of_group = rows.iter().filter(|row| row.group_id.as_ref() == Some(gid));
        let found: Vec<_> = of_group.map(|row| (row.kind, sha256(&row.body.0))).collect();
        let due = expected_rows(world, device, (who, gid), sequence);
        assert_eq!(found, due, "the inbox of {}", device.user);
        expected += found.len();
    }
    let others = rows.iter().filter(|row| row.group_id.is_some()).count();
    assert_eq!(others, expected, "rows of groups that nobody knows");
}

/// What a device must find of a group with this sequence. The first Commit of it made the founders members.
fn expected_rows(
    world: &World,
    device: &Device,
    (who, gid): (Who<'_>, &GroupId),
    sequence: &[Id],
) -> Vec<(InboxKind, Id)> {
    let sent = world.sent.lock().unwrap();
    let me = identity(device);
    let (owner, mut member_since) = match who {
        Who::Founder(of) => (None, (of == gid).then_some(1)),
        Who::Owner(owner) => (Some(owner), None),
    };
    let mut rows = Vec::new();
    for (id, made_in) in sequence[1..].iter().zip(epochs(&sent, sequence)) {
        match &sent[id] {
            Message::Text { sender, epoch } => {
                if *sender != me && member_since.is_some_and(|since| since <= *epoch) {
                    rows.push((InboxKind::Message, id.clone()));
                }
            }
            Message::Commit {
                sender,
                added,
                removed,
            } => {
                if *sender != me && member_since.is_some() {
                    rows.push((InboxKind::Commit, id.clone()));
                }
                if removed.is_some() && *removed == owner {
                    member_since = None;
                }
                if let Some((added, welcome)) = added
                    && Some(*added) == owner
                {
                    member_since = Some(made_in + 1);
                    rows.push((InboxKind::Welcome, welcome.clone()));
                }
            }
        }
    }
    rows
}

/// The epoch that the group was at before each message after the first.
fn epochs(sent: &BTreeMap<Id, Message>, sequence: &[Id]) -> Vec<u64> {
    let mut epoch = 1;
    let of = |id: &Id| {
        let before = epoch;
        epoch += u64::from(matches!(sent[id], Message::Commit { .. }));
        before
    };
    sequence[1..].iter().map(of).collect()
}
