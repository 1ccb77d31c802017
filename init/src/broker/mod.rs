//! The client of the key broker.
