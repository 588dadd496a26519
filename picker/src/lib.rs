//! The world around the decisions.
