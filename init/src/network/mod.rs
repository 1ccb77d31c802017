//! One network interface, configured once.
