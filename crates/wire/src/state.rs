use std::fmt;
use std::str::FromStr;

use crate::bytes::{MalformedBytes, StateMark};
use crate::limits::STATE_MARKS_KNOWN_MAX;

/// The name of the header that carries a [`StateClaim`].
pub const STATE_HEADER: &str = "larder-state";

/// What a device says of its own state with a request that changes something, in the header `Larder-State`.
///
/// The server remembers the mark of the last request of the device that it carried out. A device that was restored from
/// an old copy does not know that mark and is refused, before it reuses anything that the copy has already used. (A
/// counter would not do: a copy counts on, too, and is ahead before it is seen.)
///
/// It travels as marks separated by spaces: `next`, then those known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateClaim {
    /// The mark of this request: random, and stored by the device before the request leaves.
    pub next: StateMark,
    /// The mark of the last request known to have been carried out, those of a few before it, and those of later ones whose answer
    /// was lost; at most [`STATE_MARKS_KNOWN_MAX`].
    pub known: Vec<StateMark>,
}

impl StateClaim {
    /// Whether a device that says this has seen all that the server has: `last` is the mark of the last request that was
    /// carried out.
    pub fn follows(&self, last: &StateMark) -> bool {
        self.next == *last || self.known.contains(last)
    }
}

impl fmt::Display for StateClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.next)?;
        self.known.iter().try_for_each(|mark| write!(f, " {mark}"))
    }
}

impl FromStr for StateClaim {
    type Err = MalformedBytes;

    fn from_str(text: &str) -> Result<Self, MalformedBytes> {
        let mut marks = text.split(' ').map(str::parse);
        let next = marks.next().ok_or(MalformedBytes)??;
        let known: Vec<_> = marks.take(STATE_MARKS_KNOWN_MAX + 1).collect::<Result<_, _>>()?;
        if known.len() > STATE_MARKS_KNOWN_MAX {
            return Err(MalformedBytes);
        }
        Ok(Self { next, known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(byte: u8) -> StateMark {
        StateMark::from_bytes(&[byte; 16]).unwrap()
    }

    #[test]
    fn a_claim_survives_the_header_and_is_bounded() {
        let mut claim = StateClaim {
            next: mark(0),
            known: (1..=12).map(mark).collect(),
        };
        assert_eq!(claim.to_string().parse(), Ok(claim.clone()));
        claim.known.push(mark(13));
        assert_eq!(claim.to_string().parse::<StateClaim>(), Err(MalformedBytes));
        for text in ["", " ", "AAAA ", "AAAA  BBBB", "A", "AAAA\tBBBB"] {
            assert_eq!(text.parse::<StateClaim>(), Err(MalformedBytes), "{text:?}");
        }
    }

    #[test]
    fn only_a_device_that_knows_the_last_mark_follows_it() {
        let claim = StateClaim {
            next: mark(3),
            known: vec![mark(1), mark(2)],
        };
        assert!([1, 2, 3].iter().all(|byte| claim.follows(&mark(*byte))));
        assert!(!claim.follows(&mark(4)));
    }
}
