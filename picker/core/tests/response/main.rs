//! Responses as they pass: what they tell, and the model's name put back.

mod progress;
mod recorded;
mod rename;
