//! Discovery: which pools there are, and which endpoints each has.

pub mod file;
pub mod kubernetes;
