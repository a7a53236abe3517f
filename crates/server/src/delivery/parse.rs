//! Hostile bytes become MLS objects here, or a refusal. Nothing is read of what is larger than its kind may be; trailing bytes
//! are refused everywhere.

use larder_judge::{Handshake, Unreadable};
use larder_wire::{
    COMMIT_ADDS_MAX, COMMIT_BYTES_MAX, CommitCheck, GROUP_INFO_BYTES_MAX, GroupId, LEAF_BYTES_MAX,
    MESSAGE_BYTES_MAX, PROPOSAL_BYTES_MAX, Problem, ProblemType,
};
use openmls::framing::PrivateMessageIn;
use openmls::messages::Welcome;
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{ContentType, MlsMessageBodyIn, MlsMessageIn, RatchetTreeIn};

use crate::delivery::checks;
use crate::error::ServiceError;

/// The ratchet tree of a group of one, in bytes: its leaf, behind the length of the list, whether there is a node, and which
/// kind.
const FIRST_TREE_BYTES_MAX: usize = LEAF_BYTES_MAX + 8;

/// Refuses what is larger than its kind may be.
pub(super) fn within(bytes: usize, most: usize, what: &str) -> Result<(), ServiceError> {
    if bytes <= most {
        return Ok(());
    }
    Err(too_large(format!("{what} is larger than {most} bytes")))
}

pub(super) fn too_large(detail: String) -> ServiceError {
    Problem::new(ProblemType::TooLarge).with_detail(detail).into()
}

fn message(bytes: &[u8], most: usize, what: &str) -> Result<MlsMessageBodyIn, ServiceError> {
    within(bytes.len(), most, what)?;
    MlsMessageIn::tls_deserialize_exact(bytes)
        .map(MlsMessageIn::extract)
        .map_err(|_| malformed(format!("{what} is not one MLSMessage")))
}

pub(super) fn malformed(detail: impl Into<String>) -> ServiceError {
    Problem::new(ProblemType::Malformed).with_detail(detail).into()
}

/// A Commit for this group.
pub(super) fn commit(bytes: &[u8], group: &GroupId) -> Result<Handshake, ServiceError> {
    within(bytes.len(), COMMIT_BYTES_MAX, "the Commit")?;
    let commit = of_group(Handshake::commit(bytes), group)?;
    if commit.adds_count() > COMMIT_ADDS_MAX {
        return Err(too_large(format!(
            "the Commit adds more than {COMMIT_ADDS_MAX} devices"
        )));
    }
    Ok(commit)
}

/// A proposal for this group.
pub(super) fn proposal(bytes: &[u8], group: &GroupId) -> Result<Handshake, ServiceError> {
    within(bytes.len(), PROPOSAL_BYTES_MAX, "the proposal")?;
    of_group(Handshake::proposal(bytes), group)
}

fn of_group(read: Result<Handshake, Unreadable>, group: &GroupId) -> Result<Handshake, ServiceError> {
    let handshake = read.map_err(checks::unreadable)?;
    if handshake.group_id().as_slice() != group.as_bytes() {
        return Err(Problem::commit(CommitCheck::Group).into());
    }
    Ok(handshake)
}

/// An application message in private form, for this group. A PrivateMessage can hide a handshake message; its clear
/// content type tells.
pub(super) fn application(bytes: &[u8], group: &GroupId) -> Result<PrivateMessageIn, ServiceError> {
    let MlsMessageBodyIn::PrivateMessage(private) = message(bytes, MESSAGE_BYTES_MAX, "the message")? else {
        return Err(malformed(
            "an application message is a PrivateMessage (RFC 9420 §6)",
        ));
    };
    if private.content_type() != ContentType::Application {
        return Err(malformed("handshake messages are not accepted as PrivateMessage"));
    }
    if private.group_id().as_slice() != group.as_bytes() {
        return Err(malformed("the message is for another group"));
    }
    Ok(private)
}

pub(super) fn welcome(bytes: &[u8]) -> Result<Welcome, ServiceError> {
    match message(bytes, COMMIT_BYTES_MAX, "the Welcome")? {
        MlsMessageBodyIn::Welcome(welcome) => Ok(welcome),
        MlsMessageBodyIn::PublicMessage(_)
        | MlsMessageBodyIn::PrivateMessage(_)
        | MlsMessageBodyIn::GroupInfo(_)
        | MlsMessageBodyIn::KeyPackage(_) => Err(Problem::commit(CommitCheck::WelcomeRefs).into()),
    }
}

pub(super) fn group_info(bytes: &[u8]) -> Result<VerifiableGroupInfo, ServiceError> {
    match message(bytes, GROUP_INFO_BYTES_MAX, "the GroupInfo")? {
        MlsMessageBodyIn::GroupInfo(group_info) => Ok(group_info),
        MlsMessageBodyIn::PublicMessage(_)
        | MlsMessageBodyIn::PrivateMessage(_)
        | MlsMessageBodyIn::Welcome(_)
        | MlsMessageBodyIn::KeyPackage(_) => Err(Problem::commit(CommitCheck::GroupInfo).into()),
    }
}

/// The ratchet tree of a group that its creator is alone in.
pub(super) fn first_ratchet_tree(bytes: &[u8]) -> Result<RatchetTreeIn, ServiceError> {
    within(
        bytes.len(),
        FIRST_TREE_BYTES_MAX,
        "the ratchet tree of a group of one",
    )?;
    RatchetTreeIn::tls_deserialize_exact(bytes).map_err(|_| malformed("the ratchet tree cannot be read"))
}
