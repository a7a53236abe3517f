//! A group whose members are at two nodes, one of which is killed again and again.

use std::sync::{Arc, Mutex};

use larder_wire::{
    Acknowledgement, Base64Url, GroupId, GroupInfoAnswer, Inbox, InboxKind, MessageResult, MessagesRequest,
    MessagesSent, NextRequest, Position,
};
use openmls::prelude::MlsGroup;
use openmls::prelude::tls_codec::Serialize as _;
use tokio::task::spawn_blocking;

use crate::database::Database;
use crate::process::alone;
use crate::support::{Device, Http};
use crate::{Node, PROGRAM, enrol, parsed, persist};

/// A third of them Commits, which makes a snapshot of the group due.
const STEPS: usize = 120;
/// A node is killed while the answer to each of these is under way.
const KILLED_AT: [usize; 5] = [10, 33, 50, 99, 110];

/// One node that is killed, and one that goes on.
struct Nodes {
    database: Database,
    killed: Mutex<Node>,
    kept: Node,
}

impl Nodes {
    /// Where a device asks first, and where next.
    fn of(&self, device: &Device, killed_first: bool) -> [Http; 2] {
        let at = |node: &Node| Http::new(&node.address).with_token(device.http.token.as_ref().unwrap());
        let mut nodes = [at(&self.killed.lock().unwrap()), at(&self.kept)];
        if !killed_first {
            nodes.reverse();
        }
        nodes
    }

    fn kill_one_and_start_another(&self) {
        let mut node = self.killed.lock().unwrap();
        node.kill();
        *node = Node::start(&self.database);
    }
}

/// Writes messages and Commits, and goes on whatever becomes of a node. Returns the messages.
async fn write(nodes: &Arc<Nodes>, alice: &Device, group: &mut MlsGroup, gid: &GroupId) -> Vec<String> {
    let (mut written, mut last) = (Vec::new(), None);
    for step in 0..STEPS {
        let at = nodes.of(alice, KILLED_AT.contains(&step) || step % 2 == 0);
        let asked = async {
            if step % 3 == 0 {
                let request = alice.stage_update(group);
                let path = format!("/v1/groups/{gid}/commits");
                let accepted = persist(&at, &path, "", &request).await;
                alice.merge(group);
                parsed::<larder_wire::Accepted>(&accepted).seq
            } else {
                let text = format!("message {step}");
                let request = MessagesRequest {
                    messages: vec![Base64Url(alice.encrypt(group, &text))],
                };
                written.push(text);
                let path = format!("/v1/groups/{gid}/messages");
                match &*parsed::<MessagesSent>(&persist(&at, &path, "", &request).await).results {
                    [MessageResult::Accepted { seq }] => *seq,
                    other => panic!("{other:?}"),
                }
            }
        };
        let killed = async {
            if KILLED_AT.contains(&step) {
                let nodes = Arc::clone(nodes);
                spawn_blocking(move || nodes.kill_one_and_start_another())
                    .await
                    .unwrap();
            }
        };
        let (seq, ()) = tokio::join!(asked, killed);
        assert!(last.is_none_or(|last| seq == last + 1), "{seq} after {last:?}");
        last = Some(seq);
    }
    written
}

/// Reads and acknowledges until so many messages are there. Returns them.
async fn read(
    nodes: &Nodes,
    reader: &Device,
    group: &mut MlsGroup,
    gid: &GroupId,
    killed_first: bool,
) -> Vec<String> {
    let (mut texts, mut position) = (Vec::new(), None);
    while texts.len() < STEPS - STEPS / 3 {
        let groups = position.map(|seq| Position {
            group_id: gid.clone(),
            seq,
        });
        let request = NextRequest {
            acknowledge: Some(Acknowledgement {
                groups: groups.into_iter().collect(),
                ..reader.acknowledgement()
            }),
            wait: Some(1),
            ..NextRequest::default()
        };
        let at = nodes.of(reader, killed_first);
        let inbox: Inbox = parsed(&persist(&at, "/v1/inbox/next", "", &request).await);
        for row in inbox.rows {
            assert!(position.is_none_or(|position| row.seq > position), "given twice");
            position = Some(row.seq);
            match row.kind {
                // It decrypts but once, and a Commit is for one epoch.
                InboxKind::Commit | InboxKind::Message => texts.extend(reader.process(group, &row.body.0)),
                other => panic!("{other:?}"),
            }
        }
    }
    texts
}

/// S5, S9, X1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_loses_and_doubles_nothing_while_a_node_is_killed_again_and_again() {
    let database = Database::create().await;
    let (killed, kept) = (Node::start(&database), Node::start(&database));
    let http = Http::new(&kept.address);
    let (alice, bob, carol) = (
        enrol(&http, "alice").await,
        enrol(&http, "bob").await,
        enrol(&http, "carol").await,
    );
    let (mut alices, gid) = alice.create_group().await;
    bob.stock(1).await;
    carol.stock(1).await;
    alice.invite(&mut alices, &[&bob, &carol]).await;
    let (mut bobs, mut carols) = (bob.join().await, carol.join().await);
    let nodes = Arc::new(Nodes {
        database,
        killed: Mutex::new(killed),
        kept,
    });
    let (written, of_bob, of_carol) = tokio::join!(
        write(&nodes, &alice, &mut alices, &gid),
        read(&nodes, &bob, &mut bobs, &gid, true),
        read(&nodes, &carol, &mut carols, &gid, false),
    );
    assert_eq!(of_bob, written);
    assert_eq!(of_carol, written);

    // Both nodes have the group as its members have it, the one from what the other had stored.
    let tree = alices.export_ratchet_tree().tls_serialize_detached().unwrap();
    for http in nodes.of(&alice, true) {
        let info: GroupInfoAnswer = http.get(&format!("/v1/groups/{gid}/info")).await.ok();
        assert_eq!(info.epoch, alices.epoch().as_u64());
        assert_eq!(info.ratchet_tree.0, tree);
    }
    let checked = alone(PROGRAM, &["admin", "check"], &std::env::temp_dir())
        .env("LARDER_STORE", nodes.database.url())
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}
