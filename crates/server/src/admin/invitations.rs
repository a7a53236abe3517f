//! Invitations to register, made and withdrawn while the server goes on.

use std::fmt;
use std::str::FromStr;

use larder_lifecycle::UnixSeconds;
use larder_wire::{INVITE_SECRET_BYTES, InviteCode};
use openmls_rust_crypto::RustCrypto;

use super::{Admin, fault};
use crate::accounts::secret_hash;
use crate::error::Fault;
use crate::random::random_bytes;

/// As much of a hash as tells one invitation from another, in bytes.
const ID_BYTES: usize = 6;
/// A whole hash, in bytes.
const HASH_BYTES: usize = 32;

/// How an operator names an invitation: the first bytes of the hash of what its code hides, as hexadecimal digits. It does
/// not help to find the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InvitationId([u8; ID_BYTES]);

/// Not the id of an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of an invitation: 12 hexadecimal digits")]
pub struct MalformedInvitationId;

/// An invitation that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invitation {
    /// How it is named.
    pub id: InvitationId,
    /// When it was made.
    pub created_at: UnixSeconds,
    /// When it ends.
    pub expires_at: UnixSeconds,
}

/// A new invitation. Its code is nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInvitation {
    /// What is to be handed over.
    pub code: InviteCode,
    /// What is remembered of it.
    pub invitation: Invitation,
}

impl InvitationId {
    fn of(hash: &[u8]) -> Result<Self, Fault> {
        match hash.first_chunk() {
            Some(first) => Ok(Self(*first)),
            None => Err(Fault::Corrupt("the hash of an invitation")),
        }
    }

    /// The lowest or the highest of the hashes that begin with this, as the rest says.
    fn followed_by(self, rest: u8) -> [u8; HASH_BYTES] {
        let mut hash = [rest; HASH_BYTES];
        hash[..ID_BYTES].copy_from_slice(&self.0);
        hash
    }
}

impl fmt::Display for InvitationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for InvitationId {
    type Err = MalformedInvitationId;

    fn from_str(text: &str) -> Result<Self, MalformedInvitationId> {
        if text.len() != 2 * ID_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(MalformedInvitationId);
        }
        let mut id = [0; ID_BYTES];
        for (index, byte) in id.iter_mut().enumerate() {
            *byte =
                u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| MalformedInvitationId)?;
        }
        Ok(Self(id))
    }
}

impl Admin {
    /// Makes invitations that can be used until `expires_at`, all of them or none.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be written.
    pub async fn invite(
        &self,
        count: u32,
        now: UnixSeconds,
        expires_at: UnixSeconds,
    ) -> Result<Vec<NewInvitation>, Fault> {
        let crypto = RustCrypto::default();
        let (mut invited, mut hashes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let code = InviteCode::new(random_bytes::<INVITE_SECRET_BYTES>(&crypto)?);
            let hash = secret_hash(code.secret());
            let invitation = Invitation {
                id: InvitationId::of(&hash)?,
                created_at: now,
                expires_at,
            };
            invited.push(NewInvitation { code, invitation });
            hashes.push(hash);
        }
        self.store
            .write(move |tx| {
                for hash in &hashes {
                    tx.insert_invitation(hash, now, expires_at)?;
                }
                Ok(())
            })
            .await
            .map_err(fault)?;
        Ok(invited)
    }

    /// The invitations that can be used, those first that expire first.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub async fn invitations(&self, now: UnixSeconds) -> Result<Vec<Invitation>, Fault> {
        let rows = self.store.read(move |tx| Ok(tx.invitations(now)?)).await;
        rows.map_err(fault)?
            .into_iter()
            .map(|row| {
                Ok(Invitation {
                    id: InvitationId::of(&row.hash)?,
                    created_at: row.created_at,
                    expires_at: row.expires_at,
                })
            })
            .collect()
    }

    /// Withdraws an invitation; `false` when there is none of this id (any more).
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be written.
    pub async fn withdraw_invitation(&self, id: InvitationId) -> Result<bool, Fault> {
        let (first, last) = (id.followed_by(0), id.followed_by(u8::MAX));
        let removed = self
            .store
            .write(move |tx| Ok(tx.remove_invitations(&first, &last)?))
            .await
            .map_err(fault)?;
        Ok(removed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_twelve_hexadecimal_digits_and_nothing_else() {
        let id = InvitationId([0, 1, 0xab, 0xcd, 0xef, 0xff]);
        assert_eq!(id.to_string(), "0001abcdefff");
        assert_eq!("0001ABcdefff".parse(), Ok(id));
        for bad in [
            "",
            "0001abcdeff",
            "0001abcdefff0",
            "0001abcdeffg",
            "+001abcdefff",
            "€€€€",
        ] {
            assert_eq!(bad.parse::<InvitationId>(), Err(MalformedInvitationId), "{bad}");
        }
    }
}
