//! What an operator does with a store: checking it and making a restored one safe while no server uses it, saving it, inviting
//! people and accepting a clock while one does.

mod backup;
mod check;
mod clock;
mod directory;
mod invitations;
mod restored;

use std::fmt;
use std::time::Duration;

use openmls_rust_crypto::RustCrypto;

use crate::error::{Fault, ServiceError};
use crate::store::{Beginning, Store, StoreLocation};
use crate::wakeups::Wakeups;

pub use backup::{BackupError, backup_sqlite};
pub use invitations::{Invitation, InvitationId, MalformedInvitationId, NewInvitation};
pub use restored::Restored;

/// A store in the hands of its operator.
pub struct Admin {
    store: Store,
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Devices, each with its KeyPackages and audit chain.
    pub devices: u64,
    /// KeyPackages, last resorts and tombstones included.
    pub key_packages: u64,
    /// Groups, each with its roster and log.
    pub groups: u64,
    /// What was found.
    pub findings: u64,
}

/// Something in the store that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub code: FindingCode,
    /// What it is about: a device as `user/device_id`, a KeyPackage or a group as base64url.
    pub subject: String,
    /// What is wrong, for a person.
    pub detail: String,
}

macro_rules! finding_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)*) => {
        /// What a check can find.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FindingCode {
            $($(#[$doc])* $variant,)*
        }

        impl FindingCode {
            /// The stable code.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)*
                }
            }
        }
    };
}

finding_codes! {
    /// Something stored cannot be understood.
    Unreadable = "unreadable",
    /// A row of an audit chain is missing or was changed (S8).
    AuditBroken = "audit-broken",
    /// An audit chain does not end where its device says (S8).
    AuditHead = "audit-head",
    /// A row of an audit cannot follow what happened to its KeyPackage before (S3).
    AuditTransition = "audit-transition",
    /// The state of a KeyPackage is not what the audit tells (S8).
    AuditState = "audit-state",
    /// A KeyPackage that can be handed out has no bytes, or one that is over still has them.
    KeyPackageBytes = "key-package-bytes",
    /// The bytes of a KeyPackage are not what its row says: reference, init key, end or ciphersuite (S6).
    KeyPackageRow = "key-package-row",
    /// A KeyPackage is not valid, or not its owner's (S6).
    KeyPackageInvalid = "key-package-invalid",
    /// A reservation of a KeyPackage that is not there.
    Reservation = "reservation",
    /// A device has more live KeyPackages than any may (S7).
    OverCap = "over-cap",
    /// The members of a group are not the leaves of its public state.
    Roster = "roster",
    /// The public state or the GroupInfo of a group is not of its epoch, or a leaf not a registered device's.
    GroupState = "group-state",
    /// The sequence of a group has impossible numbers, or an epoch with more than one Commit (S9).
    GroupSequence = "group-sequence",
    /// A member's rows have impossible numbers.
    InboxNumbers = "inbox-numbers",
    /// A body of no row, or a row without its body.
    Body = "body",
    /// A ratchet tree that no Welcome needs.
    RatchetTree = "ratchet-tree",
    /// A blob with other bytes than its row says, or that nobody finds.
    Blob = "blob",
    /// A name or a signature key is not registered for whose it is.
    Registry = "registry",
    /// What all users have stored together is not what was counted.
    Totals = "totals",
}

impl fmt::Display for FindingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Admin {
    /// Opens a store and brings its schema up to date. A database that is down is not waited for.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be opened or migrated.
    pub async fn open(location: &StoreLocation) -> Result<Self, Fault> {
        let beginning = Beginning::new(&RustCrypto::default())?;
        let store = Store::open(location, &beginning, Wakeups::default(), Duration::ZERO).await?;
        Ok(Self { store })
    }

    /// Opens a store that its server may be using meanwhile, for invitations and clocks. Its schema is left as it is.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be opened, or its schema is not that of this version.
    pub async fn open_in_use(location: &StoreLocation) -> Result<Self, Fault> {
        Ok(Self {
            store: Store::open_in_use(location).await?,
        })
    }
}

/// An operator is refused nothing: a refusal here is of the store's own making.
fn fault(error: ServiceError) -> Fault {
    match error {
        ServiceError::Fault(fault) => fault,
        ServiceError::Refused(_) => Fault::Corrupt("a transition that was refused"),
    }
}
