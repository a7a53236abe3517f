use larder_wire::DeviceId;

/// Whether a person has compared keys with a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verification {
    /// Not yet, or no longer.
    Unverified,
    /// The user has no other keys than those that were compared.
    Verified,
    /// The user has other keys beside them. Until the person has looked, nothing is sent to groups that the user is in, and the
    /// user is invited to none.
    Changed,
}

impl Verification {
    /// The state in one word: `unverified`, `verified` or `changed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::Verified => "verified",
            Self::Changed => "changed",
        }
    }
}

/// What two people compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetyNumber {
    /// 60 digits in groups of five. Both see the same.
    pub number: String,
    /// For the other to scan, and for [`check_qr`](crate::MlsConnection::check_qr) there: printable ASCII, which differs
    /// between the two.
    pub qr: Vec<u8>,
    /// What the other shows if both see the same.
    pub(crate) qr_of_user: Vec<u8>,
    /// Whether the user is verified.
    pub verification: Verification,
    /// The user's devices, whose keys are in it.
    pub devices: Vec<SafetyDevice>,
    /// Whether the server now lists others, which this device does not believe: see
    /// [`new_identity`](crate::MlsConnection::new_identity).
    pub other_identity: bool,
}

impl SafetyNumber {
    /// Whether somebody has read out this number. Only digits count.
    pub fn is(&self, read_out: &str) -> bool {
        let digits = |text: &str| -> String { text.chars().filter(char::is_ascii_digit).collect() };
        digits(read_out) == digits(&self.number)
    }

    /// Whether this is what was scanned from the other's screen, as [`qr`](Self::qr) there.
    pub fn is_code(&self, scanned: &[u8]) -> bool {
        scanned == self.qr_of_user
    }
}

/// What is to be compared with a user of whom the server lists other devices than can be: who registered anew, say, or of whom
/// the server has lost a device. Or it shows somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIdentity {
    /// With the devices that are known; `None` when all of them were removed.
    pub known: Option<SafetyNumber>,
    /// With those that the server lists. Both see this one if nobody is between them.
    pub new: SafetyNumber,
}

/// What the members of a group can compare to know that they are in the same one (RFC 9420 §8.7): whoever is in the same epoch
/// sees the same code, unless somebody has split the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochCode {
    /// The epoch. Codes of different epochs say nothing.
    pub epoch: u64,
    /// 20 digits in groups of five.
    pub code: String,
}

/// A device of the user in a [`SafetyNumber`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetyDevice {
    /// The device.
    pub device_id: DeviceId,
    /// SHA-256 of its signature key, 64 hexadecimal digits.
    pub signature_key_fingerprint: String,
    /// Whether it came, or its key changed, since the user was verified.
    pub is_new: bool,
}
