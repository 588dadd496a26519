//! The inference CRDs.
