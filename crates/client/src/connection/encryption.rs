use std::path::Path;

use larder_pool::StoreKey;

use crate::connection::MlsConnection;
use crate::core;
use crate::error::Error;
use crate::types::ProfileForm;

impl MlsConnection {
    /// Whether a profile is there, and encrypted. Creates nothing.
    ///
    /// # Errors
    /// [`Error::ProfileLocked`], [`Error::Profile`].
    pub fn profile_form(profile: &Path) -> Result<ProfileForm, Error> {
        core::form(profile)
    }

    /// Whether this is the key of a profile that is encrypted. It must not be open.
    ///
    /// # Errors
    /// [`Error::ProfileLocked`], [`Error::ProfileNotEncrypted`], [`Error::NoEncryption`], [`Error::Store`].
    pub fn is_profile_key(profile: &Path, key: &StoreKey) -> Result<bool, Error> {
        core::is_key(profile, key)
    }

    /// Encrypts a profile with `new`, which was encrypted with `old` before, or not at all. It must not be open.
    ///
    /// The profile is written anew and replaced whole: after a crash the old key opens it or the new one does, and
    /// nothing is lost.
    ///
    /// # Errors
    /// [`Error::NotRegistered`], [`Error::ProfileLocked`], [`Error::ProfileEncrypted`], [`Error::ProfileNotEncrypted`],
    /// [`Error::WrongPassphrase`], [`Error::NoEncryption`], [`Error::Store`].
    pub fn set_profile_key(profile: &Path, old: Option<&StoreKey>, new: &StoreKey) -> Result<(), Error> {
        core::set_key(profile, old, new)
    }
}
