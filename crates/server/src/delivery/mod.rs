//! The delivery service (RFC 9750 §5): groups, their logs, and what their members get.
//!
//! A Commit or a proposal is read and bounded (`offer`), judged against the group's public state outside of any transaction
//! (`judge`, on the threads of `judges`), and then accepted in one short transaction, if the state is still the one that it was
//! judged against. The state in memory (`state`, `states`) follows once the transaction is known to have been committed, and is
//! stored behind it.

mod checks;
mod commit;
mod groups;
pub(crate) mod inbox;
mod judge;
pub(crate) mod judges;
mod leave;
mod messages;
mod offer;
mod parse;
mod scrub;
pub(crate) mod state;
pub(crate) mod states;

pub(crate) use groups::{Standing, create_group, judge_new_group, standing_of_member};
pub(crate) use leave::{judge_departure, leave};
pub(crate) use messages::{Keep, OfferedMessages, send_messages, send_messages_ahead};
pub(crate) use offer::{Offer, Offered, OfferedProposal};
pub(crate) use scrub::{GroupProblem, check_group};
