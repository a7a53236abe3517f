use larder_pool::Tx;
use larder_wire::{Base64Url, CreateGroupRequest, GROUPS_PER_DEVICE_MAX};
use openmls::prelude::{MlsGroup, OpenMlsProvider, OpenMlsRand as _};
use openmls::treesync::RatchetTree;
use rusqlite::{Connection, OptionalExtension};
use tls_codec::Serialize as _;

use crate::core::outbox::{self, Intent};
use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::{
    denials, departures, epochs, history, holds, last_known, listed, mls, naming, payload, requests, timeline,
};
use crate::error::Error;
use crate::text::folded;
use crate::types::{GroupKey, GroupState, GroupSummary};

/// The length of the group ids that we choose, in bytes.
const GROUP_ID_BYTES: usize = 16;
/// The groups that were left and of which there is nothing that are remembered, so that this device does not follow them: what
/// the server lists, or blocked users invite to, is declined by itself.
const LEFT_MAX: usize = GROUPS_PER_DEVICE_MAX;
/// The shortest part of an id that may stand for it, in characters.
const ID_PREFIX_CHARS_MIN: usize = 4;

impl GroupState {
    pub(super) fn column(self) -> i64 {
        match self {
            Self::Creating => 0,
            Self::Active => 1,
            Self::Left => 2,
            Self::NeedsRejoin => 3,
        }
    }

    fn from_column(value: i64) -> Option<Self> {
        [Self::Creating, Self::Active, Self::Left, Self::NeedsRejoin]
            .into_iter()
            .find(|state| state.column() == value)
    }
}

/// A group id that nobody has had (RFC 9420 §11). People type its base64url form, so it begins with a letter: a hyphen
/// would look like a flag.
fn new_id(provider: &impl OpenMlsProvider) -> Result<GroupKey, Error> {
    let mut random: [u8; GROUP_ID_BYTES] = provider
        .rand()
        .random_array()
        .map_err(|error| Error::mls("choosing a group id")(error.to_string()))?;
    // The first character stands for six bits; those up to 51 are letters, and these are below 32.
    random[0] &= 0x7f;
    GroupKey::from_bytes(&random).map_err(|_| Error::Corrupt("group id"))
}

/// Creates a group: its MLS state, its row and the request that tells the server. Returns the outbox row.
pub(crate) fn create(tx: &Tx<'_>, context: &Context, name: &str) -> Result<(GroupKey, i64), Error> {
    let provider = tx.provider();
    let identity = &context.identity;
    let key = new_id(&provider)?;
    let group = MlsGroup::new_with_group_id(
        &provider,
        &identity.mls,
        &mls::create_config(context.group_suite(tx)?, context.server_now()),
        mls::mls_id(&key),
        identity.credential.clone(),
    )
    .map_err(Error::mls("creating a group"))?;
    let group_info = group
        .export_group_info(provider.crypto(), &identity.mls, false)
        .map_err(Error::mls("exporting the GroupInfo"))?;
    let request = CreateGroupRequest {
        group_id: key.clone(),
        group_info: Base64Url(
            group_info
                .to_bytes()
                .map_err(Error::mls("encoding the GroupInfo"))?,
        ),
        ratchet_tree: Base64Url(tree_bytes(&group.export_ratchet_tree())?),
    };
    enter(tx.connection(), &key, GroupState::Creating, 0)?;
    naming::set(tx.connection(), &key, name, &payload::new_id())?;
    epochs::note(tx, &key, group.public_group())?;
    let id = outbox::push(
        tx.connection(),
        &key,
        "/v1/groups",
        Some(&uuid::Uuid::new_v4().to_string()),
        &request,
        &Intent::CreateGroup,
    )?;
    Ok((key, id))
}

pub(super) fn tree_bytes(tree: &RatchetTree) -> Result<Vec<u8>, Error> {
    tree.tls_serialize_detached()
        .map_err(Error::mls("encoding the ratchet tree"))
}

/// Writes the row of a group that this device created or joined at this epoch.
pub(super) fn enter(
    connection: &Connection,
    group: &GroupKey,
    state: GroupState,
    epoch: u64,
) -> Result<(), Error> {
    connection.execute(
        "INSERT INTO groups (group_id, state, joined_epoch, read_up_to) VALUES (?1, ?2, ?3, coalesce(
             (SELECT max(m.row) FROM messages m, profile p WHERE m.group_id = ?1 AND m.row <= p.read_up_to), 0))
         ON CONFLICT (group_id) DO UPDATE SET state = excluded.state, joined_epoch = excluded.joined_epoch,
             refused_epoch = NULL, doubted_epoch = NULL, branch_doubted = 0, denied = 0, leaf_to_ask = 0, may_go_back = 0,
             leaf_at = NULL, leaf_draw = NULL, sent_since_leaf = 0",
        (group.as_bytes(), state.column(), epoch.cast_signed()),
    )?;
    connection.execute(
        "DELETE FROM own_departures WHERE group_id = ?1",
        [group.as_bytes()],
    )?;
    Ok(())
}

/// Writes the row of a group that the server lists and that this device is to join.
pub(super) fn follow(connection: &Connection, group: &GroupKey, epoch: u64) -> Result<(), Error> {
    enter(connection, group, GroupState::NeedsRejoin, epoch)?;
    set_following(connection, group, true)
}

/// Whether this device has room for one more group that it is in, or is to join, or whose invitation the person has not answered:
/// there are as many as a device can be in.
pub(super) fn has_room(connection: &Connection) -> Result<bool, Error> {
    let sql = "SELECT count(*) < ?1 FROM groups WHERE state <> ?2 OR request IS NOT NULL";
    Ok(connection
        .prepare_cached(sql)?
        .query_row((GROUPS_PER_DEVICE_MAX as i64, GroupState::Left.column()), |row| {
            row.get(0)
        })?)
}

pub(super) fn set_following(connection: &Connection, group: &GroupKey, following: bool) -> Result<(), Error> {
    connection.execute(
        "UPDATE groups SET following = ?2 WHERE group_id = ?1",
        (group.as_bytes(), following),
    )?;
    Ok(())
}

/// Whether this device has yet to join a group that the server lists.
pub(super) fn is_following(connection: &Connection, group: &GroupKey) -> Result<bool, Error> {
    Ok(connection
        .query_row(
            "SELECT following FROM groups WHERE group_id = ?1",
            [group.as_bytes()],
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or(false))
}

/// Forgets a group that never came to be. One that there is a history of stays, and is left.
pub(super) fn forget(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    if history::any(tx.connection(), group)? {
        return depart(tx, group);
    }
    mls::delete(tx, group)?;
    tx.connection()
        .execute("DELETE FROM groups WHERE group_id = ?1", [group.as_bytes()])?;
    outbox::drop_all_of(tx, group)
}

/// This device is not a member any more, because its person wants it so or a Commit has removed it: its MLS state goes. The
/// history stays, and so does an invitation that was not answered: the person answers it still.
pub(crate) fn depart(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    mls::delete(tx, group)?;
    holds::lift(tx, group)?;
    departures::forget(tx, group)?;
    last_known::forget(tx, group)?;
    listed::joined_group(tx, group)?;
    denials::lift(tx, group)?;
    outbox::drop_all_of(tx, group)?;
    tx.connection().execute(
        "UPDATE groups SET state = ?2, left_as = (SELECT coalesce(max(left_as), 0) + 1 FROM groups) WHERE group_id = ?1",
        (group.as_bytes(), GroupState::Left.column()),
    )?;
    forget_left(tx.connection())
}

/// Forgets the first ones that were left of those of which there is nothing any more, neither here nor to be told to the server.
fn forget_left(connection: &Connection) -> Result<(), Error> {
    connection
        .prepare_cached(
            "DELETE FROM groups WHERE group_id IN (
                 SELECT g.group_id FROM groups g WHERE g.state = ?1 AND g.request IS NULL
                     AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.group_id = g.group_id)
                     AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.group_id = g.group_id)
                 ORDER BY g.left_as DESC LIMIT -1 OFFSET ?2)",
        )?
        .execute((GroupState::Left.column(), LEFT_MAX as i64))?;
    Ok(())
}

/// Whether the group may be at an earlier epoch than it was here, because the server was restored.
pub(super) fn may_go_back(tx: &Tx<'_>, group: &GroupKey) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM groups WHERE group_id = ?1 AND may_go_back = 1)")?
        .query_row([group.as_bytes()], |row| row.get(0))?)
}

/// The server was restored from a backup: the group may be at an earlier epoch than it was here.
pub(super) fn let_go_back(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tx.connection().execute(
        "UPDATE groups SET may_go_back = 1 WHERE group_id = ?1",
        [group.as_bytes()],
    )?;
    Ok(())
}

pub(super) fn set_state(connection: &Connection, group: &GroupKey, state: GroupState) -> Result<(), Error> {
    connection.execute(
        "UPDATE groups SET state = ?2 WHERE group_id = ?1",
        (group.as_bytes(), state.column()),
    )?;
    Ok(())
}

/// The state of a group, and the epoch that this device joined at; `None` for a group that it does not know.
pub(super) fn find(connection: &Connection, group: &GroupKey) -> Result<Option<(GroupState, u64)>, Error> {
    let row = connection
        .prepare_cached("SELECT state, joined_epoch FROM groups WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()?;
    row.map(|(state, epoch)| {
        let state = corrupt(GroupState::from_column(state), "group state")?;
        Ok((state, epoch.cast_unsigned()))
    })
    .transpose()
}

/// The group, if this device knows it: what is told of another one is not of a group.
pub(super) fn known<'a>(
    connection: &Connection,
    group: Option<&'a GroupKey>,
) -> Result<Option<&'a GroupKey>, Error> {
    match group {
        Some(group) => Ok(find(connection, group)?.map(|_| group)),
        None => Ok(None),
    }
}

/// The state of a group.
pub(crate) fn group_state(tx: &Tx<'_>, group: &GroupKey) -> Result<GroupState, Error> {
    let (state, _) = find(tx.connection(), group)?.ok_or(Error::UnknownGroup)?;
    Ok(state)
}

/// Fails unless this device is a member that does not mean to leave, and its person wants to be one.
pub(crate) fn require_active(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    match group_state(tx, group)? {
        GroupState::Active => requests::require_accepted(tx.connection(), group),
        other => Err(Error::GroupNotActive(other)),
    }
}

/// The groups in a state, by id.
pub(super) fn in_states(connection: &Connection, states: &[GroupState]) -> Result<Vec<GroupKey>, Error> {
    let mut found = Vec::new();
    for (key, state) in all(connection)? {
        if states.contains(&state) {
            found.push(key);
        }
    }
    Ok(found)
}

/// Every group that this device knows, with its state, by id.
pub(super) fn all(connection: &Connection) -> Result<Vec<(GroupKey, GroupState)>, Error> {
    let mut statement = connection.prepare_cached("SELECT group_id, state FROM groups ORDER BY group_id")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)))?;
    rows.map(|row| {
        let (id, state) = row?;
        let key = corrupt(GroupKey::from_bytes(&id).ok(), "group id")?;
        Ok((key, corrupt(GroupState::from_column(state), "group state")?))
    })
    .collect()
}

/// Every group that there is anything of for a person: not those that were declined.
pub(crate) fn summaries(tx: &Tx<'_>) -> Result<Vec<GroupSummary>, Error> {
    let mut found = Vec::new();
    for (key, state) in all(tx.connection())? {
        if state != GroupState::Left || history::any(tx.connection(), &key)? {
            found.push(summary(tx, &key)?);
        }
    }
    Ok(found)
}

/// One group.
pub(crate) fn summary(tx: &Tx<'_>, group: &GroupKey) -> Result<GroupSummary, Error> {
    let state = group_state(tx, group)?;
    let mls = mls::find(tx, group)?;
    let timeline::Marks {
        read_up_to,
        last_row,
        unread,
    } = timeline::marks(tx.connection(), group)?;
    Ok(GroupSummary {
        id: group.clone(),
        name: naming::name(tx.connection(), group)?,
        epoch: mls.as_ref().map_or(0, |mls| mls.epoch().as_u64()),
        members: mls
            .as_ref()
            .map_or(0, |mls| u32::try_from(mls.members().count()).unwrap_or(u32::MAX)),
        state,
        unread,
        read_up_to,
        last_row,
        muted: is_muted(tx.connection(), group)?,
        denied: denials::is_denied(tx.connection(), group)?,
        held: holds::of_group(tx.connection(), group)?,
        request: requests::find(tx.connection(), group)?,
    })
}

/// Notes whether the person wants to be told less of the group. Nothing here depends on it.
pub(crate) fn set_muted(tx: &Tx<'_>, group: &GroupKey, muted: bool) -> Result<(), Error> {
    let known = tx.connection().execute(
        "UPDATE groups SET muted = ?2 WHERE group_id = ?1",
        (group.as_bytes(), muted),
    )?;
    if known == 0 {
        Err(Error::UnknownGroup)
    } else {
        Ok(())
    }
}

fn is_muted(connection: &Connection, group: &GroupKey) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT muted FROM groups WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| row.get(0))?)
}

/// A group that fits what a person typed.
struct Fitting {
    key: GroupKey,
    by_name: bool,
    left: bool,
    request: bool,
    /// Whether another group is offered in its place.
    offered: bool,
}

/// The group that a person means: by its name as people compare it ([`folded`]), or by its id or the unique beginning of it. A request is found only if no
/// other one fits, so that no stranger can take a name; and a group that this device has left, after those.
pub(crate) fn resolve(tx: &Tx<'_>, text: &str) -> Result<GroupKey, Error> {
    pick(
        &fitting(tx, text)?,
        &[
            |group| group.by_name && !group.left && !group.request,
            |group| !group.left && !group.request,
            |group| group.by_name && !group.left,
            |group| !group.left,
            |_| true,
        ],
    )
}

/// The same among requests, and among the groups that others are offered for.
pub(crate) fn resolve_request(tx: &Tx<'_>, text: &str) -> Result<GroupKey, Error> {
    pick(
        &fitting(tx, text)?,
        &[
            |group| group.by_name && (group.request || group.offered),
            |group| group.request || group.offered,
        ],
    )
}

fn fitting(tx: &Tx<'_>, text: &str) -> Result<Vec<Fitting>, Error> {
    let (mut fitting, wanted) = (Vec::new(), folded(text));
    for (key, state) in all(tx.connection())? {
        let by_name = naming::name(tx.connection(), &key)?.is_some_and(|name| folded(&name) == wanted);
        let by_id = text.len() >= ID_PREFIX_CHARS_MIN && key.to_string().starts_with(text);
        if by_name || by_id {
            fitting.push(Fitting {
                by_name,
                left: state == GroupState::Left,
                request: requests::find(tx.connection(), &key)?.is_some(),
                offered: listed::offered(tx.connection(), &key)?.is_some(),
                key,
            });
        }
    }
    Ok(fitting)
}

/// The only one of the first of these kinds that there is any of.
fn pick(fitting: &[Fitting], kinds: &[fn(&Fitting) -> bool]) -> Result<GroupKey, Error> {
    for is_preferred in kinds {
        let groups: Vec<GroupKey> = fitting
            .iter()
            .filter(|group| is_preferred(group))
            .map(|group| group.key.clone())
            .collect();
        match groups.as_slice() {
            [] => {}
            [only] => return Ok(only.clone()),
            _ => return Err(Error::Ambiguous { groups }),
        }
    }
    Err(Error::UnknownGroup)
}

#[cfg(test)]
mod tests {
    use larder_pool::LocalStore;
    use openmls_rust_crypto::OpenMlsRustCrypto;

    use super::*;
    use crate::core::schema::migrate;

    /// Blocked users and the server make groups that are left at once.
    #[test]
    fn the_groups_that_were_left_and_have_nothing_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = LocalStore::open(&directory.path().join("larder.db")).unwrap();
        migrate(&mut store).unwrap();
        let connection = store.connection_mut();
        let more = 10_i64;
        connection
            .execute(
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
                 INSERT INTO groups (group_id, state, joined_epoch, left_as) SELECT CAST(n AS BLOB), 2, 0, n FROM n",
                [LEFT_MAX as i64 + more],
            )
            .unwrap();
        connection
            .execute_batch(
                "INSERT INTO own_departures SELECT group_id, x'00' FROM groups;
                 UPDATE groups SET request = 'mallory' WHERE left_as = 1;
                 INSERT INTO messages (group_id, kind, text, sent_at, received_at, mine, status)
                     SELECT group_id, 0, 'kept', 0, 0, 0, 0 FROM groups WHERE left_as = 2;",
            )
            .unwrap();
        forget_left(connection).unwrap();
        let first = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
        assert_eq!(first("SELECT count(*) FROM groups"), LEFT_MAX as i64 + 2);
        assert_eq!(first("SELECT count(*) FROM own_departures"), LEFT_MAX as i64 + 2);
        assert_eq!(
            first("SELECT min(left_as) FROM groups WHERE left_as > 2"),
            more + 1
        );
    }

    #[test]
    fn a_new_id_begins_with_a_letter_and_is_never_the_same() {
        let provider = OpenMlsRustCrypto::default();
        let ids: std::collections::BTreeSet<String> =
            (0..500).map(|_| new_id(&provider).unwrap().to_string()).collect();
        assert_eq!(ids.len(), 500);
        assert!(
            ids.iter()
                .all(|id| id.starts_with(|c: char| c.is_ascii_alphabetic()))
        );
    }
}
