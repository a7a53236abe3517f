use larder_judge::Leaf;
use larder_lifecycle::UnixSeconds;
use larder_wire::{DeviceId, UserName};
use rusqlite::{Connection, OptionalExtension};

use crate::core::schema::corrupt;
use crate::error::Error;

/// Whether a device's signature key is the one that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pin {
    /// It is, or it is the first one that we see.
    Holds,
    /// We know another one. A device never changes its key: a new device has a new id.
    Changed,
}

/// What is known of a device beside its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was seen in a group, and its user's list of devices was not looked at since.
    Seen,
    /// One of its user's devices.
    Authorized,
    /// One that a device of its user has removed. It stays so, unless it has removed that one, too, and
    /// stands nearer to the first device. Which groups it goes from, their leaves show.
    Removed,
    /// In no list of its user's devices, or without a good signature of another one of them.
    Unauthorized,
    /// One of its user's devices, of which the server says that it was removed: no device of the user has signed that.
    SaidRemoved,
}

impl Standing {
    fn column(self) -> i64 {
        match self {
            Self::Seen => 0,
            Self::Authorized => 1,
            Self::Removed => 2,
            Self::Unauthorized => 3,
            Self::SaidRemoved => 4,
        }
    }

    fn from_column(value: i64) -> Option<Self> {
        [
            Self::Seen,
            Self::Authorized,
            Self::Removed,
            Self::Unauthorized,
            Self::SaidRemoved,
        ]
        .into_iter()
        .find(|standing| standing.column() == value)
    }
}

/// The removers of one device that are remembered. An honest server names one, or one after each time that it
/// was restored.
pub(super) const REMOVERS_MAX: usize = 8;

/// A device that we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) device_id: DeviceId,
    pub(super) signature_key: Vec<u8>,
    pub(super) standing: Standing,
    /// The user's first device.
    pub(super) root: bool,
    /// Which device of the user has let it in, by a signature that we have verified. `None` for a root, and
    /// for a device that is in no list that we believe.
    pub(super) let_in_by: Option<DeviceId>,
    /// Which devices of the user have removed it, by signatures that we have verified, the first
    /// [few](REMOVERS_MAX) that we heard of. Only of a [removed](Standing::Removed) one, and of each.
    pub(super) removed_by: Vec<DeviceId>,
}

impl Peer {
    /// One of a user's devices, and none that the user has removed.
    pub(super) fn present(device_id: DeviceId, signature_key: Vec<u8>, root: bool) -> Self {
        Self {
            device_id,
            signature_key,
            standing: Standing::Authorized,
            root,
            let_in_by: None,
            removed_by: Vec::new(),
        }
    }
}

/// Compares without remembering.
pub(super) fn compare(
    connection: &Connection,
    user: &UserName,
    device: &DeviceId,
    signature_key: &[u8],
) -> Result<Pin, Error> {
    let known: Option<Vec<u8>> = connection
        .prepare_cached("SELECT signature_key FROM peers WHERE user = ?1 AND device_id = ?2")?
        .query_row([user.as_str(), device.as_str()], |row| row.get(0))
        .optional()?;
    Ok(match known {
        Some(known) if known != signature_key => Pin::Changed,
        Some(_) | None => Pin::Holds,
    })
}

/// Compares, and remembers a key that is seen for the first time. Whether it is one of its user's devices is looked up
/// later.
pub(super) fn pin(
    connection: &Connection,
    user: &UserName,
    device: &DeviceId,
    signature_key: &[u8],
    now: UnixSeconds,
) -> Result<Pin, Error> {
    let held = compare(connection, user, device, signature_key)?;
    let inserted = connection
        .prepare_cached(
            "INSERT INTO peers (user, device_id, signature_key, first_seen) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
        )?
        .execute((user.as_str(), device.as_str(), signature_key, now.0.cast_signed()))?;
    // One that is known to be removed should not come any more.
    if inserted == 1 || standing(connection, user, device)? == Some(Standing::Removed) {
        check_later(connection, user)?;
    }
    Ok(held)
}

/// The list of this user's devices is to be fetched, if any of them is known: of others nothing follows from it.
pub(super) fn check_later(connection: &Connection, user: &UserName) -> Result<(), Error> {
    connection.execute(
        "INSERT OR IGNORE INTO device_checks (user) SELECT user FROM peers WHERE user = ?1 LIMIT 1",
        [user.as_str()],
    )?;
    Ok(())
}

/// The lists of everybody's devices are to be fetched: what the server told of changes is lost.
pub(super) fn check_everybody_later(connection: &Connection) -> Result<(), Error> {
    connection.execute(
        "INSERT OR IGNORE INTO device_checks (user) SELECT DISTINCT user FROM peers",
        [],
    )?;
    Ok(())
}

/// The users whose lists of devices are to be fetched.
pub(super) fn checks(connection: &Connection) -> Result<Vec<UserName>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT user FROM device_checks ORDER BY distrusted, user")?;
    let users = statement.query_map([], |row| row.get::<_, String>(0))?;
    users
        .map(|user| corrupt(user?.parse().ok(), "user name"))
        .collect()
}

/// The list was fetched and not believed: it is to be fetched again, after those of others, if any of the user's devices is
/// known.
pub(super) fn distrusted(connection: &Connection, user: &UserName) -> Result<(), Error> {
    connection.execute(
        "INSERT OR REPLACE INTO device_checks (user, distrusted)
         SELECT user, 1 FROM peers WHERE user = ?1 LIMIT 1",
        [user.as_str()],
    )?;
    Ok(())
}

/// Whether the list that was fetched last was not believed.
pub(super) fn is_distrusted(connection: &Connection, user: &UserName) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM device_checks WHERE user = ?1 AND distrusted = 1)")?
        .query_row([user.as_str()], |row| row.get(0))?)
}

/// The list was fetched and taken over.
pub(super) fn checked(connection: &Connection, user: &UserName) -> Result<(), Error> {
    connection.execute("DELETE FROM device_checks WHERE user = ?1", [user.as_str()])?;
    Ok(())
}

/// What is known of a user's devices.
pub(super) fn of_user(connection: &Connection, user: &UserName) -> Result<Vec<Peer>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT device_id, signature_key, standing, root, let_in_by, removed_by FROM peers WHERE user = ?1",
    )?;
    let rows = statement.query_map([user.as_str()], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, Vec<u8>>(1)?,
            row.get::<_, i64>(2)?,
            row.get::<_, bool>(3)?,
            row.get::<_, Option<String>>(4)?,
            row.get::<_, Option<String>>(5)?,
        ))
    })?;
    let device_id = |id: &str| corrupt(id.parse().ok(), "device id");
    rows.map(|row| {
        let (device, signature_key, standing, root, let_in_by, removed_by) = row?;
        Ok(Peer {
            device_id: device_id(&device)?,
            signature_key,
            standing: corrupt(Standing::from_column(standing), "standing of a device")?,
            root,
            let_in_by: let_in_by.as_deref().map(device_id).transpose()?,
            removed_by: removed_by
                .unwrap_or_default()
                .split_whitespace()
                .map(device_id)
                .collect::<Result<_, _>>()?,
        })
    })
    .collect()
}

/// The standing of a device; `None` for one that was never seen.
pub(super) fn standing(
    connection: &Connection,
    user: &UserName,
    device: &DeviceId,
) -> Result<Option<Standing>, Error> {
    let standing: Option<i64> = connection
        .prepare_cached("SELECT standing FROM peers WHERE user = ?1 AND device_id = ?2")?
        .query_row([user.as_str(), device.as_str()], |row| row.get(0))
        .optional()?;
    standing
        .map(|standing| corrupt(Standing::from_column(standing), "standing of a device"))
        .transpose()
}

/// Whether this leaf is of one of its user's devices, by the list and the signatures in it.
pub(super) fn is_authorized(connection: &Connection, leaf: &Leaf) -> Result<bool, Error> {
    let Some(Standing::Authorized) = standing(connection, &leaf.user, &leaf.device)? else {
        return Ok(false);
    };
    Ok(compare(connection, &leaf.user, &leaf.device, &leaf.signature_key)? == Pin::Holds)
}

/// Remembers what is known of a device of a user. Its key stays the one known before, a root stays the root,
/// and who let it in stays who did. The database refuses to take back that a device was verified, or that it
/// was removed, unless a remover of it is [removed](Standing::Removed), too, and set before it.
pub(super) fn set(
    connection: &Connection,
    user: &UserName,
    peer: &Peer,
    now: UnixSeconds,
) -> Result<(), Error> {
    let removers: Vec<&str> = peer.removed_by.iter().map(DeviceId::as_str).collect();
    connection
        .prepare_cached(
            "INSERT INTO peers
                 (user, device_id, signature_key, first_seen, standing, root, let_in_by, removed_by)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT DO UPDATE
             SET standing = excluded.standing, root = max(root, excluded.root),
                 let_in_by = coalesce(let_in_by, excluded.let_in_by), removed_by = excluded.removed_by",
        )?
        .execute((
            user.as_str(),
            peer.device_id.as_str(),
            &peer.signature_key,
            now.0.cast_signed(),
            peer.standing.column(),
            peer.root,
            peer.let_in_by.as_ref().map(DeviceId::as_str),
            (!removers.is_empty()).then(|| removers.join(" ")),
        ))?;
    Ok(())
}

/// The person gives up all that is known of a user's devices.
pub(super) fn give_up(connection: &Connection, user: &UserName) -> Result<(), Error> {
    connection.execute("INSERT INTO given_up (user) VALUES (?1)", [user.as_str()])?;
    connection.execute("DELETE FROM peers WHERE user = ?1", [user.as_str()])?;
    connection.execute("DELETE FROM given_up", [])?;
    Ok(())
}

/// Whether any device is known to be removed.
pub(super) fn any_removed(connection: &Connection) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM peers WHERE standing = ?1)")?
        .query_row([Standing::Removed.column()], |row| row.get(0))?)
}
