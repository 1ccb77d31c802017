//! From the start of the container to the end of the machine.
