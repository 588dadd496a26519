//! Requests as they come: bodies of each API, whole and cut anywhere, and model names put in their place.

mod any;
mod bodies;
mod frames;
mod splices;
