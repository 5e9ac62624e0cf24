//! The 4.x transport.
