//! Every call into the kernel that needs `unsafe`, one thin wrapper each.
