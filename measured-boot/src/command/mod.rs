//! One module for each subcommand.

pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod predict;
pub(crate) mod replay;
pub(crate) mod verify;
