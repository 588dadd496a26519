//! The inference CRDs as Rust types, and as the YAML that a cluster installs.
//!
//! Upstream is the Gateway API Inference Extension and llm-d's router; their schemas stand in `tests/upstream`, and a
//! test compares ours with them field by field. `cargo run -p crds --bin crdgen` writes `yaml/`.

pub mod inference_pool;
pub mod inference_pool_import;
pub mod inference_objective;
pub mod inference_model_rewrite;
pub mod pool_reference;
pub mod manifest;

mod syntax;

pub use inference_model_rewrite::{InferenceModelRewrite, LegacyInferenceModelRewrite};
pub use inference_objective::{InferenceObjective, LegacyInferenceObjective};
pub use inference_pool::{InferencePool, InferencePoolSpec, InferencePoolStatus};
pub use inference_pool_import::InferencePoolImport;
pub use pool_reference::PoolReference;
