//! The route table against the sentences of the Gateway API, and against a plain reading of them.

mod cases;
mod changes;
mod naive;
mod property;
