//! A group, as the one member sees it that does everything in it; and its public state as OpenMLS alone keeps it.

use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use larder_wire::{
    Accepted, Base64Url, CommitRequest, CreateGroupRequest, GroupCreated, GroupId, GroupInfoAnswer,
    MessageResult, MessagesRequest, MessagesSent, Position, ReserveRequest, Reserved,
};
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::{
    CommitBuilder, Initial, KeyPackage, KeyPackageIn, MlsGroup, MlsGroupCreateConfig, MlsMessageBodyIn,
    MlsMessageIn, OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent,
    ProposalStore, ProtocolVersion, PublicGroup, RatchetTreeIn,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use reqwest::Request;

use super::device::{Device, SUITE, message_bytes};

/// Users that are added at once: fewer than one user may have reserved at a time.
const ADDS_AT_ONCE: usize = 60;

/// A group that its owner alone acts in.
pub(super) struct Group {
    mls: MlsGroup,
    id: GroupId,
    /// The members beside its owner, by their places among the devices.
    pub(super) members: Range<usize>,
    /// The last row of its log.
    last: u64,
}

impl Group {
    /// Creates a group with these of the devices.
    pub(super) async fn create(owner: &Device, devices: &[Device], members: Range<usize>) -> Result<Self> {
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(false)
            .max_past_epochs(5)
            .build();
        let mls = MlsGroup::new(&owner.provider, &owner.mls, &config, owner.credential())?;
        let info = mls.export_group_info(owner.provider.crypto(), &owner.mls, false)?;
        let request = CreateGroupRequest {
            group_id: GroupId::from_bytes(mls.group_id().as_slice())?,
            group_info: Base64Url(message_bytes(&info)?),
            ratchet_tree: Base64Url(mls.export_ratchet_tree().tls_serialize_detached()?),
        };
        owner.http.post::<GroupCreated>("/v1/groups", &request).await?;
        let mut group = Self {
            mls,
            id: request.group_id,
            members: members.clone(),
            last: 0,
        };
        let devices = devices.get(members).context("there are too few devices")?;
        for some in devices.chunks(ADDS_AT_ONCE) {
            let request = group.stage_adds(owner, some).await?;
            group
                .commit(owner, group.prepared_commit(owner, &request)?)
                .await?;
        }
        Ok(group)
    }

    pub(super) fn path(&self, what: &str) -> String {
        format!("/v1/groups/{}/{what}", self.id)
    }

    pub(super) fn position(&self) -> Position {
        Position {
            group_id: self.id.clone(),
            seq: self.last,
        }
    }

    /// Reserves a KeyPackage of each, and stages the Commit that adds them.
    pub(super) async fn stage_adds(&mut self, owner: &Device, devices: &[Device]) -> Result<CommitRequest> {
        let request = ReserveRequest {
            users: devices.iter().map(|device| device.user.clone()).collect(),
            group_id: self.id.clone(),
            suites: vec![SUITE.into()],
            all_or_nothing: true,
        };
        let reserved: Reserved = owner.http.post("/v1/key-packages/reserve", &request).await?;
        let key_packages = reserved
            .users
            .iter()
            .flat_map(|user| &user.devices)
            .map(|device| {
                let bytes = device.key_package.as_ref();
                key_package(owner, &bytes.context("a device has no KeyPackage")?.0)
            })
            .collect::<Result<Vec<_>>>()?;
        self.stage(owner, |commit| commit.propose_adds(key_packages))
    }

    /// Stages the Commit that removes a member.
    pub(super) fn stage_remove(&mut self, owner: &Device, device: &Device) -> Result<CommitRequest> {
        let leaf = self
            .mls
            .members()
            .find(|member| member.signature_key == device.mls.public())
            .with_context(|| format!("{} is no member", device.user))?
            .index;
        self.stage(owner, |commit| commit.propose_removals([leaf]))
    }

    fn stage(
        &mut self,
        owner: &Device,
        propose: impl for<'a> FnOnce(CommitBuilder<'a, Initial>) -> CommitBuilder<'a, Initial>,
    ) -> Result<CommitRequest> {
        let provider = &owner.provider;
        let bundle = propose(self.mls.commit_builder())
            .load_psks(provider.storage())?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(provider.rand(), provider.crypto(), &owner.mls, |_| true)?
            .stage_commit(provider)?;
        let (commit, welcome, info) = bundle.into_messages();
        let welcome = welcome.as_ref().map(message_bytes).transpose()?;
        Ok(CommitRequest {
            commit: Base64Url(message_bytes(&commit)?),
            welcome: welcome.map(Base64Url),
            group_info: Base64Url(message_bytes(&info.context("OpenMLS makes no GroupInfo")?)?),
            reservation_id: None,
        })
    }

    pub(super) fn prepared_commit(&self, owner: &Device, request: &CommitRequest) -> Result<Request> {
        owner.http.prepared(&self.path("commits"), request)
    }

    /// Sends a staged Commit and merges it.
    pub(super) async fn commit(&mut self, owner: &Device, request: Request) -> Result<()> {
        let accepted: Accepted = owner.http.send(request).await?;
        self.merge(owner, &accepted)
    }

    /// Merges a staged Commit that was accepted.
    pub(super) fn merge(&mut self, owner: &Device, accepted: &Accepted) -> Result<()> {
        self.last = accepted.seq;
        self.mls.merge_pending_commit(&owner.provider)?;
        Ok(())
    }

    /// A new message as it travels.
    pub(super) fn message(&mut self, owner: &Device, text: &str) -> Result<Vec<u8>> {
        let message = self
            .mls
            .create_message(&owner.provider, &owner.mls, text.as_bytes())?;
        message_bytes(&message)
    }

    /// A request that sends messages.
    pub(super) fn request(&self, owner: &Device, messages: &[Vec<u8>]) -> Result<Request> {
        let body = MessagesRequest {
            messages: messages.iter().cloned().map(Base64Url).collect(),
        };
        owner.http.prepared(&self.path("messages"), &body)
    }

    /// This is the answer to messages, perhaps to earlier ones than the last.
    pub(super) fn have_sent(&mut self, sent: &MessagesSent) -> Result<()> {
        for result in &sent.results {
            match result {
                MessageResult::Accepted { seq } => self.last = self.last.max(*seq),
                MessageResult::Refused { problem } => bail!("a message was refused: {problem}"),
            }
        }
        Ok(())
    }
}

fn key_package(owner: &Device, bytes: &[u8]) -> Result<KeyPackage> {
    let MlsMessageBodyIn::KeyPackage(key_package) = MlsMessageIn::tls_deserialize_exact(bytes)?.extract()
    else {
        bail!("the server hands out something that is no KeyPackage");
    };
    let key_package: KeyPackageIn = key_package;
    Ok(key_package.validate(owner.provider.crypto(), ProtocolVersion::Mls10)?)
}

/// The public state of a group as OpenMLS keeps it, with its storage in memory.
pub(super) struct InMemory {
    group: PublicGroup,
    provider: OpenMlsRustCrypto,
}

impl InMemory {
    /// The state that the server tells of.
    pub(super) async fn of(owner: &Device, group: &Group) -> Result<Self> {
        let info: GroupInfoAnswer = owner.http.get(&group.path("info")).await?;
        let message = MlsMessageIn::tls_deserialize_exact(&info.group_info.0)?;
        let MlsMessageBodyIn::GroupInfo(group_info) = message.extract() else {
            bail!("the server tells something that is no GroupInfo");
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(&info.ratchet_tree.0)?;
        let provider = OpenMlsRustCrypto::default();
        let (group, _) = PublicGroup::from_external(
            provider.crypto(),
            provider.storage(),
            tree,
            group_info,
            ProposalStore::new(),
        )?;
        Ok(Self { group, provider })
    }

    /// Judges a Commit and merges it.
    pub(super) fn accept(&mut self, request: &CommitRequest) -> Result<()> {
        let message = MlsMessageIn::tls_deserialize_exact(&request.commit.0)?.try_into_protocol_message()?;
        let processed = self.group.process_message(self.provider.crypto(), message)?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            bail!("OpenMLS takes a Commit for something else");
        };
        self.group.merge_commit(self.provider.storage(), *staged)?;
        Ok(())
    }
}
