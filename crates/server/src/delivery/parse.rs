//! Hostile bytes become MLS objects here, or a refusal. Trailing bytes are refused everywhere.

use larder_judge::{Handshake, Unreadable};
use larder_wire::{CommitCheck, GroupId, Problem, ProblemType};
use openmls::framing::PrivateMessageIn;
use openmls::messages::Welcome;
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{ContentType, MlsMessageBodyIn, MlsMessageIn, RatchetTreeIn};

use crate::delivery::checks;
use crate::error::ServiceError;

fn message(bytes: &[u8], what: &str) -> Result<MlsMessageBodyIn, ServiceError> {
    MlsMessageIn::tls_deserialize_exact(bytes)
        .map(MlsMessageIn::extract)
        .map_err(|_| malformed(format!("{what} is not one MLSMessage")))
}

fn malformed(detail: impl Into<String>) -> ServiceError {
    Problem::new(ProblemType::Malformed).with_detail(detail).into()
}

/// A Commit for this group.
pub(super) fn commit(bytes: &[u8], group: &GroupId) -> Result<Handshake, ServiceError> {
    of_group(Handshake::commit(bytes), group)
}

/// A proposal for this group.
pub(super) fn proposal(bytes: &[u8], group: &GroupId) -> Result<Handshake, ServiceError> {
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
    let MlsMessageBodyIn::PrivateMessage(private) = message(bytes, "the message")? else {
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
    match message(bytes, "the Welcome")? {
        MlsMessageBodyIn::Welcome(welcome) => Ok(welcome),
        MlsMessageBodyIn::PublicMessage(_)
        | MlsMessageBodyIn::PrivateMessage(_)
        | MlsMessageBodyIn::GroupInfo(_)
        | MlsMessageBodyIn::KeyPackage(_) => Err(Problem::commit(CommitCheck::WelcomeRefs).into()),
    }
}

pub(super) fn group_info(bytes: &[u8]) -> Result<VerifiableGroupInfo, ServiceError> {
    match message(bytes, "the GroupInfo")? {
        MlsMessageBodyIn::GroupInfo(group_info) => Ok(group_info),
        MlsMessageBodyIn::PublicMessage(_)
        | MlsMessageBodyIn::PrivateMessage(_)
        | MlsMessageBodyIn::Welcome(_)
        | MlsMessageBodyIn::KeyPackage(_) => Err(Problem::commit(CommitCheck::GroupInfo).into()),
    }
}

pub(super) fn ratchet_tree(bytes: &[u8]) -> Result<RatchetTreeIn, ServiceError> {
    RatchetTreeIn::tls_deserialize_exact(bytes).map_err(|_| malformed("the ratchet tree cannot be read"))
}
