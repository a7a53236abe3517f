use larder_wire::{
    Accepted, Acknowledgement, Base64Url, CommitRequest, CreateGroupRequest, GroupCreated, GroupId,
    GroupInfoAnswer, Inbox, InboxKind, InboxRow, KeyPackageRef, MessagesRequest, NextRequest, Position,
    ProposalRequest, RatchetTreeAnswer, Sent,
};
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::{
    Capabilities, CommitBuilder, Extension, ExtensionType, Extensions, Initial, KeyPackage, LeafNodeIndex,
    LeafNodeParameters, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn,
    OpenMlsCrypto, OpenMlsProvider, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent,
    RatchetTreeIn, StagedWelcome, UnknownExtension,
};

use super::{Answer, Device, SUITE, message_bytes};

/// What a device does with groups and its inbox.
impl Device {
    /// A group of this device alone, which the server does not know.
    pub(crate) fn new_group(&self) -> MlsGroup {
        self.new_group_with(&self.provider)
    }

    /// A group that is made with this provider, its storage included.
    pub(crate) fn new_group_with(&self, provider: &impl OpenMlsProvider) -> MlsGroup {
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(false)
            .max_past_epochs(5)
            .build();
        MlsGroup::new(provider, &self.mls, &config, self.credential()).expect("a group")
    }

    pub(crate) fn group_info(&self, group: &MlsGroup) -> Vec<u8> {
        let info = group
            .export_group_info(self.provider.crypto(), &self.mls, false)
            .expect("a GroupInfo");
        message_bytes(&info)
    }

    pub(crate) fn create_group_request(&self, group: &MlsGroup) -> CreateGroupRequest {
        CreateGroupRequest {
            group_id: id_of(group),
            group_info: Base64Url(self.group_info(group)),
            ratchet_tree: Base64Url(
                group
                    .export_ratchet_tree()
                    .tls_serialize_detached()
                    .expect("a tree serializes"),
            ),
        }
    }

    /// Creates a group here and on the server.
    pub(crate) async fn create_group(&self) -> (MlsGroup, GroupId) {
        let group = self.new_group();
        let request = self.create_group_request(&group);
        let key = format!("create-{}", request.group_id);
        let created: GroupCreated = self.http.post_with_key("/v1/groups", &key, &request).await.ok();
        assert_eq!((&created.group_id, created.epoch), (&request.group_id, 0));
        let id = request.group_id;
        (group, id)
    }

    /// Stages a Commit; it stays pending in `group` until it is merged or cleared.
    pub(crate) fn stage(
        &self,
        group: &mut MlsGroup,
        propose: impl for<'a> FnOnce(CommitBuilder<'a, Initial>) -> CommitBuilder<'a, Initial>,
    ) -> CommitRequest {
        self.stage_with(self.provider.crypto(), group, propose)
    }

    /// Stages a Commit that is made with this cryptography.
    pub(crate) fn stage_with(
        &self,
        crypto: &impl OpenMlsCrypto,
        group: &mut MlsGroup,
        propose: impl for<'a> FnOnce(CommitBuilder<'a, Initial>) -> CommitBuilder<'a, Initial>,
    ) -> CommitRequest {
        let bundle = propose(group.commit_builder())
            .load_psks(self.provider.storage())
            .expect("the PSKs load")
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(self.provider.rand(), crypto, &self.mls, |_| true)
            .expect("a Commit")
            .stage_commit(&self.provider)
            .expect("the Commit is staged");
        let (commit, welcome, info) = bundle.into_messages();
        CommitRequest {
            commit: Base64Url(message_bytes(&commit)),
            welcome: welcome.map(|welcome| Base64Url(message_bytes(&welcome))),
            group_info: Base64Url(message_bytes(&info.expect("a GroupInfo was asked for"))),
            reservation_id: None,
        }
    }

    pub(crate) fn stage_adds(&self, group: &mut MlsGroup, key_packages: Vec<KeyPackage>) -> CommitRequest {
        self.stage(group, |commit| commit.propose_adds(key_packages))
    }

    pub(crate) fn stage_update(&self, group: &mut MlsGroup) -> CommitRequest {
        self.stage(group, |commit| commit.force_self_update(true))
    }

    pub(crate) fn stage_remove(&self, group: &mut MlsGroup, leaf: LeafNodeIndex) -> CommitRequest {
        self.stage(group, |commit| commit.propose_removals([leaf]))
    }

    pub(crate) async fn post_commit(&self, group: &GroupId, request: &CommitRequest) -> Answer {
        self.http
            .post(&format!("/v1/groups/{group}/commits"), request)
            .await
    }

    /// Sends a staged Commit, which must be accepted, and merges it.
    pub(crate) async fn commit(&self, group: &mut MlsGroup, request: &CommitRequest) -> Accepted {
        let accepted: Accepted = self.post_commit(&id_of(group), request).await.ok();
        self.merge(group);
        assert_eq!(group.epoch().as_u64(), accepted.epoch);
        accepted
    }

    pub(crate) fn merge(&self, group: &mut MlsGroup) {
        group
            .merge_pending_commit(&self.provider)
            .expect("the pending Commit merges");
    }

    pub(crate) fn clear(&self, group: &mut MlsGroup) {
        group
            .clear_pending_commit(self.provider.storage())
            .expect("the pending Commit is cleared");
    }

    /// Adds devices: reserve, stage, commit, merge.
    pub(crate) async fn invite(&self, group: &mut MlsGroup, users: &[&Device]) -> Vec<KeyPackageRef> {
        let (key_packages, refs) = self.take(users, &id_of(group)).await;
        let request = self.stage_adds(group, key_packages);
        self.commit(group, &request).await;
        refs
    }

    /// An application message as it travels.
    pub(crate) fn encrypt(&self, group: &mut MlsGroup, text: &str) -> Vec<u8> {
        let message = group
            .create_message(&self.provider, &self.mls, text.as_bytes())
            .expect("a message");
        message_bytes(&message)
    }

    pub(crate) async fn post_message(&self, group: &GroupId, message: &[u8]) -> Answer {
        self.post_messages(group, &[message.to_vec()])
            .await
            .of_one_message()
    }

    pub(crate) async fn post_messages(&self, group: &GroupId, messages: &[Vec<u8>]) -> Answer {
        let request = MessagesRequest {
            messages: messages.iter().cloned().map(Base64Url).collect(),
        };
        self.http
            .post(&format!("/v1/groups/{group}/messages"), &request)
            .await
    }

    pub(crate) async fn post_proposal(&self, group: &GroupId, proposal: &[u8]) -> Answer {
        let request = ProposalRequest {
            proposal: Base64Url(proposal.to_vec()),
        };
        self.http
            .post(&format!("/v1/groups/{group}/proposals"), &request)
            .await
    }

    pub(crate) async fn send(&self, group: &mut MlsGroup, text: &str) -> Sent {
        let message = self.encrypt(group, text);
        self.post_message(&id_of(group), &message).await.ok()
    }

    pub(crate) async fn get_group_info(&self, group: &GroupId) -> Answer {
        self.http.get(&format!("/v1/groups/{group}/info")).await
    }

    /// The epoch that the server's group is at.
    pub(crate) async fn epoch(&self, group: &GroupId) -> u64 {
        self.get_group_info(group).await.ok::<GroupInfoAnswer>().epoch
    }

    // Inbox

    /// What is not acknowledged, and not merely passed.
    pub(crate) async fn inbox(&self) -> Vec<InboxRow> {
        let mut rows = self.every_row().await;
        rows.retain(|row| row.kind != InboxKind::Passed);
        rows
    }

    /// What is not acknowledged.
    pub(crate) async fn every_row(&self) -> Vec<InboxRow> {
        self.next(&NextRequest::default()).await.ok::<Inbox>().rows
    }

    /// Waits up to so many seconds for something new.
    pub(crate) async fn wait(&self, seconds: u64) -> Answer {
        self.next(&NextRequest {
            wait: Some(seconds),
            ..NextRequest::default()
        })
        .await
    }

    pub(crate) async fn next(&self, request: &NextRequest) -> Answer {
        self.http.post("/v1/inbox/next", request).await
    }

    /// Has stored this row and those before it, and all mail.
    pub(crate) async fn ack(&self, row: &InboxRow) {
        match &row.group_id {
            Some(group_id) => {
                let mut acknowledgement = self.acknowledgement();
                acknowledgement.mail = Some(u64::MAX);
                acknowledgement.groups.push(Position {
                    group_id: group_id.clone(),
                    seq: row.seq,
                });
                self.acknowledge(acknowledgement).await.ok::<Inbox>()
            }
            None => {
                let mut acknowledgement = self.acknowledgement();
                acknowledgement.mail = Some(row.seq);
                self.acknowledge(acknowledgement).await.ok::<Inbox>()
            }
        };
    }

    /// Has stored the rows of a group up to this one.
    pub(crate) async fn ack_up_to(&self, group: &GroupId, seq: u64) -> Answer {
        let mut acknowledgement = self.acknowledgement();
        acknowledgement.groups.push(Position {
            group_id: group.clone(),
            seq,
        });
        self.acknowledge(acknowledgement).await
    }

    /// Has stored nothing more.
    pub(crate) fn acknowledgement(&self) -> Acknowledgement {
        Acknowledgement {
            incarnation: self.incarnation.clone(),
            groups: Vec::new(),
            mail: None,
        }
    }

    pub(crate) async fn acknowledge(&self, acknowledgement: Acknowledgement) -> Answer {
        let request = NextRequest {
            acknowledge: Some(acknowledgement),
            ..NextRequest::default()
        };
        self.next(&request).await
    }

    /// The rows of these kinds.
    pub(crate) async fn rows(&self, kind: InboxKind) -> Vec<InboxRow> {
        let mut rows = self.inbox().await;
        rows.retain(|row| row.kind == kind);
        rows
    }

    pub(crate) async fn ratchet_tree(&self, group: &GroupId, epoch: u64) -> Answer {
        self.http.get(&format!("/v1/groups/{group}/trees/{epoch}")).await
    }

    /// Joins by the one Welcome in the inbox, acknowledges it, and returns the group.
    pub(crate) async fn join(&self) -> MlsGroup {
        let rows = self.rows(InboxKind::Welcome).await;
        let [row] = rows.as_slice() else {
            panic!("one Welcome was expected, not {}", rows.len());
        };
        let (group, epoch) = (
            row.group_id.as_ref().expect("a group"),
            row.epoch.expect("an epoch"),
        );
        let tree: RatchetTreeAnswer = self.ratchet_tree(group, epoch).await.ok();
        let joined = self.join_with(&row.body.0, &tree.ratchet_tree.0);
        self.ack(row).await;
        assert_eq!(joined.epoch().as_u64(), epoch);
        joined
    }

    /// Joins by every Welcome in the inbox, in order, and acknowledges them.
    pub(crate) async fn join_all(&self) -> Vec<MlsGroup> {
        let mut joined = Vec::new();
        for row in self.rows(InboxKind::Welcome).await {
            let group = row.group_id.as_ref().expect("a group");
            let tree: RatchetTreeAnswer = self.ratchet_tree(group, row.epoch.expect("an epoch")).await.ok();
            joined.push(self.join_with(&row.body.0, &tree.ratchet_tree.0));
            self.ack(&row).await;
        }
        joined
    }

    fn join_with(&self, welcome: &[u8], tree: &[u8]) -> MlsGroup {
        let message = MlsMessageIn::tls_deserialize_exact(welcome).expect("an MLS message");
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
            panic!("not a Welcome");
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(tree).expect("a ratchet tree");
        StagedWelcome::new_from_welcome(&self.provider, &join_config(), welcome, Some(tree))
            .expect("the Welcome opens")
            .into_group(&self.provider)
            .expect("the group is stored")
    }

    /// Processes one message of a group; the text, if it was an application message.
    pub(crate) fn process(&self, group: &mut MlsGroup, message: &[u8]) -> Option<String> {
        let message = MlsMessageIn::tls_deserialize_exact(message).expect("an MLS message");
        let message = message.try_into_protocol_message().expect("a message of a group");
        let processed = group
            .process_message(&self.provider, message)
            .expect("the message is valid");
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(text) => {
                Some(String::from_utf8(text.into_bytes()).expect("UTF-8"))
            }
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                group
                    .merge_staged_commit(&self.provider, *commit)
                    .expect("the Commit merges");
                None
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                group
                    .store_pending_proposal(self.provider.storage(), *proposal)
                    .expect("the proposal is stored");
                None
            }
            _ => panic!("an unexpected kind of message"),
        }
    }

    /// Processes and acknowledges what waits for a group; the texts, in order.
    pub(crate) async fn catch_up(&self, group: &mut MlsGroup) -> Vec<String> {
        let mut texts = Vec::new();
        for row in self.inbox().await {
            match row.kind {
                InboxKind::Commit | InboxKind::Proposal | InboxKind::Message => {
                    texts.extend(self.process(group, &row.body.0));
                }
                InboxKind::Welcome
                | InboxKind::Departure
                | InboxKind::Passed
                | InboxKind::KeyPackagesLow
                | InboxKind::DeviceChange => {}
            }
            self.ack(&row).await;
        }
        texts
    }

    /// An external Commit with what the server tells, and the group that it leads to.
    pub(crate) fn external_commit(&self, answer: &GroupInfoAnswer) -> (MlsGroup, CommitRequest) {
        self.external_commit_with(answer, Vec::new())
    }

    /// The same, with authenticated data.
    pub(crate) fn external_commit_with(
        &self,
        answer: &GroupInfoAnswer,
        authenticated_data: Vec<u8>,
    ) -> (MlsGroup, CommitRequest) {
        let message = MlsMessageIn::tls_deserialize_exact(&answer.group_info.0[..]).expect("an MLS message");
        let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
            panic!("not a GroupInfo");
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(&answer.ratchet_tree.0[..]).expect("a ratchet tree");
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .with_config(join_config())
            .with_aad(authenticated_data)
            .build_group(&self.provider, info, self.credential())
            .expect("the GroupInfo is valid")
            .load_psks(self.provider.storage())
            .expect("the PSKs load")
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(self.provider.rand(), self.provider.crypto(), &self.mls, |_| true)
            .expect("an external Commit")
            .finalize(&self.provider)
            .expect("the group is stored");
        let (commit, _, info) = bundle.into_messages();
        let request = CommitRequest {
            commit: Base64Url(message_bytes(&commit)),
            welcome: None,
            group_info: Base64Url(message_bytes(&info.expect("a GroupInfo was asked for"))),
            reservation_id: None,
        };
        (group, request)
    }
}

/// A fresh leaf with so many bytes of padding.
pub(crate) fn padded_leaf(bytes: usize) -> LeafNodeParameters {
    const KIND: u16 = 0xf042;
    let padding = Extension::Unknown(KIND, UnknownExtension(vec![0; bytes]));
    let kinds = [ExtensionType::Unknown(KIND)];
    LeafNodeParameters::builder()
        .with_capabilities(Capabilities::new(None, None, Some(&kinds), None, None))
        .with_extensions(Extensions::single(padding).expect("an extension of a leaf"))
        .build()
}

/// How this device joins: as it creates.
fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false)
        .max_past_epochs(5)
        .build()
}

/// The id of a group as it travels.
pub(crate) fn id_of(group: &MlsGroup) -> GroupId {
    GroupId::from_bytes(group.group_id().as_slice()).expect("OpenMLS makes short group ids")
}
