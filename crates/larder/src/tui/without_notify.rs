//! A program that was built without desktop notifications rings the bell at most.

pub(super) fn tell(_group: String, _count: usize) {}
