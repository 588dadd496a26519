//! Exchanges as data: transcripts, the traps they stand for, what memory they hold, and arbitrary sequences of messages.

mod heap;
mod message;
mod properties;
mod routes;
mod scene;
mod shares;
mod transcripts;
mod traps;
mod unreadable;
