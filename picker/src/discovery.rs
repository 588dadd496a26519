//! Discovery: which pools there are, and which endpoints each has.

pub(crate) mod engines;
pub mod file;
pub mod kubernetes;
pub mod listing;
