//! laggards
