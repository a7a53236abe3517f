//! Hostile bytes become MLS objects here, or a refusal. Trailing bytes are refused everywhere.

use larder_wire::{CommitCheck, GroupId, Problem, ProblemType};
use openmls::framing::{PrivateMessageIn, PublicMessageIn};
use openmls::messages::Welcome;
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::messages::proposals_in::ProposalOrRefIn;
use openmls::prelude::tls_codec::{self, Deserialize as _, VLBytes};
use openmls::prelude::{ContentType, MlsMessageBodyIn, MlsMessageIn, RatchetTreeIn, Sender};

use crate::error::ServiceError;

fn message(bytes: &[u8], what: &str) -> Result<MlsMessageBodyIn, ServiceError> {
    MlsMessageIn::tls_deserialize_exact(bytes)
        .map(MlsMessageIn::extract)
        .map_err(|_| malformed(format!("{what} is not one MLSMessage")))
}

fn malformed(detail: impl Into<String>) -> ServiceError {
    Problem::new(ProblemType::Malformed).with_detail(detail).into()
}

/// A handshake message in public form, for this group.
pub(super) fn handshake(
    bytes: &[u8],
    content_type: ContentType,
    group: &GroupId,
) -> Result<PublicMessageIn, ServiceError> {
    let MlsMessageBodyIn::PublicMessage(public) = message(bytes, "the handshake message")? else {
        return Err(Problem::commit(CommitCheck::MessageKind).into());
    };
    if public.content_type() != content_type {
        return Err(Problem::commit(CommitCheck::MessageKind).into());
    }
    if public.group_id().as_slice() != group.as_bytes() {
        return Err(Problem::commit(CommitCheck::Group).into());
    }
    Ok(public)
}

/// How many proposals a Commit lists (RFC 9420 §12.4), by value or by reference. OpenMLS keeps identical ones once, so
/// that a KeyPackage added twice looks like one Add; other libraries refuse such a Commit.
pub(super) fn proposals_count(commit: &[u8]) -> Result<usize, ServiceError> {
    let count = |bytes: &mut &[u8]| {
        // MLSMessage: version and wire format; FramedContent: group, epoch, sender, authenticated data, content type.
        <[u8; 4]>::tls_deserialize(bytes)?;
        openmls::group::GroupId::tls_deserialize(bytes)?;
        u64::tls_deserialize(bytes)?;
        Sender::tls_deserialize(bytes)?;
        VLBytes::tls_deserialize(bytes)?;
        u8::tls_deserialize(bytes)?;
        Vec::<ProposalOrRefIn>::tls_deserialize(bytes).map(|proposals| proposals.len())
    };
    count(&mut &*commit).map_err(|_: tls_codec::Error| malformed("the Commit cannot be read"))
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
