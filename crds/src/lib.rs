//! The inference CRDs as Rust types, and as the YAML that a cluster installs.
//!
//! Upstream is the Gateway API Inference Extension; its schemas stand in `tests/upstream`, and a test compares ours
//! with them field by field. `cargo run -p crds --bin crdgen` writes `yaml/`.

pub mod inference_pool;
pub mod manifest;

pub use inference_pool::{InferencePool, InferencePoolSpec, InferencePoolStatus};
