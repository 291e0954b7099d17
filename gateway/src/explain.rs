//! Why a request gets the answer it gets.

pub mod probe;
