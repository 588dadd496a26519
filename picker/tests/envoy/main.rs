//! A real Envoy in front of simulated vLLM servers, asking the picker where each request goes.

mod bodies;
mod failures;
mod following;
mod modes;
mod placing;
mod priorities;
mod restarts;
mod rewriting;
mod scene;
mod security;
mod streams;
