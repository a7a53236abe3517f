//! Contact requests: invitations from strangers, and groups that the server alone says this user is in. Until the person has accepted one, nothing of this device's is sent to its group: what arrives is
//! stored, and that this user is there and awake is not told.

use larder_judge::Leaf;
use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::UserName;
use openmls::prelude::{LeafNodeIndex, MlsGroup};
use rusqlite::{Connection, OptionalExtension};

use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::{
    blocks, committed, devices, doubts, groups, history, holds, leaving, listed, mls, peers, restored_server,
    verification,
};
use crate::error::Error;
use crate::types::{ContactRequest, GroupKey, GroupState, Invitations};
use crate::verification::Verification;

/// The forms of requests, as they are stored.
const FORM_INVITATION: i64 = 0;
const FORM_LISTED: i64 = 1;
const FORM_LISTED_UNKNOWN: i64 = 2;

/// Whose leaf has made the Commit that brings this device into a group.
pub(super) fn adder(group: &MlsGroup, adder: LeafNodeIndex) -> Result<Leaf, Error> {
    let found = group.members().find(|member| member.index == adder);
    let leaf = found.and_then(|member| Leaf::of_member(&member));
    corrupt(leaf, "a Welcome of nobody")
}

/// Who invited this user to the group that a Welcome has just opened, if that is a request: neither another device of this
/// user, nor one that is verified, nor one from a group that is accepted. The signature key decides, not the name.
pub(super) fn inviter(tx: &Tx<'_>, context: &Context, adder: Leaf) -> Result<Option<UserName>, Error> {
    let ask = match context.invitations {
        Invitations::Ask => {
            let Leaf {
                user,
                device,
                signature_key,
            } = &adder;
            !devices::is_sibling(tx, context, &adder)?
                && verification::of_leaf(tx, user, device, signature_key)? != Verification::Verified
                && !is_acquainted(tx, &adder)?
        }
        Invitations::Accept => false,
    };
    Ok(ask.then_some(adder.user))
}

/// Whether this device is in a group that was accepted, or another one of its user is: by the signatures that lead from one to
/// the other.
fn is_acquainted(tx: &Tx<'_>, leaf: &Leaf) -> Result<bool, Error> {
    let is_authorized = peers::is_authorized(tx.connection(), leaf)?;
    for group in groups::in_states(tx.connection(), &[GroupState::Active])? {
        if find(tx.connection(), &group)?.is_some() || holds::is_held(tx.connection(), &group)? {
            continue;
        }
        for member in mls::load(tx, &group)?.members() {
            let Some(member) = Leaf::of_member(&member).filter(|member| member.user == leaf.user) else {
                continue;
            };
            if member == *leaf || (is_authorized && peers::is_authorized(tx.connection(), &member)?) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Makes a request of a group, or none. What comes from then on belongs to the request; while one is not answered another
/// invitation belongs to it, too.
pub(super) fn set(
    connection: &Connection,
    group: &GroupKey,
    request: Option<&ContactRequest>,
) -> Result<(), Error> {
    let Some(request) = request else {
        connection.execute(
            "UPDATE groups SET request = NULL, request_form = 0, request_after = 0, name_before = NULL, name_id_before = NULL
             WHERE group_id = ?1",
            [group.as_bytes()],
        )?;
        return Ok(());
    };
    connection.execute(
        "UPDATE groups SET request_after = (SELECT coalesce(max(row), 0) FROM messages),
             name_before = name, name_id_before = name_id
         WHERE group_id = ?1 AND request IS NULL",
        [group.as_bytes()],
    )?;
    let (form, text) = match request {
        ContactRequest::Invitation { by } => (FORM_INVITATION, by.to_string()),
        ContactRequest::Listed { users: Some(users) } => (FORM_LISTED, listed::joined(users)),
        ContactRequest::Listed { users: None } => (FORM_LISTED_UNKNOWN, String::new()),
    };
    connection.execute(
        "UPDATE groups SET request = ?2, request_form = ?3 WHERE group_id = ?1",
        (group.as_bytes(), text, form),
    )?;
    Ok(())
}

/// The group is one like any other: the person wants to be in it. From here on who is in it is known by their keys; whoever invites
/// does not get to say so before.
pub(super) fn accepted(tx: &Tx<'_>, group: &GroupKey, now: UnixSeconds) -> Result<(), Error> {
    let connection = tx.connection();
    if let Some(state) = mls::find(tx, group)? {
        for leaf in state.members().filter_map(|member| Leaf::of_member(&member)) {
            let key = &leaf.signature_key;
            if peers::pin(connection, &leaf.user, &leaf.device, key, now)? == peers::Pin::Changed {
                committed::tell_changed(connection, group, (&leaf.user, &leaf.device), now)?;
            }
        }
    }
    set(connection, group, None)
}

/// What makes the group a request, if it was not accepted.
pub(super) fn find(connection: &Connection, group: &GroupKey) -> Result<Option<ContactRequest>, Error> {
    let request: Option<(Option<String>, i64)> = connection
        .prepare_cached("SELECT request, request_form FROM groups WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((Some(text), form)) = request else {
        return Ok(None);
    };
    let request = match form {
        FORM_INVITATION => ContactRequest::Invitation {
            by: corrupt(text.parse().ok(), "user name")?,
        },
        FORM_LISTED => ContactRequest::Listed {
            users: Some(listed::split(&text)?),
        },
        FORM_LISTED_UNKNOWN => ContactRequest::Listed { users: None },
        _ => return Err(Error::Corrupt("form of a request")),
    };
    Ok(Some(request))
}

/// Those of these groups that something may be sent to.
pub(super) fn only_accepted(connection: &Connection, groups: Vec<GroupKey>) -> Result<Vec<GroupKey>, Error> {
    let mut accepted = Vec::new();
    for group in groups {
        if find(connection, &group)?.is_none() {
            accepted.push(group);
        }
    }
    Ok(accepted)
}

/// Fails for a request.
pub(super) fn require_accepted(connection: &Connection, group: &GroupKey) -> Result<(), Error> {
    match find(connection, group)? {
        None => Ok(()),
        Some(_) => Err(Error::NotAccepted { group: group.clone() }),
    }
}

/// The person accepts. Accepting twice is no error. Returns the group's state: of one that is over by now the person keeps what
/// came with the invitation.
pub(crate) fn accept(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<GroupState, Error> {
    let state = groups::group_state(tx, group)?;
    match (find(tx.connection(), group)?, state) {
        (None, GroupState::Left) => return Err(Error::GroupNotActive(state)),
        (Some(_), GroupState::Left) | (Some(ContactRequest::Invitation { .. }), _) => {}
        (Some(ContactRequest::Listed { users }), _) => {
            listed::accepted(tx, group, &users.unwrap_or_default())?
        }
        (None, _) => accept_instead(tx, context, group, state)?,
    }
    accepted(tx, group, context.now())?;
    Ok(state)
}

/// The person accepts the group that the server has in the place of this one, if it was offered.
fn accept_instead(tx: &Tx<'_>, context: &Context, group: &GroupKey, state: GroupState) -> Result<(), Error> {
    let offered = match state {
        GroupState::Active => doubts::offered_instead(tx, group)?,
        GroupState::Creating | GroupState::NeedsRejoin | GroupState::Left => {
            listed::offered(tx.connection(), group)?
        }
    };
    let Some(users) = offered else {
        return Ok(());
    };
    if state == GroupState::Active {
        restored_server::go_over(tx, context, group)?;
    }
    listed::accepted(tx, group, &users)
}

/// What became of an invitation that the person has declined.
pub(crate) struct Forgotten {
    /// Whether there is a history of the group from before the invitation.
    pub(crate) kept: bool,
    /// Whether this device was not in the group any more.
    pub(crate) was_over: bool,
}

/// The person declines: what came with the invitation is forgotten, and the group is left unless it is over.
pub(crate) fn decline(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<Forgotten, Error> {
    let state = groups::group_state(tx, group)?;
    if find(tx.connection(), group)?.is_none() {
        return Err(Error::NotARequest);
    }
    leaving::leave(tx, context, group)?;
    Ok(Forgotten {
        kept: history::any(tx.connection(), group)?,
        was_over: state == GroupState::Left,
    })
}

/// The requests of a user that were not answered: the user's invitations, and the groups that the server lists with this user and
/// nobody else who is not blocked.
pub(crate) fn of_user(tx: &Tx<'_>, user: &UserName) -> Result<Vec<GroupKey>, Error> {
    let mut found = Vec::new();
    let unanswered = [GroupState::Active, GroupState::NeedsRejoin, GroupState::Left];
    for group in groups::in_states(tx.connection(), &unanswered)? {
        let is_of_user = match find(tx.connection(), &group)? {
            Some(ContactRequest::Invitation { by }) => by == *user,
            Some(ContactRequest::Listed { users: Some(users) }) => {
                users.contains(user) && blocks::are_all_blocked(tx, &users)?
            }
            Some(ContactRequest::Listed { users: None }) | None => false,
        };
        if is_of_user {
            found.push(group);
        }
    }
    Ok(found)
}

/// The groups that the person was asked about because the server lists them, and has not answered.
pub(super) fn listed(connection: &Connection) -> Result<Vec<GroupKey>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT group_id FROM groups WHERE request IS NOT NULL AND request_form IN (?1, ?2)",
    )?;
    let found = statement.query_map([FORM_LISTED, FORM_LISTED_UNKNOWN], |row| row.get::<_, Vec<u8>>(0))?;
    found
        .map(|id| corrupt(GroupKey::from_bytes(&id?).ok(), "group id"))
        .collect()
}

/// Ends a request, if the group is one, and forgets what came with it. Not that it was there: the user's other devices may be in
/// the group still, and this one must not follow them.
pub(super) fn forget(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    if let Some(unanswered) = history::unanswered(tx.connection(), group)? {
        history::forget(tx, unanswered)?;
    }
    set(tx.connection(), group, None)
}
