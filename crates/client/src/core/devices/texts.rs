//! What the members of a group are told about a user's devices.

use larder_wire::{DeviceId, UserName};

use crate::core::chain::Distrust;

/// The characters of a device's id by which people are told which one is meant.
const SHORT_ID_CHARS: usize = 8;

/// A device's id as far as people are told.
pub(in crate::core) fn short(device: &DeviceId) -> &str {
    let id = device.as_str();
    id.get(..SHORT_ID_CHARS).unwrap_or(id)
}

/// What the members of a group are told when a user has a new device.
pub(in crate::core) fn new_device(user: &UserName, device: &DeviceId) -> String {
    format!("new device of {user}: {}", short(device))
}

/// What they are told when a device of the user has removed another one.
pub(in crate::core) fn removed(user: &UserName, device: &DeviceId) -> String {
    format!("{user} removed the device {}", short(device))
}

/// What they are told of a removal that nothing in the group shows to be by the user, or nothing at all.
pub(super) fn said_removed(user: &UserName, device: &DeviceId) -> String {
    format!(
        "the server says that the device {0} of {user} was removed, and nothing here shows that a device of {user} has signed \
         that: {0} is not invited any more, and is not taken out of this group. Ask {user}",
        short(device)
    )
}

/// What they are told when a removal has turned out not to count.
pub(super) fn restored(user: &UserName, device: &DeviceId) -> String {
    format!(
        "the removal of the device {0} of {user} does not count any more: the device that had removed it was removed by {0}, which \
         is nearer to {user}'s first device. Where {0} was taken out of a group it has to be invited again",
        short(device)
    )
}

/// What they are told of a leaf when the server gives no list.
pub(super) fn not_told(user: &UserName, device: &DeviceId) -> String {
    format!(
        "WARNING: the server does not tell whether the device {} is one of {user}'s; it may be somebody else's",
        short(device)
    )
}

/// What they are told of a device that is in the list and not the user's.
pub(super) fn unauthorized(user: &UserName, device: &DeviceId) -> String {
    format!(
        "WARNING: no other device of {user} has authorized the device {}; it may be somebody else's. Ask {user}, and remove \
         {user} from the group if it is not theirs",
        short(device)
    )
}

/// What they are told of a list that is not believed.
pub(super) fn distrusted(user: &UserName, distrust: &Distrust, is_own: bool) -> String {
    let what = match distrust {
        Distrust::TooLong => "is longer than one can be".to_owned(),
        Distrust::Twice => "names a device twice".to_owned(),
        Distrust::OtherRoot => "begins with another device than the one known before".to_owned(),
        Distrust::Omits(device) => format!("leaves out the device {}, which was theirs", short(device)),
        Distrust::Denies(device) => format!("denies the device {}, which was theirs", short(device)),
    };
    let why = match distrust {
        Distrust::TooLong | Distrust::Twice => "",
        _ if is_own => "",
        Distrust::OtherRoot => {
            ". Either they registered anew, or the server shows somebody else: verify their new identity"
        }
        Distrust::Omits(_) | Distrust::Denies(_) => {
            ". Either the server has lost some, or it shows somebody else's: verify their new identity"
        }
    };
    format!("WARNING: the list of {user}'s devices that the server gave {what}; it was not believed{why}")
}
