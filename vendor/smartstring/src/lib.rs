//! Nothing. rhai depends on the crate `smartstring` whatever its features, and with `compact_str` uses none of it; the real one is
//! under the MPL, which this project's dependencies are not to be. Should rhai ever use it again, the build fails here.
#![no_std]
