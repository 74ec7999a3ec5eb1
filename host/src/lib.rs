//! qhost
