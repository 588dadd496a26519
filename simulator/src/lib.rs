//! Model servers, workloads, a load generator, virtual time and the demo.

pub mod engine;
pub mod workload;
pub mod policy;
pub mod virtual_time;
pub mod bench;
pub mod envoy;
pub mod serve;
pub mod noop;
pub mod pointsman;
pub mod load;
pub mod edge;
pub mod demo;
pub mod restart;
